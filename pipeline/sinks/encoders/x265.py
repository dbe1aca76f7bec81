"""H.265 by x265."""

from typing import ClassVar

import av

from .base import H265_UNITS, Encoder, Wanted, at, mastering_display, rate_factor
from .x264 import LOOKAHEAD_FRAMES, PRESETS

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

    def options(self, wanted: Wanted, height: int, width: int, threads: int) -> dict[str, str]:
        # -1 as its log level: errors come back as return codes; the rest goes to the terminal past Python's log.
        own = ["log-level=-1", f"pools={threads}", f"rc-lookahead={LOOKAHEAD_FRAMES}"]
        rate = {}
        if wanted.quality == "lossless":
            own.append("lossless=1")
        else:
            rate = {"crf": rate_factor(wanted, (16, 20, 26, 31))}
        if min(height, width) < MIN_TREE:
            own.append("cutree=0")
        if wanted.stated.mastering:
            own.append("master-display=" + mastering_display(wanted.stated, *H265_UNITS))
        if wanted.stated.content_light:
            own.append("max-cll={},{}".format(*wanted.stated.content_light))
        if width in BLOCKS:
            own.append("keyint=1")
        return rate | {"preset": at(wanted.speed, PRESETS), "x265-params": ":".join(own)}

    def repair(self, packet: av.Packet, most: int) -> None:
        # It makes its decoding times from memory it never wrote to where there are only one or two frames.
        if packet.dts is None or packet.pts is None or abs(packet.pts - packet.dts) > most:
            packet.dts = packet.pts
