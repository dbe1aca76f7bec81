"""CogVideoX: the decoder goes through a video four frames at a time once its temporal upsampling is done."""

from __future__ import annotations

import torch

from ..comfyui import vaes
from .family import Family
from .ways import Exact, all_exact


def _size(vae, latent: torch.Tensor) -> tuple[int, int, int] | None:
    """Of an even number of latent frames none is dropped, other than ComfyUI's ratio says."""
    size = vaes.size_by_ratios(vae, latent)
    if size is None or latent.ndim != 5 or latent.shape[2] % 2:
        return size
    return latent.shape[0] * latent.shape[2] * 4, *size[1:]


# The layer gives its frames and what its convolution remembers.
EXACT = Exact(lambda model: model.decoder.conv_out, frames_per_slot=4, tried_frames=3)
FAMILIES = (
    Family(
        "CogVideoX",
        lambda vae: vaes.model_name(vae) == "comfy.ldm.cogvideo.vae.AutoencoderKLCogVideoX",
        all_exact(EXACT),
        size=_size,
    ),
)
