"""Forwards, then backwards."""

from __future__ import annotations

from dataclasses import replace

import torch

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
    """

    def __init__(self, sink: Sink):
        self._sink = sink
        self._chunks: list[torch.Tensor] = []

    def __getattr__(self, name: str):
        return getattr(self._sink, name)

    def open(self, spec: VideoSpec) -> None:
        self._chunks = []
        self._sink.open(replace(spec, frames=ping_pong_frames(spec.frames)))

    def write(self, pixels: torch.Tensor) -> None:
        self._chunks.append(pixels.clone())
        self._sink.write(pixels)

    def close(self) -> None:
        frames = [frame for chunk in self._chunks for frame in chunk.split(1)]
        self._chunks = []
        for frame in reversed(frames[1:-1]):
            self._sink.write(frame)
        self._sink.close()

    def abort(self) -> None:
        self._chunks = []
        self._sink.abort()
