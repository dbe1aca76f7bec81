"""Frames into one file through PyAV: a container with a track of pictures and one of sound, and a picture beside it."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import torch

from ..video_spec import VideoSpec
from .audio import AudioTrack, CleanSound, Sound, choose_codec
from .containers import Clock, Writing
from .fragments import defragment
from .frames import to_frame
from .metadata import storable
from .picture_track import PictureTrack
from .sidecar import Sidecar
from .unfinished import InMemory, Numbered, Unfinished

if TYPE_CHECKING:
    from .formats import Choice

MAX_FPS = 1000
# Of a frame: what sound may be longer than pictures, since containers round their times, without another frame for it.
SLIVER = Fraction(1, 20)


def frames_until(seconds: Fraction, fps: Fraction) -> int:
    """How many frames, at least one, are shown until sound of this length ends, the one in which it does included."""
    return max(1, math.ceil(seconds * fps - SLIVER))


@dataclass(frozen=True, slots=True)
class VideoOptions:
    """What to make of the frames.

    Args:
        fps: frames per second, above 0 and at most 1000.
        choice: format, quality and pixels.
        audio: sound.
        audio_codec: one the format has; None for its default.
        whole_audio: keep sound that is longer than the video; else it is cut. Shorter sound is padded with silence.
        metadata: values stored in the file under their keys ("prompt", "workflow"); what cannot be is left out, see
            `storable`.
        repeat: how many times the frames play in the file, or 0: animated pictures for ever, videos once.
        frames_at_most: where it ends, however often it plays; None for never before.
        keep_unfinished: write so that what there is can be played at any time, and keep that if the run fails.
    Raises:
        ValueError: a value outside of these, or sound that the format cannot hold.
    """

    fps: Fraction
    choice: Choice
    audio: Sound | None = None
    audio_codec: str | None = None
    whole_audio: bool = False
    metadata: dict[str, object] = field(default_factory=dict)
    repeat: int = 0
    frames_at_most: int | None = None
    keep_unfinished: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.fps <= MAX_FPS:
            raise ValueError(f"fps must be above 0 and at most {MAX_FPS}, got {float(self.fps):g}")
        if self.repeat < 0:
            raise ValueError(f"repeat must be 0 or more, got {self.repeat}")
        if self.frames_at_most is not None and self.frames_at_most < 1:
            raise ValueError(f"frames_at_most must be 1 or more, got {self.frames_at_most}")
        _ = self.sound_codec  # a ValueError of sound that no codec takes
        if self.audio is not None and not isinstance(self.audio, CleanSound):  # it is where these are another's options
            object.__setattr__(self, "audio", CleanSound(self.audio))
        object.__setattr__(self, "metadata", storable(self.metadata, self.choice.format.container.holds))

    @property
    def sound_codec(self) -> str | None:
        """The codec that the sound is stored with; None where there is no sound, or no place for it."""
        if self.audio is None or not self.choice.format.audio:
            return None
        return choose_codec(self.audio, self.choice.format.audio, self.audio_codec)

    @property
    def plays(self) -> int:
        """How often the frames are in the file, where it does not end before."""
        return max(1, self.repeat) if self.choice.format.is_video else 1

    def total(self, frames: int) -> int:
        """How many frames are in the file where so many come."""
        total = frames * self.plays
        return total if self.frames_at_most is None else min(total, self.frames_at_most)


class VideoFileSink:
    """Writes a video, or an animated picture, that appears under its name only when it is complete.

    Odd sizes are stored one row or column larger where chroma is shared between pixels, repeating the edge.

    Args:
        target: a Numbered; a path, replaced if it exists; or a BytesIO, for MP4 (then without fast start, which
            needs a file).
        options: how to encode.
    Attributes:
        path: the finished file, after `publish`; None before and after `abort`.
        held_frames: frames the encoder has taken and not given out yet.
    Raises, at `open`:
        ValueError: a frame rate or size that the format does not have.
    """

    name = "the encoder"
    advice = "a lower quality or a higher speed"

    def __init__(self, target: Numbered | str | os.PathLike[str] | io.BytesIO, options: VideoOptions):
        self.pixel_format = options.choice.pixel_format
        self.path: Path | None = None
        self._options = options
        self._format = options.choice.format
        self._clock: Clock = self._format.container.clock(options.fps)
        # An animated picture is nothing before it is complete.
        self._keep = options.keep_unfinished and self._format.is_video and not isinstance(target, io.BytesIO)
        self._place = InMemory(target) if isinstance(target, io.BytesIO) else Unfinished(target, self._keep)
        self._finished: Unfinished | None = None  # what `publish` gives a name
        self._container: av.container.OutputContainer | None = None
        self._picture: PictureTrack | None = None
        self._sound: AudioTrack | None = None

    @property
    def held_frames(self) -> int:
        return self._picture.held_frames if self._picture is not None else 0

    @property
    def kept(self) -> list[Path]:
        """What failed runs left, see `VideoOptions.keep_unfinished`."""
        return self._place.kept

    def open(self, spec: VideoSpec) -> None:
        options, choice, muxer = self._options, self._options.choice, self._format.container
        self._picture = self._sound = self._finished = self.path = None
        choice.check_frames(spec.height, spec.width, options.fps)
        self._spec = spec
        self._sidecar = Sidecar({} if self._format.restores else options.metadata)
        writing = Writing(self._clock, spec.frames, options.repeat, self._keep, isinstance(self._place, Unfinished))
        container = av.open(self._place.create(), "w", format=muxer.name, options=muxer.options(writing))
        self._container = container
        container.metadata.update(self._tags)
        total = options.total(spec.frames)
        repeats, cut = total > spec.frames, total % spec.frames > 0
        picture = self._picture = PictureTrack(
            container, choice, self._clock, spec.height, spec.width, spec.frames, repeats, cut
        )
        sound = self._sound = self._add_sound(container, total)
        # Opens the encoders and writes the header: what cannot be encoded fails here, not after a decode.
        try:
            container.start_encoding()
        except OSError as error:
            raise OSError(error.errno, f"cannot write {self._place.name}: {error.strerror}") from error
        except av.error.FFmpegError as error:
            # They are opened one after another: the first that is not open is the one that failed.
            if not picture.is_open:
                message = f"the encoder {picture}: {error.strerror}. Another size, or another format, may work."
            elif sound is not None and not sound.is_open:
                message = f"the encoder {sound}: {error.strerror}. Another audio codec, or another format, may work."
            else:
                message = f"{self._format.name} cannot hold these tracks: {error.strerror}. Choose another format."
            raise RuntimeError(message) from error

    def write(self, pixels: torch.Tensor) -> None:
        for packed in pixels.split(1):
            self.write_frame(to_frame(packed, self.pixel_format, self._spec.height, self._spec.width))

    def write_frame(self, frame: av.VideoFrame) -> None:
        """Take a frame that is FFmpeg's already, in `pixel_format` at the stored size; it becomes the sink's."""
        assert self._picture is not None, "open it first"
        with naming_the_file(self._place.name):
            if self._picture.written == 0:
                self._sidecar.take(frame)
            self._picture.write(frame)
            if self._sound is not None:
                self._sound.advance(self._clock.seconds(self._picture.written))

    def finish(self) -> None:
        assert self._picture is not None and self._container is not None, "open it first"
        with naming_the_file(self._place.name):
            self._picture.close()
            for frames in self._picture.repeat(self._options.total(self._picture.written)):
                if self._sound is not None:
                    self._sound.advance(self._clock.seconds(frames))
            if self._sound is not None:
                self._sound.close()
                self._sound.release()
            self._container.close()
            self._container = None
            if isinstance(self._place, InMemory):
                return
            self._finished = self._completed(self._place, self._picture.written)
        self._sidecar.write(self._finished)

    def publish(self) -> None:
        if self._finished is None:
            return
        self.path = self._finished.publish()
        if self._finished is not self._place and isinstance(self._place, Unfinished):
            self._place.discard()
            self._place.discard_kept()

    def abort(self) -> None:
        container, self._container = self._container, None
        any_frames = self._picture is not None and self._picture.written > 0
        if container is not None:
            if self._keep and self._picture is not None and any_frames:
                with _logging_failures():
                    # What the encoders still hold belongs to what is kept.
                    self._picture.stop()
                    if self._sound is not None:
                        self._sound.stop()
            if self._sound is not None:
                self._sound.release()
            with _logging_failures():
                container.close()  # writes a trailer, which fails again on a full disk or a dead encoder
        if self._finished is not None and self._finished is not self._place:
            self._finished.discard()  # the fragments are kept, where they still are
            if self.path is not None and isinstance(self._place, Unfinished):
                logging.warning("async-frame-pipeline: the video of a run that failed is kept in %s", self.path)
                self._place.kept.append(self.path)
        self._place.give_up(any_frames)
        self._finished = self.path = None

    @property
    def frames(self) -> int:
        """How many are in the file, or will be when it is finished."""
        return self._options.total(self._picture.written) if self._picture is not None else 0

    def _add_sound(self, container: av.container.OutputContainer, frames: int) -> AudioTrack | None:
        options, codec = self._options, self._options.sound_codec
        if options.audio is None or codec is None:
            return None
        seconds = self._clock.seconds(frames)
        if options.whole_audio:
            seconds = max(seconds, options.audio.seconds)
        return AudioTrack(container, options.audio, codec, seconds, options.choice.stated.sound_tags)

    @property
    def _tags(self) -> dict[str, str]:
        """Those of the file that was loaded, and our own, which go before them."""
        return {**self._options.choice.stated.tags, **self._format.container.tags(self._options.metadata)}

    def _completed(self, written: Unfinished, frames: int) -> Unfinished:
        """The closed file as it is to be published: this one, or a copy."""
        assert written.path is not None, "it is being written"
        options, muxer = self._options, self._format.container
        if not (self._keep and muxer.in_fragments):
            muxer.complete(written.path, options.metadata)
            return written
        copy = Unfinished(written.target)
        try:
            whole = muxer.options(Writing(self._clock, frames, options.repeat))
            defragment(written.path, copy.create(), muxer.name, whole, self._tags, options.total(frames))
        except BaseException:
            copy.discard()
            raise
        return copy


@contextlib.contextmanager
def _logging_failures() -> Iterator[None]:
    """For what is tried once more with a file that is given up, after the error that the user sees."""
    try:
        yield
    except Exception as error:
        logging.debug("async-frame-pipeline: closing an abandoned file: %s", error)


@contextlib.contextmanager
def naming_the_file(name: str) -> Iterator[None]:
    """What FFmpeg says of a write that failed, as an error that names the file and the cause."""
    try:
        yield
    except OSError as error:
        if str(error.strerror).startswith("cannot write"):
            raise  # a second file of it, which could not be made
        raise OSError(error.errno, f"cannot write {name}: {error.strerror or error}") from error
    except av.error.FFmpegError as error:
        raise RuntimeError(f"encoding {name} failed: {error.strerror or error}") from error
