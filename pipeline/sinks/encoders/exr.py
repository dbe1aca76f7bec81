"""OpenEXR by FFmpeg, in half floats."""

from typing import ClassVar

from ...pixels import PixelFormat
from .base import Encoder, Wanted, at


class Exr(Encoder):
    name = "exr"
    depths: ClassVar = {"rgb": (16,)}
    alpha = ("rgb",)
    lossy = False

    def options(self, wanted: Wanted, height: int, width: int, frames: int, threads: int) -> dict[str, str]:
        # Deflate over 16 rows, which is also what editors write; over one; runs of equal bytes alone.
        return {"format": "half", "compression": at(wanted.speed, ("zip16", "zip16", "zip1", "rle"))}

    def pixel_format(self, wanted: Wanted) -> PixelFormat:
        return PixelFormat("linear", 16, wanted.alpha)
