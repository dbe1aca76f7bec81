"""What a file asks of an encoder, and what most of them answer. Knows no formats and opens no files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import ClassVar, Protocol, TypeVar

import av

from ...pixels import PixelFormat
from ...stated import Stated

QUALITIES = ("very high", "high", "medium", "low", "lossless")
SPEEDS = ("slow", "medium", "fast", "fastest")
T = TypeVar("T")

# Frames ready for the encoder, made of the one given, or of what is left for None.
Prepare = Callable[[av.VideoFrame | None], list[av.VideoFrame]]


class Wanted(Protocol):
    """What users decide about the pictures of a file; `Choice` is one.

    Attributes:
        quality, speed: of QUALITIES and SPEEDS.
        crf: in place of the quality's, on the encoder's own scale.
        bit_depth, chroma, alpha: one of the encoder's combinations.
        matrix, full_range, dither: see `PixelFormat`.
        stated: what is said of the pictures beside that.
    """

    @property
    def quality(self) -> str: ...
    @property
    def speed(self) -> str: ...
    @property
    def crf(self) -> float | None: ...
    @property
    def bit_depth(self) -> int: ...
    @property
    def chroma(self) -> str: ...
    @property
    def alpha(self) -> bool: ...
    @property
    def matrix(self) -> str: ...
    @property
    def full_range(self) -> bool: ...
    @property
    def dither(self) -> bool: ...
    @property
    def stated(self) -> Stated: ...


class Encoder:
    """One of FFmpeg's encoders. Holds no state: what lasts as long as a file is in what `prepare` gives.

    Attributes:
        name: FFmpeg's.
        depths: bits per component it can hold, for each chroma; the first chroma is the default.
        alpha: chromas that can carry transparency.
        lossy, lossless: which kinds of quality it has.
        crf_range: the least and the greatest CRF, the best first; None where it has none.
        oldest_pyav: major version of the first PyAV in which it does all this.
        smallest_side, largest_side: of the frames, in pixels; 0 where opening it tells.
        takes_threads: whether FFmpeg's thread count is for it; else `options` say it in the encoder's own terms.
        thread_type: what these threads share, "SLICE" a frame or "FRAME" several frames.
        pixel_aspect: whether what it makes says which shape pixels have; else the container has to.
        mastering: whether it takes the light of HDR pictures, see `Stated`.
        rgb_layout: how it wants RGB of 8 bits, see `PixelFormat.layout`, and of more; for a chroma of "rgb".
    """

    name: ClassVar[str]
    depths: ClassVar[Mapping[str, tuple[int, ...]]]
    alpha: ClassVar[tuple[str, ...]] = ()
    lossy: ClassVar[bool] = True
    lossless: ClassVar[bool] = True
    crf_range: ClassVar[tuple[int, int] | None] = None
    oldest_pyav: ClassVar[int] = 14
    smallest_side: ClassVar[int] = 0
    largest_side: ClassVar[int] = 0
    takes_threads: ClassVar[bool] = True
    thread_type: ClassVar[str] = "SLICE"
    pixel_aspect: ClassVar[bool] = False
    mastering: ClassVar[bool] = False
    rgb_layout: ClassVar[tuple[str, str]] = ("rgb", "rgb")

    def threads(self, height: int, usable: int) -> int:
        """How many it is worth having on so many usable cores, for frames of this height."""
        return usable

    def options(self, wanted: Wanted, height: int, width: int, frames: int, threads: int) -> dict[str, str]:
        """FFmpeg's options for so many frames of this size."""
        raise NotImplementedError

    def is_available(self) -> bool:
        """Whether this PyAV, and this machine, have it."""
        try:
            av.codec.Codec(self.name, "w")
        except ValueError:  # UnknownCodecError is one
            return False
        return pyav_version() >= self.oldest_pyav

    def pixel_format(self, wanted: Wanted) -> PixelFormat:
        """The pixels that the lanes are to bring."""
        if wanted.chroma != "rgb":
            layout = "yuv" + wanted.chroma.replace(":", "")
            return PixelFormat(layout, wanted.bit_depth, wanted.alpha, wanted.matrix, wanted.full_range, wanted.dither)
        return PixelFormat(self.rgb_layout[wanted.bit_depth > 8], wanted.bit_depth, wanted.alpha, dither=wanted.dither)

    def takes(self, pixels: PixelFormat) -> str:
        """FFmpeg's name of the pixels it is given, which hold the same codes as those that the lanes bring."""
        return pixels.av_name

    def plays(self, wanted: Wanted) -> bool:
        """Whether browsers play what it makes of this, in a container of theirs."""
        return wanted.chroma == "4:2:0"

    def prepare(self, wanted: Wanted, height: int, width: int, tick: Fraction) -> Prepare:
        """Make what turns the frames of one file, which last `tick` seconds or a multiple, into those to encode."""
        name = self.takes(self.pixel_format(wanted))
        return lambda frame: [] if frame is None else [same_codes(frame, name)]

    def repair(self, packet: av.Packet, most: int) -> None:
        """Mend what it says wrong of a packet; `most`: ticks that a frame may be decoded before it is shown."""
        if packet.dts is None:
            packet.dts = packet.pts


def pyav_version() -> int:
    """Major version of PyAV."""
    return int(av.__version__.partition(".")[0])


# From so many cores on, encoders leave one to the thread that launches the GPU's kernels, which else waits its turn,
# and the GPU with it. Below, that is more than an eighth of what encodes, for a thread that needs a share of a core.
# Beside encoders on both of two cores the 10 ms of Python of a step took 10 to 19 ms, at most 33, and no simulated
# GPU with steps of 50 ms and more ran out of work. 49 frames of 720p took 1.43 s as H.264, with one thread 2.15 (the
# stock saver 1.47), as ProRes 2.02 and 3.66 (2.38) (EPYC 9xx4, 2026-11-26). x264 has more threads than that, since
# they wait for one another; the GPU was as busy.
KEEPS_ONE = 8


def encoder_threads() -> int:
    """How many threads an encoder may use: all cores, and from KEEPS_ONE on all but one."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return usable - 1 if usable >= KEEPS_ONE else usable


def same_codes(frame: av.VideoFrame, name: str) -> av.VideoFrame:
    """The frame in pixels of this name, which only lay the same codes out otherwise."""
    if frame.format.name == name:
        return frame
    other = frame.reformat(format=name)
    other.pts, other.time_base = frame.pts, frame.time_base
    return other


def at(speed: str, settings: tuple[T, ...]) -> T:
    """An encoder's setting for one of SPEEDS."""
    return settings[SPEEDS.index(speed)]


def rate_factor(wanted: Wanted, scale: tuple[int, ...]) -> str:
    """The CRF: the one asked for, else the quality's on the encoder's scale.

    The scales differ: x265's, SVT-AV1's and VP9's numbers were set to look like x264's, whose 23 is its default and
    what the stock Save Video uses.
    """
    return f"{scale[QUALITIES.index(wanted.quality)] if wanted.crf is None else wanted.crf:g}"


def mastering_display(stated: Stated, colour_unit: Fraction, light_unit: Fraction) -> str:
    """The screen that HDR pictures were made on, as encoders want it: in whole units, or as decimals for units of 1."""

    def text(value: Fraction, unit: Fraction) -> str:
        return f"{float(value):.5f}" if unit == 1 else str(round(value / unit))

    red, green, blue, white = (
        "({},{})".format(*(text(each, colour_unit) for each in stated.mastering[2 * i : 2 * i + 2])) for i in range(4)
    )
    least, most = (text(each, light_unit) for each in stated.mastering[8:])
    return f"G{green}B{blue}R{red}WP{white}L({most},{least})"


# Units of ITU-T H.265, D.3.28.
H265_UNITS = Fraction(1, 50_000), Fraction(1, 10_000)
DECIMALS = Fraction(1), Fraction(1)
