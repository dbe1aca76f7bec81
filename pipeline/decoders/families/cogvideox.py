"""CogVideoX: the decoder goes through a video four frames at a time once its temporal upsampling is done."""

from __future__ import annotations

from typing import Any

import torch

from . import facts
from .family import Family
from .recipe import Hooked


def _size(vae: Any, latent: torch.Tensor) -> tuple[int, int, int] | None:
    """Of an even number of latent frames none is dropped, other than ComfyUI's ratio says."""
    size = facts.size_by_ratios(vae, latent)
    if size is None or latent.ndim != 5 or latent.shape[2] % 2:
        return size
    return latent.shape[0] * latent.shape[2] * 4, *size[1:]


# The layer gives its frames and what its convolution remembers.
EXACT = Hooked(lambda model: model.decoder.conv_out, frames_per_slot=4, tried_frames=3)
FAMILIES = (
    Family(
        "CogVideoX",
        lambda vae: facts.model_name(vae) == "comfy.ldm.cogvideo.vae.AutoencoderKLCogVideoX",
        EXACT,
        size=_size,
    ),
)
