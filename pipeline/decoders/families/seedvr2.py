"""SeedVR2: the decoder goes through a video one latent frame at a time, two at the beginning."""

from __future__ import annotations

from . import facts
from .family import Family
from .recipe import Hooked

# The model then crops its frames to even sizes, which those that it makes are already.
EXACT = Hooked(lambda model: model.decoder.conv_out, frames_per_slot=4, tried_frames=4)
FAMILIES = (
    Family(
        "SeedVR2",
        lambda vae: facts.model_name(vae) == "comfy.ldm.seedvr.vae.VideoAutoencoderKLWrapper",
        EXACT,
    ),
)
