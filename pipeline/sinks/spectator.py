"""What is only watched: nice to have, and never the reason why a run fails."""

from __future__ import annotations

import logging

import torch

from ..video_spec import VideoSpec
from . import Sink, abort_all


class Spectator:
    """Drives a sink until it raises; then it is aborted and left alone, with one line in the log.

    Args:
        sink: may fail in anything it does. One that never returns holds up the run as any sink does.
    """

    held_frames = 0

    def __init__(self, sink: Sink):
        self.pixel_format, self.name, self.advice = sink.pixel_format, sink.name, sink.advice
        self._sink = sink
        self._dropped = False

    def open(self, spec: VideoSpec) -> None:
        self._try("open", spec)

    def write(self, pixels: torch.Tensor) -> None:
        self._try("write", pixels)

    def finish(self) -> None:
        self._try("finish")

    def publish(self) -> None:
        self._try("publish")

    def abort(self) -> None:
        if not self._dropped:
            self._sink.abort()

    def _try(self, method: str, *args: object) -> None:
        if self._dropped:
            return
        try:
            getattr(self._sink, method)(*args)
        except Exception as error:
            self._dropped = True
            logging.warning(
                "async-frame-pipeline: %s is left out, the run goes on: %s: %s", self.name, type(error).__name__, error
            )
            abort_all([self._sink])
