"""The inputs that both decode nodes have."""

from __future__ import annotations

from comfy_api.latest import io

from . import families
from .decoding import DECODERS


def samples_input() -> io.Latent.Input:
    return io.Latent.Input("samples", tooltip="The latent to be decoded.")


def vae_input() -> io.Vae.Input:
    return io.Vae.Input("vae", tooltip=f"The VAE used for decoding. {families.names('and')} VAEs are streamed.")


def decoder_input() -> io.Combo.Input:
    """After all others: saved workflows hold widgets by position."""
    return io.Combo.Input(
        "decoder",
        options=list(DECODERS),
        default=DECODERS[0],
        optional=True,
        advanced=True,
        tooltip=(
            "exact: the VAE's own code, the bits of VAE Decode. fast: our own over the same weights, several times as "
            "fast, on a GPU closer to float32 too. auto: fast where it can be used, else exact; the node says why."
        ),
    )
