"""H.265 by x265."""

from typing import ClassVar

import av

from . import x264
from .base import H265_UNITS, Encoder, Wanted, at, mastering_display, rate_factor

# For each of SPEEDS, a preset and changes to it. At equal quality "superfast" with the filter SAO, and without blocks
# smaller than 16 pixels, makes files of 1.02 to 1.04 times the size of "medium" in 0.47 of its time; with smaller ones
# 0.96 to 1.01 times in 0.66; without SAO 1.03 to 1.2 times (CPU; 720p, 10 bit, 2026-11-26).
PRESETS = (("slow", ""), ("superfast", ":sao=1:min-cu-size=16"), ("superfast", ":min-cu-size=16"), ("ultrafast", ""))

# With its "cutree", x265 writes past the end of its memory where frames are about 33 to 48 pixels wide, and takes the
# server down with it: tried with all sizes up to 128 of PyAV 18.1's x265, 2026-11-21. Without it all was well.
MIN_TREE = 128

# Where frames are exactly one of its blocks wide (16, 32 or 64 pixels), what x265 4.2 predicts from other frames is not
# what decoders get, so that pictures fall apart, lossless ones too (2026-11-21; its own checksums say so). There, no
# frame is predicted from another.
BLOCKS = (16, 32, 64)


class X265(Encoder):
    name = "libx265"
    crf_range = (0, 51)
    pixel_aspect = mastering = True
    depths: ClassVar = {"4:2:0": (8, 10, 12), "4:2:2": (8, 10, 12), "4:4:4": (8, 10, 12)}
    takes_threads = False

    def options(self, wanted: Wanted, height: int, width: int, frames: int, threads: int) -> dict[str, str]:
        # -1 as its log level: errors come back as return codes; the rest goes to the terminal past Python's log.
        preset, more = at(wanted.speed, PRESETS)
        own = ["log-level=-1", f"pools={threads}", f"rc-lookahead={at(wanted.speed, x264.LOOKAHEAD_FRAMES)}"]
        rate = {}
        if wanted.quality == "lossless":
            own.append("lossless=1")
        else:
            rate = {"crf": rate_factor(wanted, (15, 19, 25, 30))}
        if min(height, width) < MIN_TREE:
            # No time is lost with those, and few settings were tried with all their sizes.
            preset, more = at(wanted.speed, x264.PRESETS), ""
            own.append("cutree=0")
        if wanted.stated.mastering:
            own.append("master-display=" + mastering_display(wanted.stated, *H265_UNITS))
        if wanted.stated.content_light:
            own.append("max-cll={},{}".format(*wanted.stated.content_light))
        if width in BLOCKS:
            own.append("keyint=1")
        return rate | {"preset": preset, "x265-params": ":".join(own) + more}

    def repair(self, packet: av.Packet, most: int) -> None:
        # It makes its decoding times from memory it never wrote to where there are only one or two frames.
        if packet.dts is None or packet.pts is None or abs(packet.pts - packet.dts) > most:
            packet.dts = packet.pts
