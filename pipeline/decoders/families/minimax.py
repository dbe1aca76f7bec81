"""MiniMax H3, of ComfyUIs whose model has no buffer of its own to decode into."""

from __future__ import annotations

from typing import Any

import torch

from .. import minimax
from . import facts
from .family import Family
from .recipe import Hooked


def _size(vae: Any, latent: torch.Tensor) -> tuple[int, int, int] | None:
    """From the model's own plan: ComfyUI's ratio is for the lengths that it makes itself, 5 n + 2."""
    by_ratios = facts.size_by_ratios(vae, latent)
    if latent.ndim != 5 or by_ratios is None:
        return by_ratios
    try:
        _, _, frames = minimax.plan(vae.first_stage_model, latent.shape[2])
    except (AttributeError, TypeError):  # another model than is known
        return None
    return latent.shape[0] * frames, *by_ratios[1:]


# 17 frames come at a time: four slots take them.
EXACT = Hooked(None, frames_per_slot=5, own_loop=minimax.decode, tried_frames=12)
FAMILIES = (
    Family(
        "MiniMax H3",
        lambda vae: facts.model_name(vae) == "comfy.ldm.minimax.vae.MiniMaxH3VideoVAE",
        EXACT,
        size=_size,
    ),
)
