"""Files around pictures and sound: what each of FFmpeg's muxers demands, in one class each. Opens none itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

from .metadata import add_to_webp, as_texts, is_exif_key, is_png_keyword, is_tag, with_png_texts

# How often a file that is to be playable while it grows gets what it has so far. It is always behind by up to this and
# by frames that wait for sound, or for others that are shown before them: together less than a second.
FRAGMENT_MILLISECONDS = 500


@dataclass(frozen=True, slots=True)
class Clock:
    """When frames are shown: `fps` of them a second, told in ticks of `tick` seconds."""

    fps: Fraction
    tick: Fraction

    def seconds(self, frames: int) -> Fraction:
        return frames / self.fps

    def ticks(self, frames: int) -> int:
        """The time at which frame number `frames` begins."""
        return round(frames / self.fps / self.tick)


@dataclass(frozen=True, slots=True)
class Writing:
    """What a muxer's options depend on.

    Attributes:
        clock: of the frames.
        frames: how many come.
        repeat: see `VideoOptions`.
        growing: the file is to be playable while it is written.
        on_disk: it is a file, in which the muxer can go back.
    """

    clock: Clock
    frames: int
    repeat: int = 0
    growing: bool = False
    on_disk: bool = True


class Container:
    """One of FFmpeg's muxers. Holds no state.

    Attributes:
        name: FFmpeg's.
        extension: of the file, without dot.
        kind: "video", which may have sound; "animated picture", which players repeat, and which is nothing before it is
            complete; "folder", of pictures.
        audio: sound codecs, the default first.
        restores: whether the frontend finds the workflow in it; of a folder, in a picture of it.
        ticks_per_second: of its times; 0 where frames may last any time.
        most_fps: frames a second that are shown as such; 0 for any.
        codec_tags: names of codecs in the file, by FFmpeg's name of the codec, where the muxer's own will not do.
        pixel_aspect: whether it says which shape pixels have. Matroska could, but PyAV tells its muxer nothing of it.
        in_fragments: whether a file that was playable while it grew consists of fragments, and is to be copied.
    """

    name: ClassVar[str]
    extension: ClassVar[str]
    kind: ClassVar[str] = "video"
    audio: ClassVar[tuple[str, ...]] = ()
    restores: ClassVar[bool] = True
    ticks_per_second: ClassVar[int] = 0
    most_fps: ClassVar[int] = 0
    codec_tags: ClassVar[Mapping[str, str]] = {}
    pixel_aspect: ClassVar[bool] = False
    in_fragments: ClassVar[bool] = False

    def clock(self, fps: Fraction) -> Clock:
        return Clock(fps, Fraction(1, self.ticks_per_second) if self.ticks_per_second else 1 / fps)

    def options(self, writing: Writing) -> dict[str, str]:
        """FFmpeg's options."""
        return {}

    def holds(self, key: str) -> bool:
        """Whether there is a place for metadata of this key, in the file or in the picture that holds it instead."""
        return is_tag(key) if self.restores and self.kind != "folder" else is_png_keyword(key)

    def tags(self, metadata: Mapping[str, object]) -> dict[str, str]:
        """Metadata as tags that the muxer writes."""
        return as_texts(metadata)

    def complete(self, path: Path, metadata: Mapping[str, object]) -> None:
        """Last changes to the closed file, still under its unfinished name."""


class Mp4(Container):
    name = "mp4"
    extension = "mp4"
    audio: ClassVar[tuple[str, ...]] = ("aac", "opus", "flac")
    pixel_aspect = True
    in_fragments = True
    # Says that the parameter sets are in the file's head alone, where FFmpeg puts them. QuickTime, Safari and Photos
    # play no "hev1", the muxer's own choice.
    codec_tags: ClassVar = {"hevc": "hvc1"}

    def options(self, writing: Writing) -> dict[str, str]:
        # Ticks in which it states its length: whole ones for whole frames, not FFmpeg's 1000.
        whole = writing.clock.fps.numerator
        options = {"movie_timescale": str(whole * math.ceil(10_000 / whole))}
        flags = "use_metadata_tags"
        if not writing.growing:
            return options | {"movflags": flags + ("+faststart" if writing.on_disk else "")}
        # The head of the file is written with its first fragment, when the times of the first frames are known.
        return options | {
            "movflags": flags + "+frag_keyframe+delay_moov+default_base_moof",
            "frag_duration": str(FRAGMENT_MILLISECONDS * 1000),
            "flush_packets": "1",
        }


class Mov(Mp4):
    name = "mov"
    extension = "mov"
    audio = ("pcm", "aac")


class Matroska(Container):
    name = "matroska"
    extension = "mkv"
    # Opus first: Matroska has a place for where its sound begins and ends, for AAC it has none.
    audio: ClassVar[tuple[str, ...]] = ("opus", "aac", "flac", "pcm")
    restores = False

    def options(self, writing: Writing) -> dict[str, str]:
        if not writing.growing:
            return {}
        return {"cluster_time_limit": str(FRAGMENT_MILLISECONDS), "flush_packets": "1"}


class WebM(Matroska):
    name = "webm"
    extension = "webm"
    audio = ("opus",)
    restores = True


class AnimatedPicture(Container):
    """What WebP and GIF have in common: it is the player who repeats."""

    kind = "animated picture"

    def tags(self, metadata: Mapping[str, object]) -> dict[str, str]:
        return {}


class WebPFile(AnimatedPicture):
    name = "webp"
    extension = "webp"
    ticks_per_second = 1000
    most_fps = 90  # browsers show a frame of 10 ms or less for 100 ms, in any picture that moves

    def holds(self, key: str) -> bool:
        return is_exif_key(key)

    def options(self, writing: Writing) -> dict[str, str]:
        return {"loop": str(writing.repeat)}

    def complete(self, path: Path, metadata: Mapping[str, object]) -> None:
        if metadata:
            add_to_webp(path, metadata)


class GifFile(AnimatedPicture):
    name = "gif"
    extension = "gif"
    restores = False
    ticks_per_second = 100  # GIF89a
    most_fps = 50  # as above: 1/100 s becomes 10/100 s

    def options(self, writing: Writing) -> dict[str, str]:
        clock, plays = writing.clock, writing.repeat
        last = clock.ticks(writing.frames) - clock.ticks(writing.frames - 1)
        # How often it starts again; -1 leaves that out.
        return {"loop": str(plays - 1 if plays > 1 else {0: 0, 1: -1}[plays]), "final_delay": str(last)}


class Folder(Container):
    """Pictures, each a file of its own.

    Attributes:
        holds_metadata: whether a picture of it has a place for them where the frontend looks.
    """

    kind = "folder"
    holds_metadata: ClassVar[bool] = False

    def with_metadata(self, picture: bytes, metadata: Mapping[str, object]) -> bytes:
        """The first picture, with the metadata in it where it holds them."""
        return picture


class PngFolder(Folder):
    name = "png"
    extension = "png"
    holds_metadata = True

    def with_metadata(self, picture: bytes, metadata: Mapping[str, object]) -> bytes:
        return with_png_texts(picture, metadata)


class ExrFolder(Folder):
    name = "exr"
    extension = "exr"
