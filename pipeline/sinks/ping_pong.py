"""Forwards, then backwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from ..pixels import PixelFormat
from ..video_spec import VideoSpec
from . import Sink

Frame = TypeVar("Frame")


def ping_pong_frames(frames: int) -> int:
    """How many frames a clip has there and back, without the first and last one twice: it can go round and round."""
    return max(frames, 2 * frames - 2)


def frames_back(frames: int, at_most: int | None) -> int:
    """How many come after those, where the clip ends at `at_most`; None for never before."""
    there_and_back = ping_pong_frames(frames)
    return max(0, (there_and_back if at_most is None else min(there_and_back, at_most)) - frames)


def way_back(there: Sequence[Frame], count: int) -> Sequence[Frame]:
    """The first `count` frames of the way back."""
    return there[-2:0:-1][:count]


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
        self._back = frames_back(spec.frames, self._frames_at_most)
        self._sink.open(replace(spec, frames=spec.frames + self._back))

    def write(self, pixels: torch.Tensor) -> None:
        self._chunks.append(pixels.clone())
        self._sink.write(pixels)

    def finish(self) -> None:
        frames = [frame for chunk in self._chunks for frame in chunk.split(1)]
        self._chunks = []
        for frame in way_back(frames, self._back):
            self._sink.write(frame)
        self._sink.finish()

    def publish(self) -> None:
        self._sink.publish()

    def abort(self) -> None:
        self._chunks = []
        self._sink.abort()
