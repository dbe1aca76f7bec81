"""TAEHV, also called TAEW and LightTAE: small VAEs for the latents of several video models.

Its decoder works through a video frame by frame, and through each frame layer by layer, so its last layer puts out one
frame at a time; the first few it then drops.
"""

from __future__ import annotations

from typing import Any

import torch

from . import facts
from .family import Family
from .recipe import Hooked


def _frames(model: torch.nn.Module, output: torch.Tensor) -> torch.Tensor:
    """(T, 3 * patch * patch, h, w) -> (3, T, H, W); T is 1 unless ComfyUI's module is told to decode all at once."""
    return torch.nn.functional.pixel_shuffle(output, model.patch_size).movedim(0, 1)


def _size(vae: Any, latent: torch.Tensor) -> tuple[int, int, int] | None:
    """From the layers: for LTX-2's, ComfyUI's ratios are those of another one."""
    if latent.ndim != 5:
        return facts.size_by_ratios(vae, latent)
    model = vae.first_stage_model
    try:
        scale = model.patch_size
        for layer in model.decoder:
            if isinstance(layer, torch.nn.Upsample):
                scale *= int(layer.scale_factor)
        frames = latent.shape[2] * model.t_upscale - model.frames_to_trim
    except (AttributeError, TypeError):  # another model than is known
        return None
    return latent.shape[0] * frames, latent.shape[3] * scale, latent.shape[4] * scale


def _weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """ComfyUI tells TAEHV for HunyuanVideo, which scales its latents first, by its weights' dtype from LightTAE."""
    weights = model.state_dict()
    if model.latent_channels != 16:
        return weights
    dtype = torch.float32 if model.latent_format is None else torch.float16
    return {name: weight.to(dtype) for name, weight in weights.items()}


EXACT = Hooked(
    lambda model: model.decoder[-1],
    frames_per_slot=4,
    to_frames=_frames,
    dropped_frames=lambda model: model.frames_to_trim,
    tried_frames=2,
)
FAMILIES = (
    Family(
        "TAEHV", lambda vae: facts.model_name(vae) == "comfy.taesd.taehv.TAEHV", EXACT, size=_size, weights=_weights
    ),
)
