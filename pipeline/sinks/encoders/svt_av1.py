"""AV1 by SVT-AV1."""

import os
from typing import ClassVar

import av

from .base import DECIMALS, Encoder, Wanted, at, mastering_display, rate_factor

# SVT-AV1 writes a page to the terminal for each file otherwise; 1 keeps its errors.
os.environ.setdefault("SVT_LOG", "1")


# Groups of 8 frames, not 32. With preset 8 files are then 1.03 to 1.15 times the size of the stock saver's preset 6 at
# equal quality, as those of preset 7 were, without it 1.3 to 1.5 times; both take half the CPU. And it waits for 26
# frames, not for 79: after the last of 81, 0.30 s of CPU are left, with the stock saver's settings 1.8 s (720p, 10 bit,
# 2026-11-26).
LEVELS = 3


class SvtAV1(Encoder):
    name = "libsvtav1"
    crf_range = (1, 63)  # FFmpeg takes 0 for none given
    mastering = True
    depths: ClassVar = {"4:2:0": (8, 10)}
    oldest_pyav = 16  # SVT-AV1 2 does not know "lossless"
    # SVT-AV1 4.1 never ends where one side is 16 pixels or less and the other over 64; from 18 on it did in all that
    # was tried (2026-11-21). Nothing can stop an encoder that hangs, so there is a margin.
    smallest_side = 32
    takes_threads = False

    def options(self, wanted: Wanted, height: int, width: int, frames: int, threads: int) -> dict[str, str]:
        # Its "level of parallelism" goes from 1 to 6. It takes 6 itself from 24 cores on, and then gets memory for 89
        # frames before the first one, which takes 0.12 s at 720p; with 5 for 44, in 0.06 s.
        own = f"lp={min(threads, 5 if threads < 23 else 6)}"
        presets = ("4", "8", "9", "10")
        rate = {}
        if wanted.quality == "lossless":
            own += ":lossless=1"
            presets = ("4", "7", "8", "10")
            if av.__version__.startswith("16.0."):
                # With others, SVT-AV1 3.1.0, which only that PyAV has, gets frames of 10 bits wrong.
                presets = ("4", "7", "7", "7")
        else:
            rate = {"crf": rate_factor(wanted, (16, 24, 33, 43))}
            if wanted.speed in ("medium", "fast"):
                own += f":hierarchical-levels={LEVELS}"
        if wanted.stated.mastering:
            own += ":mastering-display=" + mastering_display(wanted.stated, *DECIMALS)
        if wanted.stated.content_light:
            own += ":content-light={},{}".format(*wanted.stated.content_light)
        return rate | {"preset": at(wanted.speed, presets), "svtav1-params": own}
