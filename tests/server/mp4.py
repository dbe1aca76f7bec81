"""Reading back a saved MP4 with PyAV, and its boxes by hand."""

from __future__ import annotations

import dataclasses
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


@dataclasses.dataclass(frozen=True, slots=True)
class AudioTrack:
    sample_rate: int
    channels: int
    samples: int

    @property
    def seconds(self) -> float:
        return self.samples / self.sample_rate


@dataclasses.dataclass(frozen=True, slots=True)
class Video:
    """What is in a file; frames are decoded in full.

    Attributes:
        pts: presentation time of each decoded frame in seconds, as stored order gives them.
        seconds: length of the video stream.
        colour: (range, primaries, transfer, matrix) code points of the stream.
        planes: each frame's luma and chroma as the decoder gives them, one after the other in one row.
    """

    path: Path
    width: int
    height: int
    pixel_format: str
    fps: Fraction
    seconds: Fraction
    pts: list[Fraction]
    colour: tuple[int, int, int, int]
    metadata: dict[str, str]
    planes: list[np.ndarray]
    audio: AudioTrack | None

    def frames_equal(self, other: Video) -> bool:
        return len(self.planes) == len(other.planes) and all(map(np.array_equal, self.planes, other.planes))


def read(path: Path) -> Video:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        context = stream.codec_context
        return Video(
            path=path,
            width=context.width,
            height=context.height,
            pixel_format=context.pix_fmt,
            fps=stream.average_rate,
            seconds=stream.duration * stream.time_base,
            pts=[frame.pts * frame.time_base for frame in frames],
            colour=(context.color_range, context.color_primaries, context.color_trc, context.colorspace),
            metadata=dict(container.metadata),
            planes=[_planes(frame) for frame in frames],
            audio=_read_audio(path),
        )


def _planes(frame: av.VideoFrame) -> np.ndarray:
    # Not `to_ndarray`: before PyAV 17 it knows no 10 bit.
    dtype = np.uint16 if frame.format.components[0].bits > 8 else np.uint8
    rows = [np.frombuffer(plane, dtype).reshape(plane.height, -1)[:, : plane.width] for plane in frame.planes]
    return np.concatenate([row.reshape(-1) for row in rows])


def _read_audio(path: Path) -> AudioTrack | None:
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return None
        stream = container.streams.audio[0]
        samples = sum(frame.samples for frame in container.decode(stream))
        return AudioTrack(stream.codec_context.sample_rate, stream.codec_context.channels, samples)


def boxes(path: Path) -> list[str]:
    """Names of the file's top-level boxes, in order."""
    data, names, position = path.read_bytes(), [], 0
    while position < len(data):
        size, name = struct.unpack(">I4s", data[position : position + 8])
        if size == 1:
            [size] = struct.unpack(">Q", data[position + 8 : position + 16])
        names.append(name.decode())
        position += size or len(data)
    return names
