"""The families of VAEs, each with its ways to decode; what they are is in pipeline/decoders/families."""

from __future__ import annotations

from ...pipeline.decoders import families as known
from ...pipeline.text import Text
from ..comfyui import vaes
from ..comfyui.tiling import Tiling
from . import ltx, tiled, wan
from .family import Family, Job, Output
from .ways import LATE, STOCK, TILED, streamed

# Families that have a faster way than by their own modules.
FASTER = {family.name: wan.FASTER for family in known.wan.FAMILIES} | {
    family.name: ltx.FASTER for family in known.ltx.FAMILIES
}
FAMILIES = tuple(streamed(family, FASTER.get(family.name, ())) for family in known.FAMILIES)
CHUNKED = streamed(known.CHUNKED)
# Every other VAE there is: images, sound, other video models.
OTHER = Family("other", lambda vae: True, (LATE, TILED, STOCK))
_BY_NAME = {family.name: family for family in (*FAMILIES, CHUNKED)}


def of(vae) -> Family:
    """The family that a VAE is of."""
    family = known.of(vae)
    return OTHER if family is None else _BY_NAME.get(family.name, OTHER)


def names(conjunction: str) -> str:
    """Whose VAEs are streamed, for sentences: "Wan 2.1, Wan 2.2 or others"."""
    *most, last = [family.name for family in FAMILIES]
    return f"{', '.join(most)} {conjunction} {last}"


def search_words() -> list[str]:
    """By which a node that decodes is looked for."""
    return [f"{family.name.lower()} vae" for family in FAMILIES]


def frame_rates() -> str:
    """What models make, for sentences: "Wan 2.1: 16, Wan 2.2 5B: 24"."""
    return ", ".join(f"{model}: {fps}" for family in FAMILIES for model, fps in family.models.items())


def job(vae, samples: dict, decoder: str, output: Output, tiling: Tiling | None = None) -> Job:
    """A decode to be done; for the errors see `check`."""
    check(vae, samples)
    family = of(vae)
    if tiling is not None:
        return Job(vae, samples, tiled.NAME, output, tiled.in_tiles(family, tiling), tiling)
    return Job(vae, samples, decoder, output, family, reason=_why_unknown(vae) if family is OTHER else "")


def _why_unknown(vae) -> Text:
    kind = type(getattr(vae, "first_stage_model", vae)).__name__
    return Text("%kind% is not a VAE of %families%", kind=kind, families=", ".join(each.name for each in FAMILIES))


def check(vae, samples: dict) -> None:
    """Refuse, before anything is loaded, a latent this VAE cannot decode.

    Raises:
        ValueError: what is in `samples` is no latent, `vae` is no VAE, or the VAE of a known model was given a video
            latent with another number of channels.
    """
    vaes.check(vae, samples)
    latent, family = vaes.latent_of(samples), of(vae)
    if family.channels is None or latent.ndim != 5 or latent.shape[1] == vae.latent_channels:
        return
    known = "".join(
        f", as latents of {', '.join(each.models)} have, which need the {each.name} VAE"
        for each in FAMILIES
        if each.channels == latent.shape[1]
    )
    raise ValueError(
        "Load the VAE that belongs to the model the latent came from: this one decodes "
        f"{vae.latent_channels} channels, the latent has {latent.shape[1]}{known}."
    )


def size_of(vae, samples: dict, tiling: Tiling | None = None) -> tuple[int, int, int] | None:
    """(frames, height, width) that decoding will give, or None where only decoding tells."""
    family = of(vae) if tiling is None else tiled.in_tiles(of(vae), tiling)
    return family.size(vae, vaes.latent_of(samples))
