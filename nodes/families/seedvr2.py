"""SeedVR2: the decoder goes through a video one latent frame at a time, two at the beginning."""

from __future__ import annotations

from ..comfyui import vaes
from .family import Family
from .ways import Exact, all_exact

# The model then crops its frames to even sizes, which those that it makes are already.
EXACT = Exact(lambda model: model.decoder.conv_out, frames_per_slot=4, tried_frames=4)
FAMILIES = (
    Family(
        "SeedVR2",
        lambda vae: vaes.model_name(vae) == "comfy.ldm.seedvr.vae.VideoAutoencoderKLWrapper",
        all_exact(EXACT),
    ),
)
