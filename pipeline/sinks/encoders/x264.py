"""H.264 by x264."""

from typing import ClassVar

from .base import H265_UNITS, Encoder, Wanted, at, mastering_display, rate_factor

PRESETS = ("slow", "medium", "veryfast", "ultrafast")  # for each of SPEEDS

# Frames x264 looks ahead, for each of SPEEDS. It holds that many back and encodes them when the last one has come,
# after the decoder has ended; its default of 40 made saving 81 frames of 720p end 0.35 s after the GPU, 20 made it
# 0.18 s (H100 with 16 cores, 2026-11-21). 10 instead of 20 cost 4 % of the size at equal quality, which threads of
# whole frames bring back: they need no slices (natural 720p, 2026-11-26).
LOOKAHEAD_FRAMES = (20, 10, 10, 10)
ROWS_A_THREAD = 32  # pixels: two rows of blocks, x264's own limit


def is_common_h264(wanted: Wanted) -> bool:
    """Whether its profile is High at most: beyond, as all that is lossless is, neither Safari nor Windows plays it."""
    lossless = wanted.quality == "lossless" or (wanted.crf is not None and wanted.crf < 1)
    return wanted.chroma == "4:2:0" and wanted.bit_depth == 8 and not lossless


class X264(Encoder):
    name = "libx264"
    crf_range = (0, 51)
    pixel_aspect = mastering = True
    depths: ClassVar = {"4:2:0": (8, 10), "4:2:2": (8, 10), "4:4:4": (8, 10)}
    thread_type = "FRAME"

    def plays(self, wanted: Wanted) -> bool:
        return is_common_h264(wanted)

    def threads(self, height: int, usable: int) -> int:
        return min(usable, max(1, height // ROWS_A_THREAD))

    def options(self, wanted: Wanted, height: int, width: int, threads: int) -> dict[str, str]:
        rate = {"qp": "0"} if wanted.quality == "lossless" else {"crf": rate_factor(wanted, (14, 18, 23, 28))}
        # Looks ahead while it is given a frame, with all threads: one of its own would hold back four more frames.
        own = ["sync-lookahead=0", f"lookahead-threads={threads}"]
        if wanted.stated.mastering:
            own.append("mastering-display=" + mastering_display(wanted.stated, *H265_UNITS))
        if wanted.stated.content_light:
            own.append("cll={},{}".format(*wanted.stated.content_light))
        ahead = str(at(wanted.speed, LOOKAHEAD_FRAMES))
        return rate | {"preset": at(wanted.speed, PRESETS), "rc-lookahead": ahead, "x264-params": ":".join(own)}
