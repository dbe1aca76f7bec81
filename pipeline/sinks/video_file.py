"""Frames into a video file through PyAV: encoded, tagged, with sound and metadata."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import math
import os
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import torch

from ..pixels import SUBSAMPLING, PixelFormat
from ..video_spec import VideoSpec
from .audio import AudioTrack, Sound, choose_codec
from .formats import FORMATS, Choice, encoder_threads
from .frames import colour_tags, to_frame
from .metadata import as_texts, png_bytes
from .unfinished import Numbered, Unfinished

MAX_FPS = 1000
# More than any encoder decodes ahead of what it shows.
MOST_REORDERED_FRAMES = 1000
# How often a file that is to be playable while it grows gets what it has so far. It is always behind by up to this and
# by frames that wait for sound, or for others that are shown before them: together less than a second.
FRAGMENT_MILLISECONDS = 500


@dataclass(frozen=True, slots=True)
class VideoOptions:
    """What to make of the frames.

    Args:
        fps: frames per second, above 0 and at most 1000.
        choice: format, quality and pixels.
        audio: sound.
        audio_codec: one the format has; None for its default.
        whole_audio: keep sound that is longer than the video; else it is cut. Shorter sound is padded with silence.
        metadata: JSON-able values stored in the file under their keys ("prompt", "workflow").
        repeat: how many times the frames play in the file, or 0: animated pictures for ever, videos once.
        keep_unfinished: write so that what there is can be played at any time, and keep that if the run fails.
    Raises:
        ValueError: a value outside of these, or sound that the format cannot hold.
    """

    fps: Fraction
    choice: Choice = Choice(FORMATS["mp4 (h264)"], "medium")
    audio: Sound | None = None
    audio_codec: str | None = None
    whole_audio: bool = False
    metadata: dict = field(default_factory=dict)
    repeat: int = 0
    keep_unfinished: bool = False

    def __post_init__(self):
        if not 0 < self.fps <= MAX_FPS:
            raise ValueError(f"fps must be above 0 and at most {MAX_FPS}, got {float(self.fps):g}")
        if self.repeat < 0:
            raise ValueError(f"repeat must be 0 or more, got {self.repeat}")
        if self.audio is not None and self.choice.format.audio:
            choose_codec(self.audio, self.choice.format.audio, self.audio_codec)


class VideoFileSink:
    """Writes a video file that appears under its name only when it is complete.

    Odd sizes are stored one row or column larger where chroma is shared between pixels, repeating the edge.

    Args:
        target: a Numbered; a path, replaced if it exists; or a BytesIO, for MP4 (then without fast start, which
            needs a file).
        options: how to encode.
    Attributes:
        path: the finished file, after `publish`; None before and after `abort`.
        held_frames: frames the encoder has taken and not given out yet.
    """

    name = "the encoder"
    advice = "a lower quality or a higher speed"

    def __init__(self, target: Numbered | str | os.PathLike | io.BytesIO, options: VideoOptions):
        self.pixel_format = options.choice.pixel_format
        self.path: Path | None = None
        self.held_frames = 0
        self._options = options
        in_memory = isinstance(target, io.BytesIO)
        self._buffer = target if in_memory else None
        # An animated picture is nothing before it is complete.
        self._keep = options.keep_unfinished and options.choice.format.is_video and not in_memory
        self._unfinished = None if in_memory else Unfinished(target, self._keep)
        self._finished: Unfinished | None = None  # what `publish` gives a name
        self._container: av.container.OutputContainer | None = None
        self._audio: AudioTrack | None = None
        self._written = 0

    # -- the life of a file -----------------------------------------------------------------------

    def open(self, spec: VideoSpec) -> None:
        options = self._options
        options.choice.check_size(spec.height, spec.width)
        self._height, self._width = spec.height, spec.width
        self._frames = spec.frames
        self._frame_seconds = 1 / options.fps
        self._written = self.held_frames = 0
        self._packets: list[av.Packet] = []
        self._picture: bytes | None = None  # which stands beside the file and holds the workflow
        self._finished = self.path = None
        if self._unfinished is not None:
            target = str(self._unfinished.create())
        else:
            target = self._buffer
            self._buffer.seek(0)
            self._buffer.truncate()
        self._container = av.open(target, "w", format=options.choice.format.container, options=self._container_options())
        if options.choice.format.is_video:
            self._container.metadata.update(as_texts(options.metadata))
        self._video = self._add_video_stream()
        self._audio = self._add_audio(spec.frames)
        # Opens the encoders and writes the header: what cannot be encoded fails here, not after a decode.
        try:
            self._container.start_encoding()
        except OSError as error:
            raise OSError(error.errno, f"cannot write {self._name}: {error.strerror}") from error
        except av.error.FFmpegError as error:
            raise RuntimeError(
                f"the encoder {options.choice.format.encoder} cannot be opened for {self._video.width}x"
                f"{self._video.height}, {self._video.pix_fmt}, at {float(options.fps):g} frames a second: "
                f"{error.strerror}. Another size, or another format, may work."
            ) from error

    def write(self, pixels: torch.Tensor) -> None:
        with naming_the_file(self._name):
            for packed in pixels.split(1):
                frame = to_frame(packed, self.pixel_format, self._height, self._width)
                frame.time_base = self._time_base
                frame.pts = self._ticks(self._written)
                if self._written == 0 and self._options.metadata and not self._options.choice.format.restores:
                    with _left_out("the picture with the workflow"):
                        self._picture = png_bytes(frame, self._options.metadata)
                self._written += 1
                self.held_frames += 1
                for each in self._encodable(frame):
                    self._mux(self._video.encode(each))
                if self._audio is not None:
                    self._audio.advance(self._written * self._frame_seconds)

    def finish(self) -> None:
        with naming_the_file(self._name):
            for each in self._encodable(None):
                self._mux(self._video.encode(each))
            self._mux(self._video.encode(None))
            self._repeat()
            if self._audio is not None:
                self._audio.close()
                self._audio.release()
            self._container.close()
            self._container = None
            if self._unfinished is None:
                return
            self._complete(self._unfinished.path)
            fragmented = self._keep and self._options.choice.format.container in ("mp4", "mov")
            self._finished = self._defragment() if fragmented else self._unfinished
        if self._picture is not None:
            with _left_out("the picture with the workflow"):
                self._finished.write_beside("png", self._picture)

    def publish(self) -> None:
        if self._finished is None:
            return
        self.path = self._finished.publish()
        if self._finished is not self._unfinished:
            self._unfinished.discard()
            self._unfinished.discard_kept()

    def abort(self) -> None:
        container, self._container = self._container, None
        if container is not None:
            if self._keep and self._written:
                with _logging_failures():
                    # What the encoders still hold belongs to what is kept.
                    container.mux(self._video.encode(None))
                    if self._audio is not None:
                        self._audio.stop()
            if self._audio is not None:
                self._audio.release()
            with _logging_failures():
                container.close()  # writes a trailer, which fails again on a full disk or a dead encoder
        if self._finished is not None and self._finished is not self._unfinished:
            self._finished.discard()  # the other one is kept
        if self._unfinished is not None:
            self._unfinished.give_up(self._written > 0)
        else:
            with _logging_failures():
                self._buffer.seek(0)
                self._buffer.truncate()
        self._finished = self.path = None

    # -- what differs between kinds of files --------------------------------------------------------

    @property
    def _time_base(self) -> Fraction:
        """Seconds of one tick of the encoder's clock."""
        return self._frame_seconds

    def _ticks(self, frames: int) -> int:
        """The time at which frame number `frames` begins."""
        return round(frames * self._frame_seconds / self._time_base)

    def _container_options(self) -> dict[str, str]:
        kind, keep = self._options.choice.format.container, self._keep
        if kind in ("mp4", "mov"):
            flags = "use_metadata_tags"
            clock = {"movie_timescale": str(_movie_timescale(self._options.fps))}
            if keep:
                # The head of the file is written with its first fragment, when the times of the first frames are known.
                return clock | {
                    "movflags": flags + "+frag_keyframe+delay_moov+default_base_moof",
                    "frag_duration": str(FRAGMENT_MILLISECONDS * 1000), "flush_packets": "1",
                }  # fmt: skip
            return clock | {"movflags": flags + ("+faststart" if self._unfinished is not None else "")}
        if keep:
            return {"cluster_time_limit": str(FRAGMENT_MILLISECONDS), "flush_packets": "1"}
        return {}

    def _encodable(self, frame: av.VideoFrame | None) -> list[av.VideoFrame]:
        """The frames to encode for this one, or at the end for None."""
        if frame is None:
            return []
        if frame.format.name == self._video.pix_fmt:
            return [frame]
        planar = frame.reformat(format=self._video.pix_fmt)  # the same codes, laid out as NVENC wants them
        planar.pts, planar.time_base = frame.pts, frame.time_base
        return [planar]

    def _complete(self, path: Path) -> None:
        """Last changes to the closed file, still under its unfinished name."""

    # -- parts ------------------------------------------------------------------------------------

    @property
    def kept(self) -> list[Path]:
        """What failed runs left, see `VideoOptions.keep_unfinished`."""
        return self._unfinished.kept if self._unfinished is not None else []

    @property
    def _name(self) -> str:
        return str(self._unfinished.final) if self._unfinished is not None else "the video"

    def _add_video_stream(self) -> av.VideoStream:
        choice = self._options.choice
        height, width = self._stored_size()
        options, threads = choice.encoder_options(encoder_threads(), height, width)
        stream = self._container.add_stream(choice.format.encoder, rate=self._options.fps)
        stream.height, stream.width = height, width
        stream.pix_fmt = self._stream_name()
        if any(SUBSAMPLING.get(self._stored_pixels().layout, ())):
            # H.264 and H.265 mean this where nothing is said; AV1, VP9 and FFV1 do not.
            options = options | {"chroma_sample_location": "left"}
        stream.options = options
        if threads:
            stream.codec_context.thread_count = threads
        stream.codec_context.time_base = self._time_base
        for tag, value in colour_tags(self._stored_pixels()).items():
            setattr(stream.codec_context, tag, value)
        return stream

    def _stored_size(self) -> tuple[int, int]:
        return self.pixel_format.stored_size(self._height, self._width)

    def _stored_pixels(self) -> PixelFormat:
        """What the file will hold."""
        return self.pixel_format

    def _stream_name(self) -> str:
        """FFmpeg's name of the pixels the encoder takes."""
        encoder, stored = self._options.choice.format.encoder, self._stored_pixels()
        return "p010le" if encoder.endswith("_nvenc") and stored.bits == 10 else stored.av_name

    def _add_audio(self, frames: int) -> AudioTrack | None:
        options = self._options
        if options.audio is None or not options.choice.format.audio:
            return None
        seconds = frames * self._frame_seconds * max(1, options.repeat)
        if options.whole_audio:
            seconds = max(seconds, options.audio.seconds)
        codec = choose_codec(options.audio, options.choice.format.audio, options.audio_codec)
        return AudioTrack(self._container, options.audio, codec, seconds)

    def _mux(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            self.held_frames -= 1
            # Every frame lasts as long as the next; the muxer would guess for the last.
            if not packet.duration:
                packet.duration = self._ticks(1)
            # x265 makes its decoding times from memory it never wrote to where there are only one or two frames.
            if packet.dts is None or abs(packet.pts - packet.dts) > self._ticks(MOST_REORDERED_FRAMES):
                packet.dts = packet.pts
            if self._options.repeat > 1:
                self._packets.append(packet)
        self._container.mux(packets)

    def _repeat(self) -> None:
        """Play it again: the same packets later. The encoder's output is all that is held for it."""
        packets, self._packets = self._packets, []
        at = [(packet.pts, packet.dts) for packet in packets]
        for turn in range(1, self._options.repeat):
            frames = turn * self._written
            for packet, (pts, dts) in zip(packets, at):
                # On the clock that the muxer gave it; from the start each time, so that rounding does not add up.
                later = round(frames * self._frame_seconds / packet.time_base)
                packet.pts, packet.dts = pts + later, dts + later
                self._container.mux(packet)
            if self._audio is not None:
                self._audio.advance((frames + self._written) * self._frame_seconds)

    def _defragment(self) -> Unfinished:
        """Copy the packets into a file whose index comes first, without encoding anew."""
        options = self._options
        finished = Unfinished(self._unfinished.target)
        try:
            path = finished.create()
            movflags = {"movflags": "use_metadata_tags+faststart", "movie_timescale": str(_movie_timescale(options.fps))}
            with (
                av.open(str(self._unfinished.path)) as source,
                av.open(str(path), "w", format=options.choice.format.container, options=movflags) as copy,
            ):
                copy.metadata.update(as_texts(options.metadata))
                # Opaque: it is copied, so there need be no encoder of its name.
                streams = {stream.index: copy.add_stream_from_template(stream, opaque=True) for stream in source.streams}
                whole = 0
                for packet in source.demux():
                    if packet.dts is not None:
                        whole += packet.stream.type == "video" and not packet.is_corrupt
                        packet.stream = streams[packet.stream.index]
                        copy.mux(packet)
            # FFmpeg does not tell when the last fragment could not be written.
            expected = self._written * max(1, options.repeat)
            if whole != expected:
                raise OSError(errno.EIO, f"{whole} of {expected} frames could be written. Is the disk full?")
        except BaseException:
            finished.discard()
            raise
        return finished


def _movie_timescale(fps: Fraction) -> int:
    """Ticks a second in which an MP4 states its length: whole ones for whole frames, not FFmpeg's 1000."""
    return fps.numerator * math.ceil(10_000 / fps.numerator)


@contextlib.contextmanager
def _logging_failures():
    """For what is tried once more with a file that is given up, after the error that the user sees."""
    try:
        yield
    except Exception as error:
        logging.debug("async-frame-pipeline: closing an abandoned file: %s", error)


@contextlib.contextmanager
def _left_out(what: str):
    """For what goes beside a video, and never costs it."""
    try:
        yield
    except Exception as error:
        logging.warning("async-frame-pipeline: %s is left out: %s", what, error)


@contextlib.contextmanager
def naming_the_file(name: str):
    """What FFmpeg says of a write that failed, as an error that names the file and the cause."""
    try:
        yield
    except OSError as error:
        if str(error.strerror).startswith("cannot write"):
            raise  # a second file of it, which could not be made
        raise OSError(error.errno, f"cannot write {name}: {error.strerror or error}") from error
    except av.error.FFmpegError as error:
        raise RuntimeError(f"encoding {name} failed: {error.strerror or error}") from error
