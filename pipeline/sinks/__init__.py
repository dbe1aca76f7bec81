"""Where frames go. A sink names the pixels it wants and is driven by the sink thread."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Protocol

import torch

from ..pixels import PixelFormat
from ..video_spec import VideoSpec


class Sink(Protocol):
    """`open` once, `write` for each chunk, `finish`, then `publish`; or `abort` at any point. Then `open` anew.

    A run publishes when all of its sinks have finished, and aborts all of them if anything failed before that.

    Attributes:
        pixel_format: the pixels it wants.
        name, advice: for the verdict on a run that had to wait for it: what it is, and what would make it
            faster, or "": "the encoder", "a lower quality".
        held_frames: how many it has taken and not put out yet.
    """

    @property
    def pixel_format(self) -> PixelFormat: ...

    @property
    def name(self) -> str: ...

    @property
    def advice(self) -> str: ...

    @property
    def held_frames(self) -> int: ...

    def open(self, spec: VideoSpec) -> None:
        """Get ready, before decoding starts, on the caller's thread; raise what makes writing impossible."""

    def write(self, pixels: torch.Tensor) -> None:
        """Take (T, *frame_shape) pixels on the CPU, on the sink thread; they are overwritten after return."""

    def finish(self) -> None:
        """All frames are written: complete what there is, still under a hidden name, on the sink thread; may fail."""

    def publish(self) -> None:
        """Make what is finished appear, on the caller's thread, and do nothing else that could fail."""

    def abort(self) -> None:
        """Leave nothing behind.

        On the sink thread, or on the caller's where that has ended or never began; one after another in any case. Must
        not raise. May come at any time from `open` on: also after that failed, or after `publish` where that of another
        sink failed.
        """


def abort_all(sinks: Iterable[Sink]) -> None:
    """Abort each sink, whatever goes wrong with others; does not raise, so that the error before it is the one seen."""
    for sink in sinks:
        try:
            sink.abort()
        except BaseException as error:
            logging.warning(
                "async-frame-pipeline: %s could not be given up: %s: %s", sink.name, type(error).__name__, error
            )
