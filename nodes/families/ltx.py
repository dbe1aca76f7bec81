"""LTX-Video and LTX-2: on NVIDIA GPUs a decoder of our own over the VAE's weights, from 0.9.5 on; see `wan`."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ...pipeline.decoders.fast import ltx, ltx_weights, trust
from ...pipeline.decoders.fast.ltx import LtxDecoder
from ...pipeline.decoders.fast.plan import Plan, no_room
from ...pipeline.decoders.fast.weights import DTYPES
from ...pipeline.text import Text
from ..comfyui import memory, vaes
from .family import Job, Way
from .wan import FastModel, loaded, planned, said, why_not_fast, why_not_wanted
from .ways import spec_of, why_not_streamed

# Pieces are mostly of 16 frames.
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
                raise no_room(chosen, there.emptied, there.main)
            memory.load_whole(model.patcher, chosen.needed)
            job.output.decoded.how = said(chosen, there)
            # ComfyUI decodes none of these VAEs in float16: whether their layers stay in its range, nobody has said.
            for frames_cthw in trust.finite(model.frames(latent.to(vae.device))):
                submit(frames_cthw)

        job.output.stream(decode, spec_of(job), FRAMES_PER_SLOT, None)


# Before `exact`.
FASTER = (FastInGroups(),)
