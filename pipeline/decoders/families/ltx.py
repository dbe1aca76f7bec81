"""LTX-Video and LTX-2: the VAE writes each piece of the video into ComfyUI's buffer as it decodes it.

What its convolutions remember between pieces are views of whole pieces, which they keep in memory; in copies it takes
half of it: on an H100, beside the weights, 2.9 GB in the place of 6.2 for 121 frames of 1280x704.
"""

from __future__ import annotations

from typing import Any

import torch

from . import facts
from .family import Family
from .recipe import Buffered


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
    """See `Recipe`; with its caches in copies. ComfyUI's own estimate, 17 GB for the first of these, unloads other
    models in vain.
    """
    frames, height, width = size
    halves, channels = height * width * itemsize // 2, model.decoder.conv_out.in_channels / CHANNELS
    at_once = halves * (AT_ONCE * channels + PUT_OUT) * (frames + 1)
    in_pieces = WORKING + LAST_LAYER / channels + halves * channels * (REMEMBERED + FIRST_LAYERS * frames)
    return int(min(at_once, in_pieces))


def config(model: torch.nn.Module) -> dict[str, object]:
    """Versions differ in it, and have weights of the same names. Nodes may have set what it says of noise otherwise."""
    own: dict[str, Any] = {**model.config}
    for name in ("decode_timestep", "decode_noise_scale"):
        own[name] = getattr(model, name, own.get(name))
    return {"vae": own}


# A piece is 9 frames of 1280x704.
EXACT = Buffered(frames_per_slot=4, caching=caching, needed=needed, pausing=(WORKING + LAST_LAYER) // 2)
FAMILIES = (
    Family(
        "LTX",
        lambda vae: facts.model_name(vae) == "comfy.ldm.lightricks.vae.causal_video_autoencoder.VideoVAE",
        EXACT,
        size=facts.size_of_buffer,
        channels=128,
        models={"LTX-Video": 24, "LTX-2": 25, "LTX-2.3": 25},
        config=config,
    ),
)
