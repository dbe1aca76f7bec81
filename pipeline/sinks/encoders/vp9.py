"""VP9 by libvpx."""

from typing import ClassVar

from .base import Encoder, Wanted, at, rate_factor


class VP9(Encoder):
    name = "libvpx-vp9"
    crf_range = (0, 63)
    depths: ClassVar = {"4:2:0": (8,), "4:4:4": (8,), "4:2:2": (8,)}
    alpha = ("4:2:0",)

    def options(self, wanted: Wanted, height: int, width: int, frames: int, threads: int) -> dict[str, str]:
        lossless = wanted.quality == "lossless"
        rate = {"lossless": "1"} if lossless else {"crf": rate_factor(wanted, (15, 22, 31, 42)), "b": "0"}
        deadline = "realtime" if wanted.speed == "fastest" else "good"
        speed = {"deadline": deadline, "cpu-used": at(wanted.speed, ("1", "3", "5", "8")), "row-mt": "1"}
        # With alpha there are two streams, paired frame by frame, and alternate references are frames that are never
        # shown.
        return rate | speed | ({"auto-alt-ref": "0"} if wanted.alpha else {})
