"""ProRes by FFmpeg, which profile follows from quality and chroma."""

from dataclasses import replace
from typing import ClassVar

from ...pixels import PixelFormat
from .base import Encoder, Wanted

PROFILES = {"very high": "hq", "high": "standard", "medium": "lt", "low": "proxy"}


class ProRes(Encoder):
    name = "prores_ks"
    depths: ClassVar = {"4:2:2": (10,), "4:4:4": (10,)}
    alpha = ("4:4:4",)
    lossless = False
    oldest_pyav = 16  # that of FFmpeg 7 takes no profile through PyAV
    # Threads that share a frame only choose its quantisers together, a seventh of the work; one writes it. Frames are
    # the same bytes either way.
    thread_type = "FRAME"

    def options(self, wanted: Wanted, height: int, width: int, frames: int, threads: int) -> dict[str, str]:
        if wanted.chroma != "4:4:4":
            return {"vendor": "apl0", "profile": PROFILES[wanted.quality]}
        alpha = {"alpha_bits": "16"} if wanted.alpha else {}
        return {"vendor": "apl0", "profile": "4444xq" if wanted.quality == "very high" else "4444"} | alpha

    def pixel_format(self, wanted: Wanted) -> PixelFormat:
        # It has no place for the range: what reads it takes it for limited.
        return replace(super().pixel_format(wanted), full_range=False)
