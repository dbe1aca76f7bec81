"""Frames into an H.264 MP4 through PyAV, with sound, tags and metadata."""

from __future__ import annotations

import io
import json
import logging
import os
import uuid
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import torch

from ..pixels import PixelFormat, even_size, planes
from ..video_spec import VideoSpec
from .audio import Audio, AudioTrack

# ITU-T H.273 code points: BT.709 primaries, transfer and matrix are all 1; limited range is 1 in FFmpeg.
BT709 = 1
LIMITED_RANGE = 1
MAX_FPS = 1000

# Frames x264 looks ahead. It holds that many back and encodes them when the last one has come, after the
# decoder has ended; its default of 40 made saving 81 frames of 720p end 0.35 s after the GPU (H100 with 16
# cores, 2026-11-21). 20 made files 3 % smaller at 0.2 dB less on natural pictures: the same trade.
LOOKAHEAD_FRAMES = 20

_FORMATS = {8: PixelFormat.YUV420P, 10: PixelFormat.YUV420P10}


@dataclass(frozen=True, slots=True)
class VideoOptions:
    """How to encode.

    Args:
        fps: frames per second, above 0 and at most 1000.
        bit_depth: 8 or 10.
        crf: x264's constant rate factor, 0 (largest, lossless at 8 bit) to 51; 23 is x264's default.
        audio: sound, cut or padded with silence to the video's length.
        metadata: JSON-able values stored in the file under their keys ("prompt", "workflow").
    Raises:
        ValueError: a value outside of these.
    """

    fps: Fraction
    bit_depth: int = 8
    crf: float = 23.0
    audio: Audio | None = None
    metadata: dict = field(default_factory=dict)

    def __post_init__(self):
        if not 0 < self.fps <= MAX_FPS:
            raise ValueError(f"fps must be above 0 and at most {MAX_FPS}, got {float(self.fps):g}")
        if self.bit_depth not in _FORMATS:
            raise ValueError(f"bit_depth must be 8 or 10, got {self.bit_depth}")
        if not 0 <= self.crf <= 51:
            raise ValueError(f"crf must be between 0 and 51, got {self.crf}")


class VideoFileSink:
    """Writes an MP4 that appears under its name only when it is complete.

    Until then the file has a hidden temporary name in the same folder; `abort` removes it. Colours are
    BT.709 limited range and tagged so. Odd sizes are stored one row or column larger, repeating the
    edge, because 4:2:0 needs even ones.

    Args:
        target: path of the file, replaced if it exists, or a BytesIO (then without fast start, which
            needs a file, and with no temporary).
        options: how to encode.
    """

    name = "the encoder"
    advice = "a lower quality"

    def __init__(self, target: str | os.PathLike | io.BytesIO, options: VideoOptions):
        self.pixel_format = _FORMATS[options.bit_depth]
        self._options = options
        self._path = None if isinstance(target, io.BytesIO) else Path(target)
        self._buffer = target if isinstance(target, io.BytesIO) else None
        self._temporary: Path | None = None
        self._container: av.container.OutputContainer | None = None

    def open(self, spec: VideoSpec) -> None:
        options = self._options
        movflags = "use_metadata_tags"
        if self._path is not None:
            movflags += "+faststart"
            self._temporary = self._path.with_name(f".{self._path.name}.{uuid.uuid4().hex[:8]}.part")
        else:
            self._buffer.seek(0)
            self._buffer.truncate()
        self._height, self._width = even_size(spec.height, spec.width)
        self._frame_seconds = 1 / options.fps
        self._written = 0
        target = self._buffer if self._temporary is None else str(self._temporary)
        self._container = av.open(target, mode="w", format="mp4", options={"movflags": movflags})
        for key, value in options.metadata.items():
            self._container.metadata[key] = json.dumps(value)
        self._video = self._add_video_stream()
        self._audio = None
        if options.audio is not None:
            self._audio = AudioTrack(self._container, options.audio, spec.frames * self._frame_seconds)
        # Opens the encoders and writes the header: what cannot be encoded fails here, not after a decode.
        try:
            self._container.start_encoding()
        except OSError as error:
            raise OSError(error.errno, f"cannot write {self._path}: {error.strerror}") from error
        except av.error.FFmpegError as error:
            raise RuntimeError(
                f"the H.264 encoder cannot be opened for {self._width}x{self._height}, {self.pixel_format.value}, at "
                f"{float(options.fps):g} frames a second (it ends at 16384 pixels a side): {error.strerror}"
            ) from error

    def write(self, pixels: torch.Tensor) -> None:
        for frame_pixels in pixels.split(1):
            self._container.mux(self._video.encode(self._frame(frame_pixels)))
            self._written += 1
            if self._audio is not None:
                self._audio.advance(self._written * self._frame_seconds)

    def close(self) -> None:
        self._container.mux(self._video.encode(None))
        if self._audio is not None:
            self._audio.close()
        self._container.close()
        self._container = None
        if self._temporary is not None:
            os.replace(self._temporary, self._path)
            self._temporary = None

    def abort(self) -> None:
        container, self._container = self._container, None
        if container is not None:
            try:
                container.close()  # writes a trailer, which fails again on a full disk or a dead encoder
            except (OSError, ValueError, RuntimeError) as error:
                logging.debug("async-frame-pipeline: closing an abandoned file: %s", error)
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)
            self._temporary = None

    def _add_video_stream(self) -> av.VideoStream:
        stream = self._container.add_stream("libx264", rate=self._options.fps)
        stream.width, stream.height = self._width, self._height
        stream.pix_fmt = self.pixel_format.value
        stream.options = {"crf": str(self._options.crf), "rc-lookahead": str(LOOKAHEAD_FRAMES)}
        stream.codec_context.time_base = self._frame_seconds
        stream.codec_context.color_range = LIMITED_RANGE
        stream.codec_context.color_primaries = BT709
        stream.codec_context.color_trc = BT709
        stream.codec_context.colorspace = BT709
        return stream

    def _frame(self, packed: torch.Tensor) -> av.VideoFrame:
        """Copy one packed frame into a frame FFmpeg owns: the slot is reused once `write` returns."""
        frame = av.VideoFrame(self._width, self._height, self.pixel_format.value)
        for source, plane in zip(planes(packed, self._height, self._width), frame.planes):
            rows = torch.frombuffer(plane, dtype=source.dtype).view(plane.height, -1)
            rows[:, : plane.width].copy_(source[0])
        frame.pts = self._written
        frame.time_base = self._frame_seconds
        frame.colorspace, frame.color_range = BT709, LIMITED_RANGE
        return frame
