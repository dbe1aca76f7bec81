"""PNG by FFmpeg."""

from typing import ClassVar

from ...pixels import PixelFormat
from .base import Encoder, Wanted, at

# Level of deflate, and the filter before it, for each of SPEEDS.
EFFORTS = (("9", "mixed"), ("6", "mixed"), ("3", "up"), ("1", "sub"))


class Png(Encoder):
    name = "png"
    depths: ClassVar = {"rgb": (8, 16)}
    alpha = ("rgb",)
    lossy = False

    def options(self, wanted: Wanted, height: int, width: int, frames: int, threads: int) -> dict[str, str]:
        level, filtered = at(wanted.speed, EFFORTS)
        return {"compression_level": level, "pred": filtered}

    def takes(self, pixels: PixelFormat) -> str:
        return pixels.av_name.replace("le", "be")  # PNG has its 16 bits the other way round
