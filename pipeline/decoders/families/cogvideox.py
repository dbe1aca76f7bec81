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


def needed(model: torch.nn.Module, size: tuple[int, int, int], itemsize: int) -> int:
    """See `Recipe`. What the modules hold, played through without data, in bytes for each pixel in a dtype of 16 bits:
    of a longer video most of it is of the layers in front of the last upsampling, which all frames pass at once.
    ComfyUI's estimate for 49 frames of 720x480, 95 GB, is of all layers so.
    """
    frames, height, width = size
    latent_frames = (frames + 3) / 4
    each = 2600 if frames == 1 else max(20_900 + 515 * max(0.0, latent_frames - 2), 1730 * latent_frames)
    return int(height * width * itemsize / 2 * each)


# The layer gives its frames and what its convolution remembers.
EXACT = Hooked(lambda model: model.decoder.conv_out, frames_per_slot=4, tried_frames=3, needed=needed)
FAMILIES = (
    Family(
        "CogVideoX",
        lambda vae: facts.model_name(vae) == "comfy.ldm.cogvideo.vae.AutoencoderKLCogVideoX",
        EXACT,
        size=_size,
    ),
)
