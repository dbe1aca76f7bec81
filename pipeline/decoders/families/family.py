"""What a family of VAEs is: how it is recognised, and how its own modules are streamed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from . import facts
from .recipe import Recipe


@dataclass(frozen=True)
class Family:
    """VAEs that are decoded alike.

    Attributes:
        name: as users know it, "Wan 2.1".
        matches: whether a VAE is one.
        recipe: how it is streamed.
        size: (frames, height, width) of what a VAE makes of a latent; None where only decoding tells.
        channels: of its latents; given if a user is to be told of latents of another model.
        models: whose latents it decodes, and their frames per second: {"Wan 2.2 5B": 24}.
        weights: of the VAE's model, as a file has to hold them for ComfyUI to make the same VAE of it.
        config: what such a file has to say beside them, as `comfy.sd.VAE` looks for it in the JSON "config".
    """

    name: str
    matches: Callable[[object], bool]
    recipe: Recipe
    size: Callable[[object, torch.Tensor], tuple[int, int, int] | None] = facts.size_by_ratios
    channels: int | None = None
    models: dict[str, int] = field(default_factory=dict)
    weights: Callable[[torch.nn.Module], dict[str, torch.Tensor]] = lambda model: model.state_dict()
    config: Callable[[torch.nn.Module], dict[str, object]] = lambda model: {}
