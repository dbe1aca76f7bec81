"""What can be written: a table of formats, and how each encoder is told what is wanted of it.

Knows names, limits and encoder settings; opens nothing but, once, the encoders that depend on the machine.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Collection
from dataclasses import dataclass, field
from fractions import Fraction

import av
import torch

from ..pixels import PixelFormat

# SVT-AV1 writes a page to the terminal for each file otherwise; 1 keeps its errors.
os.environ.setdefault("SVT_LOG", "1")

QUALITIES = ("very high", "high", "medium", "low", "lossless")
SPEEDS = ("slow", "medium", "fast", "fastest")
X26_PRESETS = ("slow", "medium", "veryfast", "ultrafast")  # of x264 and x265, for each of SPEEDS

# Frames x264 looks ahead. It holds that many back and encodes them when the last one has come, after the
# decoder has ended; its default of 40 made saving 81 frames of 720p end 0.35 s after the GPU (H100 with 16
# cores, 2026-11-21). 20 made files 3 % smaller at 0.2 dB less on natural pictures: the same trade.
LOOKAHEAD_FRAMES = 20

# With its "cutree", x265 writes past the end of its memory where frames are about 33 to 48 pixels wide, and takes the
# server down with it: tried with all sizes up to 128 of PyAV 18.1's x265, 2026-11-21. Without it all was well.
X265_MIN_TREE = 128

# Where frames are exactly one of its blocks wide (16, 32 or 64 pixels), what x265 4.2 predicts from other frames is not
# what decoders get, so that pictures fall apart, lossless ones too (2026-11-21; its own checksums say so). There, no
# frame is predicted from another.
X265_BLOCKS = (16, 32, 64)

# SVT-AV1 4.1 never ends where one side is 16 pixels or less and the other over 64; from 18 on it did in all that was
# tried (2026-11-21). Nothing can stop an encoder that hangs, so there is a margin.
AV1_MIN_SIDE = 32


def encoder_threads() -> int:
    """How many threads an encoder may use: all cores but the one of the thread that launches the GPU's kernels.

    x264's own choice is 1.5 threads a core; the launching thread then waits its turn, and the GPU with it.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable - 1)


# -- encoders: quality and speed in each one's own terms -------------------------------------------
# Each gives (options for the encoder, threads to set on it). The CRF scales differ: x265's, SVT-AV1's and VP9's
# numbers were set to look like x264's, whose 23 is its default and what the stock Save Video uses.


def _x264(quality, crf, speed, threads):
    rate = {"qp": "0"} if quality == "lossless" else {"crf": _crf(crf, quality, (14, 18, 23, 28))}
    return rate | {"preset": _at(speed, X26_PRESETS), "rc-lookahead": str(LOOKAHEAD_FRAMES)}, threads


def _x265(quality, crf, speed, threads):
    # -1 as its log level: errors come back as return codes; the rest goes to the terminal past Python's log.
    parameters = f"log-level=-1:pools={threads}:rc-lookahead={LOOKAHEAD_FRAMES}"
    rate, parameters = _crf_or_lossless(quality, crf, (16, 20, 26, 31), parameters)
    return rate | {"preset": _at(speed, X26_PRESETS), "x265-params": parameters}, 0


def _svt_av1(quality, crf, speed, threads):
    # Its "level of parallelism" goes from 1 to 6, for machines of any size.
    rate, parameters = _crf_or_lossless(quality, crf, (16, 24, 33, 43), f"lp={min(threads, 6)}")
    presets = ("4", "7", "8", "10")
    if quality == "lossless" and av.__version__.startswith("16.0."):
        # With these, SVT-AV1 3.1.0, which only that PyAV has, gets frames of 10 bits wrong.
        presets = ("4", "7", "7", "7")
    return rate | {"preset": _at(speed, presets), "svtav1-params": parameters}, 0


def _vp9(quality, crf, speed, threads):
    rate = {"lossless": "1"} if quality == "lossless" else {"crf": _crf(crf, quality, (15, 22, 31, 42)), "b": "0"}
    deadline = "realtime" if speed == "fastest" else "good"
    return rate | {"deadline": deadline, "cpu-used": _at(speed, ("1", "3", "5", "8")), "row-mt": "1"}, threads


def _prores(quality, crf, speed, threads):
    return {"vendor": "apl0"}, threads  # the profile follows from the chroma too: see `encoder_options`


def _ffv1(quality, crf, speed, threads):
    # Version 3 in slices, to use the threads, each with a checksum; every frame can be decoded by itself.
    context = {"context": "1"} if speed == "slow" else {}
    return context | {"level": "3", "slices": "4" if threads < 6 else "12", "slicecrc": "1", "g": "1"}, threads


def _nvenc(quality, crf, speed, threads):
    rate = {"tune": "lossless"} if quality == "lossless" else {
        "rc": "vbr", "cq": _crf(crf, quality, (15, 19, 25, 31)), "b": "0",
    }  # fmt: skip
    return rate | {"preset": _at(speed, ("p7", "p5", "p3", "p1"))}, 0


def _webp(quality, crf, speed, threads):
    effort = _at(speed, ("6", "4", "2", "0"))
    if quality == "lossless":
        return {"lossless": "1", "compression_level": effort, "quality": "60"}, 0
    return {"quality": {"very high": "95", "high": "88", "medium": "75", "low": "50"}[quality], "compression_level": effort}, 0


def _png(quality, crf, speed, threads):
    level, pred = _at(speed, (("9", "mixed"), ("6", "mixed"), ("3", "up"), ("1", "sub")))
    return {"compression_level": level, "pred": pred}, threads


def _gif(quality, crf, speed, threads):
    return {}, 0


def _at(speed: str, settings: tuple):
    """An encoder's setting for one of SPEEDS."""
    return settings[SPEEDS.index(speed)]


def _crf(crf: float | None, quality: str, scale: tuple[int, ...]) -> str:
    return f"{scale[QUALITIES.index(quality)] if crf is None else crf:g}"


def _crf_or_lossless(quality: str, crf: float | None, scale: tuple[int, ...], parameters: str) -> tuple[dict[str, str], str]:
    """(options, the encoder's own parameters) where lossless is one of the latter."""
    if quality == "lossless":
        return {}, parameters + ":lossless=1"
    return {"crf": _crf(crf, quality, scale)}, parameters


_ENCODERS = {
    "libx264": _x264, "libx265": _x265, "libsvtav1": _svt_av1, "libvpx-vp9": _vp9, "prores_ks": _prores, "ffv1": _ffv1,
    "h264_nvenc": _nvenc, "hevc_nvenc": _nvenc, "av1_nvenc": _nvenc, "libwebp_anim": _webp, "gif": _gif, "png": _png,
}  # fmt: skip


# -- formats ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of file.

    Attributes:
        name: what users choose.
        container: FFmpeg's muxer; "png" stands for a folder of pictures.
        extension: of the file, without dot.
        encoder: FFmpeg's encoder.
        depths: bits per component it can hold, for each chroma; the first chroma is the default.
        alpha: chromas that can carry transparency.
        audio: sound codecs, the default first; none for pictures.
        lossy, lossless: which kinds of quality it has.
        plays: whether browsers play it, at 4:2:0.
        restores: whether the frontend finds the workflow in it.
    """

    name: str
    container: str
    extension: str
    encoder: str
    depths: dict[str, tuple[int, ...]] = field(hash=False)
    alpha: tuple[str, ...] = ()
    audio: tuple[str, ...] = ()
    lossy: bool = True
    lossless: bool = True
    plays: bool = False
    restores: bool = True

    @property
    def is_video(self) -> bool:
        """A container with frames in it that may have sound; not an animated picture, nor a folder."""
        return self.container in ("mp4", "matroska", "webm", "mov")

    @property
    def qualities(self) -> tuple[str, ...]:
        """Of a format with no choice all are accepted, and mean the same."""
        return QUALITIES if self.lossless else QUALITIES[:-1]

    @property
    def default_chroma(self) -> str:
        return next(iter(self.depths))

    def chroma(self, alpha: bool) -> str:
        """The default one, of those that carry transparency if that is wanted."""
        return self.default_chroma if not alpha or self.default_chroma in self.alpha else self.alpha[0]

    def check(self, quality: str | None, chroma: str | None, bit_depth: int | None) -> None:
        """Raise a ValueError that says what the format has, if one of these is not among it; None is never checked."""
        if quality is not None:
            check_in(quality, self.qualities, f"{self.name} has the qualities")
        if chroma is not None:
            check_in(chroma, self.depths, f"{self.name} has the chroma")
        if bit_depth is not None:
            chroma = chroma or self.default_chroma
            check_in(bit_depth, self.depths[chroma], f"{self.name} at {chroma} has the bit depths")

    @property
    def software(self) -> str:
        """Name of the format that makes the same kind of file without NVENC."""
        return self.name.replace(" nvenc", "")


_ALL_CHROMA = {"4:2:0": (8, 10), "4:2:2": (8, 10), "4:4:4": (8, 10)}
_X265 = {"4:2:0": (8, 10, 12), "4:2:2": (8, 10, 12), "4:4:4": (8, 10, 12)}
_420 = {"4:2:0": (8, 10)}
_FFV1 = {"rgb": (8, 10, 12, 16), "4:4:4": (8, 10, 12, 16), "4:2:2": (8, 10, 12, 16), "4:2:0": (8, 10, 12, 16)}
# Opus first: Matroska has a place for where its sound begins and ends, for AAC it has none.
_ANY_SOUND = ("opus", "aac", "flac", "pcm")

_TABLE = (
    Format("mp4 (h264)", "mp4", "mp4", "libx264", _ALL_CHROMA, audio=("aac", "opus", "flac"), plays=True),
    Format("mp4 (h265)", "mp4", "mp4", "libx265", _X265, audio=("aac", "opus", "flac")),
    Format("mp4 (av1)", "mp4", "mp4", "libsvtav1", _420, audio=("aac", "opus", "flac"), plays=True),
    Format("mp4 (h264 nvenc)", "mp4", "mp4", "h264_nvenc", {"4:2:0": (8,)}, audio=("aac", "opus", "flac"), plays=True),
    Format("mp4 (h265 nvenc)", "mp4", "mp4", "hevc_nvenc", _420, audio=("aac", "opus", "flac")),
    Format("mp4 (av1 nvenc)", "mp4", "mp4", "av1_nvenc", _420, audio=("aac", "opus", "flac"), lossless=False, plays=True),
    Format("mkv (h264)", "matroska", "mkv", "libx264", _ALL_CHROMA, audio=_ANY_SOUND, restores=False),
    Format("mkv (h265)", "matroska", "mkv", "libx265", _X265, audio=_ANY_SOUND, restores=False),
    Format("mkv (av1)", "matroska", "mkv", "libsvtav1", _420, audio=_ANY_SOUND, restores=False),
    Format("mkv (ffv1)", "matroska", "mkv", "ffv1", _FFV1, ("rgb",), ("flac", "pcm", "opus", "aac"), lossy=False, restores=False),
    Format("webm (vp9)", "webm", "webm", "libvpx-vp9", {"4:2:0": (8,), "4:4:4": (8,), "4:2:2": (8,)}, ("4:2:0",), ("opus",), plays=True),
    Format("webm (av1)", "webm", "webm", "libsvtav1", _420, audio=("opus",), plays=True),
    Format("mov (prores)", "mov", "mov", "prores_ks", {"4:2:2": (10,), "4:4:4": (10,)}, ("4:4:4",), ("pcm", "aac"), lossless=False),
    Format("webp (animated)", "webp", "webp", "libwebp_anim", {"rgb": (8,)}, ("rgb",), plays=True),
    Format("gif", "gif", "gif", "gif", {"rgb": (8,)}, ("rgb",), lossless=False, plays=True, restores=False),
    Format("png sequence", "png", "png", "png", {"rgb": (8, 16)}, ("rgb",), lossy=False, plays=True),
)  # fmt: skip
FORMATS = {each.name: each for each in _TABLE}
CHROMAS = ("4:2:0", "4:2:2", "4:4:4", "rgb")
DEPTHS = (8, 10, 12, 16)


@functools.cache
def available_formats() -> tuple[str, ...]:
    """Names of the formats this PyAV, and for NVENC this machine, can write."""
    return tuple(name for name, each in FORMATS.items() if _can_encode(each.encoder))


def _can_encode(encoder: str) -> bool:
    try:
        av.codec.Codec(encoder, "w")
    except ValueError:  # UnknownCodecError is one
        return False
    if encoder in ("prores_ks", "libsvtav1") and int(av.__version__.partition(".")[0]) < 16:
        return False  # the ProRes of FFmpeg 7 takes no profile through PyAV, SVT-AV1 2 does not know "lossless"
    return not encoder.endswith("_nvenc") or (torch.cuda.is_available() and _opens(encoder))


def _opens(encoder: str) -> bool:
    """Whether the driver and the card have this encoder. Compute cards such as A100 and H100 have none."""
    context = av.CodecContext.create(encoder, "w")
    context.width, context.height, context.pix_fmt = 256, 256, "yuv420p"
    context.time_base = Fraction(1, 16)
    try:
        context.open()
    except (av.error.FFmpegError, OSError, ValueError) as error:
        logging.debug("async-frame-pipeline: %s cannot be used here: %s", encoder, error)
        return False
    return True


# -- what a choice comes to ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Choice:
    """A format with everything about its pictures decided.

    Args:
        format: from FORMATS.
        quality, speed: from QUALITIES and SPEEDS.
        bit_depth: bits per component; None for what the video has, or the next the format has.
        chroma: from CHROMAS; None for the format's default.
        alpha: whether transparency is to be stored; needs a format that can.
        matrix, full_range, dither: see `PixelFormat`; the first two for YUV only.
        crf: in place of the quality's, on the encoder's own scale.
    Raises:
        ValueError: something the format does not have; the message says what it has.
    """

    format: Format
    quality: str = "high"
    speed: str = "medium"
    bit_depth: int = 8
    chroma: str = ""
    alpha: bool = False
    matrix: str = "bt709"
    full_range: bool = False
    dither: bool = False
    crf: float | None = None

    def __post_init__(self):
        each = self.format
        if not self.chroma:
            object.__setattr__(self, "chroma", each.chroma(self.alpha and bool(each.alpha)))
        each.check(self.quality, self.chroma, self.bit_depth)
        check_in(self.speed, SPEEDS, "speed can be")
        if self.alpha and self.chroma not in each.alpha:
            has = f"with chroma {', '.join(each.alpha)}" if each.alpha else "in no way"
            raise ValueError(f"{each.name} can store transparency {has}, got {self.chroma}")

    @property
    def pixel_format(self) -> PixelFormat:
        if self.chroma != "rgb":
            layout = "yuv" + self.chroma.replace(":", "")
            return PixelFormat(layout, self.bit_depth, self.alpha, self.matrix, self.full_range, self.dither)
        if self.format.encoder in ("png", "gif"):
            layout = "rgb"
        else:
            layout = "bgr" if self.bit_depth == 8 else "gbr"
        # libwebp takes pictures with an alpha only; where all of it is opaque, it stores none.
        return PixelFormat(layout, self.bit_depth, self.alpha or self.format.encoder == "libwebp_anim", dither=self.dither)

    @property
    def plays(self) -> bool:
        """Whether browsers play the file."""
        return self.format.plays and (not self.format.is_video or self.chroma == "4:2:0")

    def check_size(self, height: int, width: int) -> None:
        """Raise a ValueError for frames so small that the encoder would hang."""
        if self.format.encoder == "libsvtav1" and min(height, width) < AV1_MIN_SIDE:
            raise ValueError(
                f"{self.format.name} needs at least {AV1_MIN_SIDE} pixels a side, got {width}x{height}. "
                "Choose another format, or a larger size."
            )

    def encoder_options(self, threads: int, height: int, width: int) -> tuple[dict[str, str], int]:
        """(options, thread count to set, 0 for none) for the encoder of frames of this size."""
        options, thread_count = _ENCODERS[self.format.encoder](self.quality, self.crf, self.speed, threads)
        if self.format.encoder == "libx265" and min(height, width) < X265_MIN_TREE:
            options["x265-params"] += ":cutree=0"
        if self.format.encoder == "libx265" and width in X265_BLOCKS:
            options["x265-params"] += ":keyint=1"
        if self.format.encoder == "prores_ks":
            options |= self._prores_profile()
        if self.format.encoder == "libvpx-vp9" and self.alpha:
            # Its two streams are paired frame by frame, and alternate references are frames that are never shown.
            options |= {"auto-alt-ref": "0"}
        return options, thread_count

    def _prores_profile(self) -> dict[str, str]:
        if self.chroma == "4:4:4":
            alpha = {"alpha_bits": "16"} if self.alpha else {}
            return {"profile": "4444xq" if self.quality == "very high" else "4444"} | alpha
        return {"profile": {"very high": "hq", "high": "standard", "medium": "lt", "low": "proxy"}[self.quality]}


def nearest_depth(each: Format, chroma: str, wanted: int) -> int:
    """The smallest depth of the format that holds `wanted` bits, else its largest."""
    depths = each.depths.get(chroma) or next(iter(each.depths.values()))
    return min((depth for depth in depths if depth >= wanted), default=max(depths))


def check_in(value, allowed: Collection, what: str) -> None:
    """Raise a ValueError that begins with `what` and names those allowed, if the value is not among them."""
    if value not in list(allowed):
        # Escaped: a message with half of a character in it cannot be logged.
        got = str(value).encode("ascii", "backslashreplace").decode()
        raise ValueError(f"{what} {', '.join(map(str, allowed))}; got {got}")
