"""Forwards, then backwards."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..pixels import PixelFormat
from ..video_spec import VideoSpec
from . import Sink


def ping_pong_frames(frames: int) -> int:
    """How many frames a clip has there and back, without the first and last one twice: it can go round and round."""
    return max(frames, 2 * frames - 2)


class PingPong:
    """Gives another sink every frame, and at the end all but the first and last once more, the last one first.

    Holds the frames for that, as packed as the sink wants them: 1.5 bytes a pixel at 8-bit 4:2:0.

    Args:
        sink: takes `ping_pong_frames` frames.
        frames_at_most: where it ends; None for never before.
    """

    def __init__(self, sink: Sink, frames_at_most: int | None = None):
        self._sink = sink
        self._frames_at_most = frames_at_most
        self._chunks: list[torch.Tensor] = []

    @property
    def pixel_format(self) -> PixelFormat:
        return self._sink.pixel_format

    @property
    def name(self) -> str:
        return self._sink.name

    @property
    def advice(self) -> str:
        return self._sink.advice

    @property
    def held_frames(self) -> int:
        return self._sink.held_frames

    def open(self, spec: VideoSpec) -> None:
        self._chunks = []
        frames = ping_pong_frames(spec.frames)
        self._back = (frames if self._frames_at_most is None else min(frames, self._frames_at_most)) - spec.frames
        self._sink.open(replace(spec, frames=spec.frames + max(0, self._back)))

    def write(self, pixels: torch.Tensor) -> None:
        self._chunks.append(pixels.clone())
        self._sink.write(pixels)

    def finish(self) -> None:
        frames = [frame for chunk in self._chunks for frame in chunk.split(1)]
        self._chunks = []
        for frame in frames[-2:0:-1][: max(0, self._back)]:
            self._sink.write(frame)
        self._sink.finish()

    def publish(self) -> None:
        self._sink.publish()

    def abort(self) -> None:
        self._chunks = []
        self._sink.abort()
