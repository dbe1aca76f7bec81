"""Frames into a folder of numbered PNG files."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import torch

from ..video_spec import VideoSpec
from .formats import encoder_threads
from .frames import to_frame
from .metadata import with_png_texts
from .unfinished import Numbered, Unfinished
from .video_file import VideoOptions, naming_the_file


class ImageSequenceSink:
    """Writes 00001.png, 00002.png and so on into a folder that appears under its name only when it is complete.

    The first picture holds the metadata. There is no sound.

    Args:
        target: of the folder.
        options: how to encode.
    Attributes:
        path: the finished folder, after `publish`; None before and after `abort`.
        held_frames: frames the encoder has taken and not given out yet.
    """

    name = "the encoder"
    advice = "a higher speed"

    def __init__(self, target: Numbered, options: VideoOptions):
        self.pixel_format = options.choice.pixel_format
        self.path: Path | None = None
        self.held_frames = 0
        self._options = options
        self._unfinished = Unfinished(target, options.keep_unfinished)
        self._written = 0
        self._encoder: av.CodecContext | None = None

    def open(self, spec: VideoSpec) -> None:
        self._height, self._width = spec.height, spec.width
        self._written = self._taken = 0
        self.path = None
        self._folder = self._unfinished.create()
        choice = self._options.choice
        options, threads = choice.encoder_options(encoder_threads(), spec.height, spec.width)
        self._encoder = av.CodecContext.create("png", "w")
        self._encoder.width, self._encoder.height = spec.width, spec.height
        # PNG has its 16 bits the other way round.
        self._encoder.pix_fmt = choice.pixel_format.av_name.replace("le", "be")
        self._encoder.time_base = Fraction(1, 1)
        self._encoder.options = options
        # Each thread has a frame of its own: deflate uses one.
        self._encoder.thread_type, self._encoder.thread_count = "FRAME", threads
        self._encoder.open()

    def write(self, pixels: torch.Tensor) -> None:
        with naming_the_file(str(self._unfinished.final)):
            for packed in pixels.split(1):
                frame = to_frame(packed, self.pixel_format, self._height, self._width)
                if frame.format.name != self._encoder.pix_fmt:
                    frame = frame.reformat(format=self._encoder.pix_fmt)
                frame.pts, frame.time_base = self._taken, self._encoder.time_base
                self._taken += 1
                self._store(self._encoder.encode(frame))

    def finish(self) -> None:
        with naming_the_file(str(self._unfinished.final)):
            self._store(self._encoder.encode(None))

    def publish(self) -> None:
        self.path = self._unfinished.publish()

    def abort(self) -> None:
        self._encoder = self.path = None
        self._unfinished.give_up(self._written > 0)

    @property
    def kept(self) -> list[Path]:
        """What failed runs left, see `VideoOptions.keep_unfinished`."""
        return self._unfinished.kept

    def _store(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            png = bytes(packet)
            if self._written == 0:
                png = with_png_texts(png, self._options.metadata)
            self._written += 1
            with open(os.path.join(self._folder, f"{self._written:05}.png"), "xb") as file:
                file.write(png)
        self.held_frames = self._taken - self._written
