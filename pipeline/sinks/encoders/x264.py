"""H.264 by x264."""

from typing import ClassVar

from .base import H265_UNITS, SPEEDS, Encoder, Wanted, at, mastering_display, rate_factor

PRESETS = ("slow", "medium", "veryfast", "ultrafast")  # for each of SPEEDS

# Frames x264 looks ahead, for each of SPEEDS. It holds that many back and encodes them when the last one has come,
# after the decoder has ended; its default of 40 made saving 81 frames of 720p end 0.35 s after the GPU, 20 made it
# 0.18 s (H100 with 16 cores, 2026-11-21). 10 instead of 20 cost 4 % of the size at equal quality, which threads of
# whole frames bring back: they need no slices (natural 720p, 2026-11-26).
LOOKAHEAD_FRAMES = (20, 10, 10, 10)
# When the decoder has ended, "medium" still has the frames to do that it looks ahead, the decoder's last four, and some
# of the four before. With these settings for them it takes half to two thirds of the CPU time from then on, and 81
# frames are at most 1.0 % larger at equal luma PSNR, 0.9 % at equal SSIM, soft ones 2 % (five clips of 720p and 272p,
# natural, with noise, and of a decoder, 2026-11-26); of a short video they are a quarter. "subme=4" took no less and
# made soft pictures 2 % larger, "trellis=0" noise 2.6 %.
LAST_FRAMES = 8 + LOOKAHEAD_FRAMES[SPEEDS.index("medium")]
FOR_LAST_FRAMES = "subme=6,ref=1,mixed-refs=0,partitions=i4x4+i8x8+p8x8"
ROWS_A_THREAD = 32  # pixels: two rows of blocks, x264's own limit
# Of those that it may use; x264's own choice: a frame is one thread's, and waits for rows of the frame before. 49
# frames of 3840x2160 took 3.44 s instead of 3.67, of 1920x1088 1.04 instead of 1.16, 81 of 1280x720 0.68 instead of
# 0.71 on 16 cores, 25 of 720p 0.50 instead of 0.52 on two (medians of 3 and 5, 2026-11-26).
THREADS_A_CORE = 1.5


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
        return max(1, min(int(THREADS_A_CORE * usable), height // ROWS_A_THREAD))

    def options(self, wanted: Wanted, height: int, width: int, frames: int, threads: int) -> dict[str, str]:
        lossless = wanted.quality == "lossless"
        rate = {"qp": "0"} if lossless else {"crf": rate_factor(wanted, (14, 18, 23, 28))}
        # Looks ahead while it is given a frame, with all threads: one of its own would hold back four more frames.
        own = ["sync-lookahead=0", f"lookahead-threads={threads}"]
        last = min(LAST_FRAMES, frames // 4)
        if wanted.speed == "medium" and last and not lossless:
            own.append(f"zones={frames - last},{frames - 1},{FOR_LAST_FRAMES}")
        if wanted.stated.mastering:
            own.append("mastering-display=" + mastering_display(wanted.stated, *H265_UNITS))
        if wanted.stated.content_light:
            own.append("cll={},{}".format(*wanted.stated.content_light))
        ahead = str(at(wanted.speed, LOOKAHEAD_FRAMES))
        return rate | {"preset": at(wanted.speed, PRESETS), "rc-lookahead": ahead, "x264-params": ":".join(own)}
