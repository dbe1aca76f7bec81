"""SeedVR2: the decoder goes through a video one latent frame at a time, two at the beginning."""

from __future__ import annotations

import torch

from . import facts
from .family import Family
from .recipe import Hooked


def needed(model: torch.nn.Module, size: tuple[int, int, int], itemsize: int) -> int:
    """See `Recipe`. What the modules hold, played through without data, in bytes for each pixel in a dtype of 16 bits:
    of two pieces of four frames as much as of all. ComfyUI's estimate is 160 for each frame, too little for short ones.
    """
    frames, height, width = size
    return int(height * width * itemsize / 2 * min(21_550, 5550 + 2450 * (frames - 1)))


# The model then crops its frames to even sizes, which those that it makes are already.
EXACT = Hooked(lambda model: model.decoder.conv_out, frames_per_slot=4, tried_frames=4, needed=needed)
FAMILIES = (
    Family(
        "SeedVR2",
        lambda vae: facts.model_name(vae) == "comfy.ldm.seedvr.vae.VideoAutoencoderKLWrapper",
        EXACT,
    ),
)
