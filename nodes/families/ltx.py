"""LTX-Video and LTX-2: the VAE writes each piece of the video into ComfyUI's buffer as it decodes it.

What its convolutions remember between pieces are views of whole pieces, which they keep in memory; in copies it takes
half of it: on an H100, beside the weights, 2.9 GB in the place of 6.2 for 121 frames of 1280x704.

On NVIDIA GPUs a decoder of our own over the same weights comes first, for VAEs from 0.9.5 on: see `wan`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ...pipeline.decoders.fast import ltx, ltx_weights, trust
from ...pipeline.decoders.fast.ltx import LtxDecoder
from ...pipeline.decoders.fast.plan import NoRoom, Plan
from ...pipeline.decoders.fast.weights import DTYPES
from ...pipeline.text import Text, gib
from ..comfyui import memory, vaes
from .family import Family, Job, Way
from .wan import FastModel, loaded, planned, said, why_not_fast, why_not_wanted
from .ways import Buffered, all_exact, spec_of, why_not_streamed


def caching(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The modules that remember something from one piece to the next."""
    return [module for module in model.modules() if isinstance(vars(module).get("temporal_cache_state"), dict)]


# As many channels as the last layers of the published decoders have, which the figures below are of.
CHANNELS = 128
# What the decoder holds of a short video, worked on at once, in bytes for each pixel of each frame, and of
# one more, in a dtype of 16 bits; and of what its last layer puts out, which is as much however few channels it has.
AT_ONCE, PUT_OUT = 110, 12
# Of a longer one: what it works on at a time, pieces of at most 128 MiB, and what the last layer makes of one; and for
# each pixel what its convolutions remember, and what its first layers have of each frame. Up to 6 % above what was
# measured on an H100 in bfloat16 for 121 and 241 frames of 1280x704, and 121 of 1920x1088: 2.94, 3.24 and 5.32 GB.
WORKING, LAST_LAYER, REMEMBERED, FIRST_LAYERS = 1_242_000_000, 123_000_000, 1500, 3.3


def needed(model: torch.nn.Module, size: tuple[int, int, int], itemsize: int) -> int:
    """See `Buffered`; with its caches in copies. ComfyUI's own estimate, 17 GB for the first of these, unloads other
    models in vain.
    """
    frames, height, width = size
    halves, channels = height * width * itemsize // 2, model.decoder.conv_out.in_channels / CHANNELS
    at_once = halves * (AT_ONCE * channels + PUT_OUT) * (frames + 1)
    in_pieces = WORKING + LAST_LAYER / channels + halves * channels * (REMEMBERED + FIRST_LAYERS * frames)
    return int(min(at_once, in_pieces))


# A piece is 9 frames of 1280x704 of *exact*, and mostly 16 of *fast*.
FRAMES_PER_SLOT = 4
# Devices on which it is not given: on a CPU nobody has looked at whether it is faster.
LEFT_AS_THEY_ARE = ("cpu",)


def _is_set_otherwise(model: torch.nn.Module) -> bool:
    """Whether somebody changed what the weights were laid out for: which timestep, and how much noise."""
    config = getattr(model, "config", {})
    wanted = config.get("decode_timestep", 0.05), config.get("decode_noise_scale", 0.025)
    return wanted != (getattr(model, "decode_timestep", None), getattr(model, "decode_noise_scale", None))


class FastLtx(FastModel):
    """`ltx_weights.Weights`."""

    def __init__(self, vae):
        super().__init__(vae)
        self._vae_dtype = vae.vae_dtype
        self._needed: dict[tuple[int, int], int] = {}

    def read(self, vae):
        model = vae.first_stage_model
        return ltx_weights.load(model.state_dict(), getattr(model, "config", {}), vae.device, DTYPES[vae.device.type])

    def frames(self, latent: torch.Tensor) -> Iterator[torch.Tensor]:
        noise = self.weights.noise
        if noise:  # drawn as the VAE's model does
            latent = latent.to(self._vae_dtype)
            latent = torch.randn_like(latent) * noise + (1.0 - noise) * latent
        return LtxDecoder(self.weights).push(latent, last=True)

    def plan(self, height: int, width: int, bands: object) -> Plan:
        """There is one plan for all memory, without bands."""
        size = height, width
        if size not in self._needed:
            self._needed[size] = ltx.needed(self.weights, height, width, memory.allocator_joins())
        return Plan((), self._needed[size], 0)


class FastInGroups(Way):
    """Our own decoder, where all of what it takes fits into the GPU's memory."""

    name = "fast"

    def why_not(self, job: Job) -> str | None:
        reason = why_not_wanted(job)
        if reason is None and job.vae.device.type in LEFT_AS_THEY_ARE:
            reason = Text("there is no fast decoder for %device%", device="LTX on a CPU")
        reason = reason or why_not_streamed(job, into_buffer=True) or why_not_fast(job.vae)
        return reason or (vaes.REPLACED if _is_set_otherwise(job.vae.first_stage_model) else None)

    def decode(self, job: Job) -> None:
        def decode(submit):
            vae, latent = job.vae, job.latent
            model = loaded(vae, FastLtx)
            there = memory.room(vae, model.patcher)
            chosen = planned(model, latent, there)
            if chosen.needed > there.emptied:
                raise NoRoom(
                    Text(
                        "it needs at least %needed% GiB of GPU memory and %away% of main memory, "
                        "there are %free% and %main%",
                        needed=gib(chosen.needed),
                        away=gib(0),
                        free=gib(max(0, there.emptied)),
                        main=gib(there.main),
                    )
                )
            memory.load_whole(model.patcher, chosen.needed)
            job.output.decoded.how = said(chosen, there)
            # ComfyUI decodes none of these VAEs in float16: whether their layers stay in its range, nobody has said.
            for frames_cthw in trust.finite(model.frames(latent.to(vae.device))):
                submit(frames_cthw)

        job.output.stream(decode, spec_of(job), FRAMES_PER_SLOT, None)


EXACT = Buffered(frames_per_slot=FRAMES_PER_SLOT, caching=caching, needed=needed, pausing=(WORKING + LAST_LAYER) // 2)
FAMILIES = (
    Family(
        "LTX",
        lambda vae: vaes.model_name(vae) == "comfy.ldm.lightricks.vae.causal_video_autoencoder.VideoVAE",
        (FastInGroups(), *all_exact(EXACT)),
        size=vaes.size_of_buffer,
        channels=128,
        models={"LTX-Video": 24, "LTX-2": 25, "LTX-2.3": 25},
    ),
)
