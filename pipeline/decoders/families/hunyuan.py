"""HunyuanVideo 1.0, also Kandinsky 5's, and 1.5.

From behind its middle on, the decoder goes through a video two latent frames at a time. Its last layer puts out eight
frames each time, and five at the beginning. The model joins them; with nothing left to join it gives None.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from . import facts
from .family import Family
from .recipe import Hooked


def _is_10(vae: Any) -> bool:
    """One whose decoder carries its convolutions' past from piece to piece; the same classes are those of images."""
    decoder = facts.decoder_of(vae)
    carries = getattr(decoder, "carried", False) and not getattr(decoder, "tanh_out", True)
    return carries and facts.decoder_name(vae) == "comfy.ldm.modules.diffusionmodules.model.Decoder"


def _is_15(vae: Any) -> bool:
    """The video VAE, not the refiner of HunyuanImage, which decodes all at once."""
    in_pieces = getattr(facts.decoder_of(vae), "refiner_vae", False)
    return in_pieces and facts.decoder_name(vae) == "comfy.ldm.hunyuan_video.vae_refiner.Decoder"


def _needed(
    at_once: int, in_pieces: int, in_front: float
) -> Callable[[torch.nn.Module, tuple[int, int, int], int], int]:
    """See `Recipe`. In bytes for each pixel, in a dtype of 16 bits: of a short video for each frame; of a longer one
    for a piece with what the convolutions remember, and for each frame, of which all pass the layers in front at once.
    """

    def needed(model: torch.nn.Module, size: tuple[int, int, int], itemsize: int) -> int:
        frames, height, width = size
        return int(height * width * itemsize / 2 * min(at_once * frames, in_pieces + in_front * frames))

    return needed


# What the modules hold, played through without data. With `GAPS_WITHOUT_PAUSES` it is 13 % more than an H100 took in
# float16, 16.8 GB for 121 frames of 1280x704 and 1.66 GB for 361 of 384x224, where ComfyUI's estimate is 26.0 and 2.5.
NEEDED_15 = _needed(1350, 15_300, 2)
# 1.0 took more beside that: 2.9 GB for 384x224 in bfloat16. ComfyUI's estimate is 3.9.
NEEDED_10 = _needed(2750, 25_000, 4.2)


def _hooked(needed: Callable) -> Hooked:
    """Slots of half a piece: two of them take what comes at a time."""
    return Hooked(lambda model: model.decoder.conv_out, frames_per_slot=4, tried_frames=5, needed=needed)


FAMILIES = (
    Family("HunyuanVideo 1.5", _is_15, _hooked(NEEDED_15), models={"HunyuanVideo 1.5": 24}),
    Family("HunyuanVideo", _is_10, _hooked(NEEDED_10), models={"HunyuanVideo": 24}),
)
