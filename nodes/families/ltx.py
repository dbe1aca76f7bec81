"""LTX-Video and LTX-2: the VAE writes each piece of the video into ComfyUI's buffer as it decodes it.

What its convolutions remember between pieces are views of whole pieces, which they keep in memory; in copies it takes a
third less of it in all: on an H100, 5.4 GB in the place of 8.7 for 121 frames of 1280x704.
"""

from __future__ import annotations

import torch

from ..comfyui import vaes
from .family import Family
from .ways import Buffered, all_exact


def caching(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The modules that remember something from one piece to the next."""
    return [module for module in model.modules() if isinstance(vars(module).get("temporal_cache_state"), dict)]


# A piece is at most 128 MiB of the last layer's input, 9 frames of 1280x704.
EXACT = Buffered(frames_per_slot=4, caching=caching)
FAMILIES = (
    Family(
        "LTX",
        lambda vae: vaes.model_name(vae) == "comfy.ldm.lightricks.vae.causal_video_autoencoder.VideoVAE",
        all_exact(EXACT),
        size=vaes.size_of_buffer,
        channels=128,
        models={"LTX-Video": 24, "LTX-2": 25, "LTX-2.3": 24},
    ),
)
