"""Wan 2.1 and Wan 2.2: the decoder goes through a video one latent frame at a time."""

from __future__ import annotations

import torch

from ..fast.network import unpatchify
from . import facts
from .family import Family
from .recipe import Hooked, Little


def last_layer(model: torch.nn.Module) -> torch.nn.Module:
    """The layer whose outputs are the frames: the head's last convolution, two frames at a time.

    A decoder whose `forward` was replaced or compiled may never call that layer as a module: then the
    decoder itself, whose outputs come in bursts of a whole chunk.
    """
    decoder = model.decoder
    return decoder if facts.is_wrapped(decoder) else decoder.head[-1]


def enlarging(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The modules whose outputs are larger than their inputs."""
    return [module for module in model.decoder.modules() if type(module).__name__ == "Resample"]


# Slots hold what the hook sees at a time: 2.1's decoder recurses in pieces of two frames, 2.2's puts out four.
# The bytes were measured on an H200, and are the same for each pixel from 832x480 to 1920x1088.
EXACT_21 = Hooked(last_layer, frames_per_slot=2, little=Little(4730, 4770, 3170, enlarging), tried_frames=2)
EXACT_22 = Hooked(
    last_layer,
    frames_per_slot=4,
    to_frames=lambda model, output: unpatchify(output[0]),
    little=Little(3570, 7330, 2420, enlarging),
    tried_frames=2,
)

FAMILIES = (
    Family(
        "Wan 2.1",
        lambda vae: facts.model_name(vae) == "comfy.ldm.wan.vae.WanVAE",
        EXACT_21,
        channels=16,
        models={"Wan 2.1": 16, "Wan 2.2 14B": 16},
    ),
    Family(
        "Wan 2.2",
        lambda vae: facts.model_name(vae) == "comfy.ldm.wan.vae2_2.WanVAE",
        EXACT_22,
        channels=48,
        models={"Wan 2.2 5B": 24},
    ),
)
