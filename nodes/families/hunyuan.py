"""HunyuanVideo 1.0, also Kandinsky 5's, and 1.5.

From behind its middle on, the decoder goes through a video two latent frames at a time. Its last layer puts out eight
frames each time, and five at the beginning. The model joins them; with nothing left to join it gives None.
"""

from __future__ import annotations

from ..comfyui import vaes
from .family import Family
from .ways import Exact, all_exact


def _is_10(vae) -> bool:
    """One whose decoder carries its convolutions' past from piece to piece; the same classes are those of images."""
    decoder = vaes.decoder_of(vae)
    carries = getattr(decoder, "carried", False) and not getattr(decoder, "tanh_out", True)
    return carries and vaes.decoder_name(vae) == "comfy.ldm.modules.diffusionmodules.model.Decoder"


def _is_15(vae) -> bool:
    """The video VAE, not the refiner of HunyuanImage, which decodes all at once."""
    in_pieces = getattr(vaes.decoder_of(vae), "refiner_vae", False)
    return in_pieces and vaes.decoder_name(vae) == "comfy.ldm.hunyuan_video.vae_refiner.Decoder"


# Slots of half a piece: two of them take what comes at a time.
EXACT = Exact(lambda model: model.decoder.conv_out, frames_per_slot=4, tried_frames=5)
FAMILIES = (
    Family("HunyuanVideo 1.5", _is_15, all_exact(EXACT)),
    Family("HunyuanVideo", _is_10, all_exact(EXACT)),
)
