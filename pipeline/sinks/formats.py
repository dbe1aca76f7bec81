"""What can be written: a table of formats, and a choice of one with everything about its pictures decided.

A format is a container (containers.py) around what an encoder (encoders/) makes; each says what it demands.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from ..pixels import PixelFormat
from ..stated import Stated
from ..text import shown
from .containers import Container, ExrFolder, GifFile, Matroska, Mov, Mp4, PngFolder, WebM, WebPFile
from .encoders import (
    FFV1,
    VP9,
    X264,
    X265,
    Encoder,
    Exr,
    Gif,
    NvencAV1,
    NvencH264,
    NvencH265,
    Png,
    ProRes,
    SvtAV1,
    WebP,
)
from .encoders.base import QUALITIES, SPEEDS
from .image_sequence import ImageSequenceSink
from .video_file import VideoFileSink

CHROMAS = ("4:2:0", "4:2:2", "4:4:4", "rgb")
DEPTHS = (8, 10, 12, 16)
FileSink = VideoFileSink | ImageSequenceSink


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of file.

    Attributes:
        name: what users choose.
        container, encoder: what writes it.
        own_audio: sound codecs where they are others than the container's, the default first.
        plays: whether browsers play it, of what its encoder says it makes for them.
    """

    name: str
    container: Container
    encoder: Encoder
    own_audio: tuple[str, ...] = ()
    plays: bool = False

    @property
    def kind(self) -> str:
        """See `Container.kind`."""
        return self.container.kind

    @property
    def codec(self) -> str:
        """Of its pictures, as users know it: "h264", "png"."""
        inside = self.name.partition("(")[2].rstrip(")")
        return inside.removesuffix(" nvenc") if self.is_video else self.extension or "png"

    @property
    def is_video(self) -> bool:
        """A container with frames in it that may have sound; not an animated picture, nor a folder."""
        return self.kind == "video"

    @property
    def is_folder(self) -> bool:
        return self.kind == "folder"

    @property
    def sink(self) -> type[VideoFileSink] | type[ImageSequenceSink]:
        """What writes it, made of a target and `VideoOptions`."""
        return ImageSequenceSink if self.is_folder else VideoFileSink

    @property
    def extension(self) -> str:
        """Of the file, without dot."""
        return self.container.extension

    @property
    def audio(self) -> tuple[str, ...]:
        """Sound codecs, the default first; none for pictures."""
        return self.own_audio or self.container.audio

    @property
    def restores(self) -> bool:
        """Whether the frontend finds the workflow in it."""
        return self.container.restores

    @property
    def depths(self) -> Mapping[str, tuple[int, ...]]:
        """Bits per component, for each chroma; the first chroma is the default."""
        return self.encoder.depths

    @property
    def alpha(self) -> tuple[str, ...]:
        """Chromas that can carry transparency."""
        return self.encoder.alpha

    @property
    def lossy(self) -> bool:
        return self.encoder.lossy

    @property
    def lossless(self) -> bool:
        return self.encoder.lossless

    @property
    def qualities(self) -> tuple[str, ...]:
        """Of a format with no choice all are accepted, and mean the same."""
        return QUALITIES if self.lossless else QUALITIES[:-1]

    @property
    def crf_range(self) -> tuple[int, int] | None:
        """See `Encoder.crf_range`."""
        return self.encoder.crf_range

    @property
    def default_chroma(self) -> str:
        return next(iter(self.depths))

    def chroma(self, alpha: bool) -> str:
        """The default one, of those that carry transparency if that is wanted."""
        return self.default_chroma if not alpha or self.default_chroma in self.alpha else self.alpha[0]

    def check(self, quality: str | None, chroma: str | None, bit_depth: int | None, crf: float | None = None) -> None:
        """Raise a ValueError that says what the format has, if one of these is not among it; None is never checked."""
        if quality is not None:
            check_in(quality, self.qualities, f"{self.name} has the qualities")
        if chroma is not None:
            check_in(chroma, self.depths, f"{self.name} has the chroma")
        if bit_depth is not None:
            chroma = chroma or self.default_chroma
            check_in(bit_depth, self.depths[chroma], f"{self.name} at {chroma} has the bit depths")
        if crf is not None:
            if self.crf_range is None:
                raise ValueError(f"{self.name} has no CRF, got {crf:g}: choose a quality instead")
            if quality == "lossless":
                raise ValueError(f"lossless has no CRF, got {crf:g}: choose another quality, or no CRF")
            low, high = self.crf_range
            if not low <= crf <= high:  # nor is NaN
                raise ValueError(f"{self.name} has CRFs from {low} to {high}, got {crf:g}")

    @property
    def software(self) -> str:
        """Name of the format that makes the same kind of file without NVENC."""
        return self.name.replace(" nvenc", "")


_MP4, _MKV, _WEBM = Mp4(), Matroska(), WebM()
_H264, _H265, _AV1 = X264(), X265(), SvtAV1()
_TABLE = (
    Format("mp4 (h264)", _MP4, _H264, plays=True),
    Format("mp4 (h265)", _MP4, _H265),
    Format("mp4 (av1)", _MP4, _AV1, plays=True),
    Format("mp4 (h264 nvenc)", _MP4, NvencH264(), plays=True),
    Format("mp4 (h265 nvenc)", _MP4, NvencH265()),
    Format("mp4 (av1 nvenc)", _MP4, NvencAV1(), plays=True),
    Format("mkv (h264)", _MKV, _H264),
    Format("mkv (h265)", _MKV, _H265),
    Format("mkv (av1)", _MKV, _AV1),
    Format("mkv (ffv1)", _MKV, FFV1(), own_audio=("flac", "pcm", "opus", "aac")),
    Format("webm (vp9)", _WEBM, VP9(), plays=True),
    Format("webm (av1)", _WEBM, _AV1, plays=True),
    Format("mov (prores)", Mov(), ProRes()),
    Format("webp (animated)", WebPFile(), WebP(), plays=True),
    Format("gif", GifFile(), Gif(), plays=True),
    Format("png sequence", PngFolder(), Png(), plays=True),
    Format("exr sequence", ExrFolder(), Exr()),
)
FORMATS = {each.name: each for each in _TABLE}


@functools.cache
def available_formats() -> tuple[str, ...]:
    """Names of the formats this PyAV, and for NVENC this machine, can write."""
    return tuple(name for name, each in FORMATS.items() if each.encoder.is_available())


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
        crf: in place of the quality's, on the encoder's own scale, within its `crf_range`; not for "lossless".
        stated: what the file is to say of the pictures, as far as `keeping` says that it can.
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
    stated: Stated = Stated()

    def __post_init__(self) -> None:
        each = self.format
        if not self.chroma:
            object.__setattr__(self, "chroma", each.chroma(self.alpha and bool(each.alpha)))
        each.check(self.quality, self.chroma, self.bit_depth, self.crf)
        check_in(self.speed, SPEEDS, "speed can be")
        if self.alpha and self.chroma not in each.alpha:
            has = f"with chroma {', '.join(each.alpha)}" if each.alpha else "in no way"
            raise ValueError(f"{each.name} can store transparency {has}, got {self.chroma}")

    @property
    def pixel_format(self) -> PixelFormat:
        pixels = self.format.encoder.pixel_format(self)
        return replace(pixels, primaries=self.stated.primaries, transfer=self.stated.transfer)

    @property
    def plays(self) -> bool:
        """Whether browsers play the file: Chrome, Firefox and Safari, of the last years."""
        return self.format.plays and (not self.format.is_video or self.format.encoder.plays(self))

    def check_frames(self, height: int, width: int, fps: Fraction) -> None:
        """Raise a ValueError for frames that the format has no room or time for, or at which the encoder would hang."""
        container, encoder = self.format.container, self.format.encoder
        if container.most_fps and fps > container.most_fps:
            raise ValueError(
                f"{container.name.upper()} plays at most {container.most_fps} frames a second, got {float(fps):g}. "
                "Choose a video format, or a lower frame rate."
            )
        if encoder.largest_side and max(height, width) > encoder.largest_side:
            raise ValueError(f"{container.name} ends at {encoder.largest_side} pixels a side, got {width}x{height}")
        if min(height, width) < encoder.smallest_side:
            raise ValueError(
                f"{self.format.name} needs at least {encoder.smallest_side} pixels a side, got {width}x{height}. "
                "Choose another format, or a larger size."
            )


def nearest_depth(each: Format, chroma: str, wanted: int) -> int:
    """The smallest depth of the format that holds `wanted` bits, else its largest."""
    depths = each.depths.get(chroma) or next(iter(each.depths.values()))
    return min((depth for depth in depths if depth >= wanted), default=max(depths))


def check_in(value: object, allowed: Collection[object], what: str) -> None:
    """Raise a ValueError that begins with `what` and names those allowed, if the value is not among them."""
    if value not in list(allowed):
        raise ValueError(f"{what} {', '.join(map(str, allowed))}; got {shown(value)}")
