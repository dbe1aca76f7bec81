"""Wan 2.1 and Wan 2.2: a decoder of our own over the weights of the VAE.

A fast decoder's weights are a model of ComfyUI's: loaded, counted and unloaded by it. They are read once from the
VAE's own module, laid out for the kernels, and wrapped in a plain `ModelPatcher`; so ComfyUI knows how much memory
they take and may send them back to main memory. They live as long as the VAE does, and all decodes with it share them.

Before its first use with a VAE it is compared with the VAE's own: see pipeline/decoders/fast/trust.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import weakref
from collections.abc import Iterator
from typing import Any

import torch

from ...pipeline import main_memory
from ...pipeline.decoders.away import Away
from ...pipeline.decoders.fast import cuda, trust, weights
from ...pipeline.decoders.fast import plan as plans
from ...pipeline.decoders.fast.network import FRAMES_PER_STEP, WanDecoder, steps
from ...pipeline.decoders.fast.plan import LESS, NoRoom, Plan, Room
from ...pipeline.decoders.fast.weights import DTYPES
from ...pipeline.text import Text, gib, seconds
from .. import random_numbers
from ..comfyui import memory, server
from .family import Job, Way
from .ways import spec_of, why_not_streamed

# By the VAE's module: its fast weights, or why it cannot have any.
_loaded: weakref.WeakKeyDictionary[torch.nn.Module, FastModel | str] = weakref.WeakKeyDictionary()

# A setting of the frontend, see web/js/lanes.js: "keep" and "unload" stand in the place of a choice by time.
OTHER_MODELS = "AsyncFramePipeline.OtherModels"
# What laying out the weights takes, for each byte of the VAE's.
LAYING_OUT = 3


class _NoVerdict(ValueError):
    """The comparison has no result, which may be another one next time."""


class FastModel(torch.nn.Module):
    """Holds every tensor of a fast decoder's weights as a parameter, so that `.to` moves them all, in place."""

    def __init__(self, vae):
        super().__init__()
        # Laid out on the GPU, where that takes milliseconds; then ComfyUI decides where they stay.
        self.weights: Any = _as_parameters(self.read(vae), self)
        if vae.device.type != "cpu":
            for parameter in self.parameters():
                parameter.data = main_memory.copied(parameter.data)
        self.patcher = memory.static_patcher(self, vae)
        # RMS, of the comparison; see `_compared`.
        self.difference = math.nan
        # Not `device`: a ModelPatcher calls so where a model is.
        self.runs_on = vae.device

    def read(self, vae):
        """The weights, on the VAE's device."""
        raise NotImplementedError

    def frames(self, latent: torch.Tensor) -> Iterator[torch.Tensor]:
        """Decode (1, C, T, h, w) with all of the memory there is: (3, t, H, W) float32 pieces."""
        raise NotImplementedError


class FastWan(FastModel):
    """`weights.Weights`."""

    def __init__(self, vae):
        super().__init__(vae)
        self.plan = plans.Plans(self.weights, memory.allocator_joins()).of

    def read(self, vae):
        return weights.load(vae.first_stage_model.state_dict(), vae.device, DTYPES[vae.device.type])

    def frames(self, latent: torch.Tensor) -> Iterator[torch.Tensor]:
        return steps(WanDecoder(self.weights), latent)


def why_not_fast(vae) -> str | None:
    """Why this VAE, which can be streamed, cannot be decoded fast here; None if it can."""
    if vae.device.type not in DTYPES:
        return Text("there is no fast decoder for %device%", device=f"'{vae.device}'")
    reason = cuda.why_not(vae.device) if vae.device.type == "cuda" else None
    if reason is not None:
        return reason
    if vae.patcher.patches:
        return Text("the VAE's weights are patched")
    if "forward" in vars(vae.first_stage_model.decoder):
        return Text("another node or pack replaced the VAE's decoder")
    known = _loaded.get(vae.first_stage_model)
    return known if isinstance(known, str) else None


def verdict(vae) -> float | str | None:
    """What is known of the fast decoder with this VAE: the RMS difference to its own, why it cannot be used, or None
    where they were not compared yet, which takes time on the GPU.
    """
    known = _loaded.get(vae.first_stage_model)
    return known.difference if isinstance(known, FastModel) else known


def why_not_wanted(job: Job) -> str | None:
    """Why a fast decoder is not what the user wants; None if it is."""
    if job.decoder == "exact":
        return Text("exact was asked for")
    if job.decoder == "auto" and job.vae.device.type == "cuda" and memory.float32_was_asked_for():
        return Text("float32 was asked for (--fp32-vae), and on a GPU fast is float16")
    return None


class Fast(Way):
    """Our own decoder: where it can run, with a tenth of the stock error; in bands and with main memory's help where
    the GPU has little.
    """

    name = "fast"

    def why_not(self, job: Job) -> str | None:
        return why_not_wanted(job) or why_not_streamed(job) or why_not_fast(job.vae)

    def decode(self, job: Job) -> None:
        job.plan = None
        self.run(job)

    def run(self, job: Job, below: int | None = None) -> None:
        """`below`: see `plan.choose`."""

        def decode(submit):
            vae, latent = job.vae, job.latent
            model = loaded(vae)
            there = memory.room(vae, model.patcher)
            chosen = job.plan = planned(model, latent, there, below)
            memory.load_whole(model.patcher, chosen.needed)
            with memory.away(vae.device) as away:
                decoder = WanDecoder(model.weights, chosen.bands, away)
                try:
                    for frames_cthw in steps(decoder, latent.to(vae.device)):
                        submit(frames_cthw)
                finally:  # a window may end before the video
                    job.output.decoded.how = said(chosen, there, away)

        job.output.stream(decode, spec_of(job), FRAMES_PER_STEP, None)


class FastWithLess(Fast):
    """`fast` once more, with all other models unloaded and less at a time."""

    after_out_of_memory = True

    def why_not(self, job: Job) -> str | None:
        return super().why_not(job) or (job.reason if job.plan is None else None)

    def decode(self, job: Job) -> None:
        job.warn(
            Text(
                "out of memory after %seconds% s, starting again in smaller bands, with other models unloaded",
                seconds=f"{job.seconds:.1f}",
            )
        )
        memory.make_room()
        self.run(job, below=int(job.plan.needed * LESS))


def planned(model, latent: torch.Tensor, there: Room, below: int | None = None) -> Plan:
    """How a latent is to be decoded.

    Raises:
        NoRoom: there is too little memory, whatever is done.
    """

    def choose(there: Room) -> Plan:
        return plans.choose(lambda bands: model.plan(*latent.shape[-2:], bands), there, latent.shape[2], below)

    if model.runs_on.type == "cpu":  # there is no other memory, and a model that is unloaded stays in it
        with contextlib.suppress(NoRoom):
            plan = choose(Room(there.free, there.free, 0))
            if plan.needed <= there.free:
                return plan
        raise NoRoom(Text("out of memory"))
    wish = server.setting(OTHER_MODELS)
    if wish == "keep":
        beside = choose(dataclasses.replace(there, emptied=there.free))
        if beside.needed <= there.free:
            return beside
    return choose(dataclasses.replace(there, free=there.emptied) if wish == "unload" else there)


def said(chosen: Plan, there: Room, away: Away | None = None) -> list[Text]:
    """What it took to fit, for the report."""
    texts = []
    if chosen.away and away is not None:
        texts.append(
            Text(
                "To fit into the GPU, frames were decoded in %bands% bands, with %away% GiB kept in main memory; "
                "waiting for that cost %seconds% s.",
                bands=str(chosen.count),
                away=gib(away.nbytes),
                seconds=seconds(away.waited_seconds()),
            )
        )
    elif chosen.bands:
        texts.append(Text("To fit into memory, frames were decoded in %bands% bands.", bands=str(chosen.count)))
    if chosen.needed > there.free:
        gone = gib(chosen.needed - max(0, there.free))
        texts.append(Text("To make room, at least %gone% GiB of other models were unloaded.", gone=gone))
    return texts


def loaded(vae, kind: type[FastModel] = FastWan) -> Any:
    """The VAE's fast weights, made and compared if they are not there yet.

    Raises:
        ValueError: the decoder is not right for this VAE; unless the comparison had no result, `why_not_fast` says so
            from now on.
    """
    module = vae.first_stage_model
    if module not in _loaded:
        try:
            _loaded[module] = _compared(vae, kind)
        except _NoVerdict:
            raise
        except ValueError as error:
            _loaded[module] = error.args[0]
            raise
    return _loaded[module]


def _compared(vae, kind: type[FastModel]) -> FastModel:
    """The VAE's fast weights, after a comparison with its own decoder.

    Raises:
        _NoVerdict: the comparison has no result, as the stock frames are no numbers.
        ValueError: they differ by more than rounding, or the weights are not what the fast decoder can take.
    """
    memory.make_room_for(LAYING_OUT * memory.size_of(vae), vae.device)
    noise = trust.noise(vae.latent_channels, vae.device)
    model = kind(vae)
    if vae.device.type == "cuda":
        model.plan(*noise.shape[-2:], ())  # runs on the meta device, where it is seen which kernels there will be
        cuda.begin(vae.device)  # they are compiled while the stock decoder runs
    memory.load_for_decoding(vae, noise)
    draw_again = random_numbers.remembered(vae)
    # Some models gather what they decoded in main memory.
    stock = vae.first_stage_model.decode(noise.to(vae.vae_dtype))[0].to(vae.device).float()
    memory.load_whole(model.patcher, 0)
    draw_again()
    ours = torch.cat(list(model.frames(noise)), dim=1)
    draw_again()  # as if nothing had been drawn
    difference = trust.difference(ours, stock)
    if difference <= trust.LARGEST_DIFFERENCE:
        model.difference = difference
        return model
    # What is no number in our frames alone is our decoder's, and would be there each time.
    error = ValueError if stock.isfinite().all() else _NoVerdict
    raise error(
        Text(
            "with this VAE its frames differ from the stock decoder's, by %difference% (RMS)",
            difference=f"{difference:.3g}",
        )
    )


def _as_parameters(value, module: torch.nn.Module):
    """`value` with each tensor in it replaced by a parameter that `module` owns."""
    if isinstance(value, torch.Tensor):
        parameter = torch.nn.Parameter(value, requires_grad=False)
        module.register_parameter(f"weight{len(module._parameters)}", parameter)
        return parameter
    if isinstance(value, (list, tuple)):
        return type(value)(_as_parameters(item, module) for item in value)
    if dataclasses.is_dataclass(value):
        fields = {field.name: _as_parameters(getattr(value, field.name), module) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    return value


# Before `exact`.
FASTER = (Fast(), FastWithLess())
