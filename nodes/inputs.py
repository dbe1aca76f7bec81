"""The inputs that several decode nodes have."""

from __future__ import annotations

from comfy_api.latest import io

from . import families, values
from .comfyui.tiling import Tiling
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


def video_inputs(fps: float) -> list[io.Input]:
    """What Create Video has, with a frame rate to begin with."""
    return [
        io.Float.Input(
            "fps",
            default=fps,
            min=0.01,
            max=1000.0,
            step=0.001,
            tooltip=f"Frames per second. {families.frame_rates()}.",
        ),
        io.Audio.Input(
            "audio",
            optional=True,
            tooltip="Sound for the video; cut, or padded with silence, to its length when saved.",
        ),
        io.Int.Input(
            "bit_depth",
            optional=True,
            default=8,
            min=8,
            max=10,
            step=2,
            tooltip="Bits per colour in saved files. 10 keeps gradients smoother; some players cannot show it.",
        ),
    ]


def save_latents_first_input() -> io.Boolean.Input:
    return io.Boolean.Input(
        "save_latents_first",
        optional=True,
        advanced=True,
        default=False,
        tooltip="Write the latents into the input folder before decoding, for runs that may be killed. The "
        "file is removed when the video is complete. After an error they are saved in any case.",
    )


# The least and the most of each, as VAE Decode (Tiled) has them, and its steps.
TILES = {
    "tile_size": (64, 4096, 32),
    "overlap": (0, 4096, 32),
    "temporal_size": (8, 4096, 4),
    "temporal_overlap": (4, 4096, 4),
}


def tile_inputs() -> list[io.Int.Input]:
    """Those of VAE Decode (Tiled), which marks them as advanced: they are what this node is for."""
    tooltips = {
        "tile_size": "Pixels of a tile across and down. Smaller ones take less memory, more time and have more seams.",
        "overlap": "Pixels that tiles share, where one fades into the next; at most a quarter of a tile.",
        "temporal_size": "Frames that are decoded at a time. With as many as the video has, its tiles are decoded side "
        "by side, and there are no seams in time.",
        "temporal_overlap": "Frames that these stretches share; at most half of one.",
    }
    default = Tiling()
    return [
        io.Int.Input(name, default=getattr(default, name), min=low, max=high, step=step, tooltip=tooltips[name])
        for name, (low, high, step) in TILES.items()
    ]


def checked_tiling(*asked: object) -> Tiling:
    """The values of `tile_inputs`, as may come from another node; raise a ValueError for what they cannot be."""
    return Tiling(*(values.whole(name, value, *TILES[name][:2]) for name, value in zip(TILES, asked, strict=True)))
