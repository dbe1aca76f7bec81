"""How ComfyUI decodes in tiles when it is asked to, and whether ours may be put in their place."""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace

import comfy.utils
import torch

import nodes as core_nodes

from ...pipeline.decoders import tiles
from ...pipeline.decoders.families import facts
from ...pipeline.decoders.tiles import Plan
from ...pipeline.text import Text
from . import vaes

# Latents of a tile, below which a decoder's convolutions have too little to see.
SMALLEST = 4
# What `VAE.decode_tiled_3d` takes where a VAE does not say how many frames a latent frame makes.
ALL_OF_TIME, OVERLAP_IN_TIME = 999, 1


@dataclass(frozen=True)
class Tiling:
    """What VAE Decode (Tiled) is told, in pixels and frames; see its inputs."""

    tile_size: int = 512
    overlap: int = 64
    temporal_size: int = 64
    temporal_overlap: int = 8

    def smaller(self, vae, times: int) -> Tiling | None:
        """Tiles of a fraction of the size; None where that would be too small for the VAE."""
        size = self.tile_size // times
        return replace(self, tile_size=size) if size >= SMALLEST * vae.spacial_compression_decode() else None


def plan(vae, latent: torch.Tensor, tiling: Tiling) -> Plan | None:
    """The tiles of one video; None where ComfyUI does something else than add tiles of a video up: with images and
    sound, and where a VAE has tiles of its own.
    """
    own = getattr(vae, "handles_tiling", False) or getattr(vae, "extra_1d_channel", None) is not None
    if latent.ndim != 5 or own or getattr(vae, "latent_dim", None) != 3:
        return None
    tile, overlap = _in_latents(vae, tiling)
    lengths = _by_axis(vae.upscale_ratio)
    formulas = getattr(vae, "upscale_index_formula", None)
    positions = lengths if formulas is None else _by_axis(formulas)
    return tiles.plan(
        tuple(latent.shape[2:]),
        tile,
        overlap,
        lambda axis, count: lengths[axis](count),
        lambda axis, at: positions[axis](at),
    )


def _in_latents(vae, tiling: Tiling) -> tuple[tiles.Axes, tiles.Axes]:
    """The size of a tile, and how much two of them overlap."""
    overlap = min(tiling.overlap, tiling.tile_size // 4)
    across = vae.spacial_compression_decode()
    size, overlap = tiling.tile_size // across, overlap // across
    in_time = vae.temporal_compression_decode()
    if in_time is None:
        return (ALL_OF_TIME, size, size), (OVERLAP_IN_TIME, overlap, overlap)
    frames_overlap = tiling.temporal_overlap
    if tiling.temporal_size < 2 * frames_overlap:
        frames_overlap //= 2
    frames = max(2, tiling.temporal_size // in_time)
    return (frames, size, size), (max(1, min(frames // 2, frames_overlap // in_time)), overlap, overlap)


def overlaps_cut(vae, tiling: Tiling) -> list[Text]:
    """Which overlaps VAE Decode (Tiled) makes smaller, because the tiles have no room for them, and says nothing."""
    (_, (in_time, across, _)), cut = _in_latents(vae, tiling), []
    if 4 * tiling.overlap > tiling.tile_size:
        cut.append(("overlap", tiling.overlap, across * vae.spacial_compression_decode()))
    per_latent = vae.temporal_compression_decode()
    if 2 * tiling.temporal_overlap > tiling.temporal_size and per_latent is not None:
        cut.append(("temporal_overlap", tiling.temporal_overlap, in_time * per_latent))
    return [
        Text(
            "of %name% %asked%, only %used% was used: these tiles have room for no more",
            name=name,
            asked=str(asked),
            used=str(used),
        )
        for name, asked, used in cut
        if used < asked
    ]


def _by_axis(ratios) -> list[Callable[[int], float]]:
    several = ratios if isinstance(ratios, (tuple, list)) else (ratios,) * 3
    return [ratio if callable(ratio) else functools.partial(operator.mul, ratio) for ratio in several]


def tile_decoder(vae) -> Callable[[torch.Tensor], torch.Tensor]:
    """What ComfyUI decodes a tile with: (1, C, t, h, w), a part of a latent, -> (1, 3, T, H, W) on the VAE's device."""

    def decode(latents: torch.Tensor) -> torch.Tensor:
        return vae.first_stage_model.decode(given(vae, latents)).to(dtype=vae.vae_output_dtype())

    return decode


def given(vae, latents: torch.Tensor) -> torch.Tensor:
    """A part of a latent as the VAE's model gets it."""
    return latents.to(vae.vae_dtype).to(vae.device)


def stock_decode(vae, samples: dict, tiling: Tiling) -> torch.Tensor:
    """What the stock VAEDecodeTiled node gives: it accepts what it accepts, and raises what it raises."""
    first = {"samples": vaes.latent_of(samples)}  # of a nested one, which the stock node does not take
    sizes = (tiling.tile_size, tiling.overlap, tiling.temporal_size, tiling.temporal_overlap)
    return core_nodes.VAEDecodeTiled().decode(vae, first, *sizes)[0]


# -- what may be done in the place of `VAE.decode_tiled` ---------------------------------------------

# By the functions that ComfyUI decodes in tiles with, the model's class and its channels: whether `_rehearse` does.
_is_known: dict[tuple, bool] = {}


def why_not_known(vae) -> str | None:
    """Why `tiles.decode` may not stand in the place of `VAE.decode_tiled` for a video; None if it may."""
    model = vae.first_stage_model
    if not all(vaes.is_cores_own(vae, name) for name in ("decode_tiled", "decode_tiled_3d")):
        return vaes.REPLACED
    if not vaes.is_cores_own(model, "decode"):
        return vaes.REPLACED
    functions = (core_nodes.VAEDecodeTiled.decode, type(vae).decode_tiled, type(vae).decode_tiled_3d)
    known = (*functions, comfy.utils.tiled_scale_multidim, type(model), vae.latent_channels)
    if known not in _is_known:
        _is_known[known] = _rehearse(vae)
    return facts.why_no_frames(vae) if _is_known[known] else facts.UNKNOWN


def _rehearse(vae) -> bool:
    """Whether ComfyUI's tiles and ours give the same bits, with several tiles on each axis.

    Played through on the CPU, with a model that enlarges its latents and no model loaded.
    """
    try:
        across, in_time = vae.spacial_compression_decode(), vae.temporal_compression_decode() or 1
        tiling = Tiling(4 * across, across, 3 * in_time, in_time)
        shape = (1, vae.latent_channels, 5, 5, 7)
        latent = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        stand_in, model = copy.copy(vae), copy.copy(vae.first_stage_model)
        lengths = _by_axis(vae.upscale_ratio)

        def enlarge(part: torch.Tensor) -> torch.Tensor:
            size = [round(length(count)) for length, count in zip(lengths, part.shape[2:])]
            return torch.nn.functional.interpolate(part[:, :3].float(), size).to(part.dtype)

        model.decode = enlarge
        stand_in.first_stage_model = model
        stand_in.device = stand_in.output_device = torch.device("cpu")
        stand_in.process_output = lambda frames: frames.mul_(0.25)
        stand_in.decode_tiled = functools.partial(vaes.with_nothing_loaded(type(vae).decode_tiled), stand_in)
        stock = stock_decode(stand_in, {"samples": latent}, tiling)
        pieces: list[torch.Tensor] = []
        ours = plan(vae, latent, tiling)
        if ours is None:
            return False
        tiles.decode(latent, ours, tile_decoder(stand_in), pieces.append, stand_in.device, stand_in.device)
        return torch.equal(torch.cat(pieces, dim=1).mul_(0.25).movedim(0, -1), stock)
    except Exception:  # whatever it is that this VAE does not have
        return False


def why_not_planned(vae, latent: torch.Tensor) -> str:
    """Why there are no tiles of videos to be added up."""
    if getattr(vae, "handles_tiling", False):
        return Text("this VAE has tiles of its own")
    return Text("a latent of shape %shape% is not one video", shape=str(tuple(latent.shape)))
