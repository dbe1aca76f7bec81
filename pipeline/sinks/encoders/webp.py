"""Animated WebP by libwebp: it puts the file together when it has all frames; until then it holds them compressed."""

from dataclasses import replace
from typing import ClassVar

from ...pixels import PixelFormat
from .base import Encoder, Wanted, at


class WebP(Encoder):
    name = "libwebp_anim"
    depths: ClassVar = {"rgb": (8,)}
    alpha = ("rgb",)
    largest_side = 16383
    takes_threads = False
    rgb_layout = ("bgr", "gbr")

    def options(self, wanted: Wanted, height: int, width: int, frames: int, threads: int) -> dict[str, str]:
        effort = at(wanted.speed, ("6", "4", "2", "0"))
        if wanted.quality == "lossless":
            return {"lossless": "1", "compression_level": effort, "quality": "60"}
        quality = {"very high": "95", "high": "88", "medium": "75", "low": "50"}[wanted.quality]
        return {"quality": quality, "compression_level": effort}

    def pixel_format(self, wanted: Wanted) -> PixelFormat:
        # It takes pictures with an alpha only; where all of it is opaque, it stores none.
        return replace(super().pixel_format(wanted), alpha=True)
