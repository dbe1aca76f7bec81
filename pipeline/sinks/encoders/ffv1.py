"""FFV1 by FFmpeg."""

from typing import ClassVar

from .base import Encoder, Wanted


class FFV1(Encoder):
    name = "ffv1"
    depths: ClassVar = {
        "rgb": (8, 10, 12, 16),
        "4:4:4": (8, 10, 12, 16),
        "4:2:2": (8, 10, 12, 16),
        "4:2:0": (8, 10, 12, 16),
    }
    alpha = ("rgb",)
    lossy = False
    rgb_layout = ("bgr", "gbr")

    def options(self, wanted: Wanted, height: int, width: int, frames: int, threads: int) -> dict[str, str]:
        # Version 3 in slices, to use the threads, each with a checksum; every frame can be decoded by itself.
        context = {"context": "1"} if wanted.speed == "slow" else {}
        return context | {"level": "3", "slices": "4" if threads < 6 else "12", "slicecrc": "1", "g": "1"}
