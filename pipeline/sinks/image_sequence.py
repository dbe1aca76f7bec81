"""Frames into a folder of numbered PNG files."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import torch

from ..video_spec import VideoSpec
from .encoders.base import encoder_threads, same_codes
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
        self._encoder: av.VideoCodecContext | None = None

    def open(self, spec: VideoSpec) -> None:
        self._height, self._width = spec.height, spec.width
        self._written = self._taken = 0
        self.path = None
        self._folder = self._unfinished.create()
        choice, png = self._options.choice, self._options.choice.format.encoder
        encoder = cast(av.VideoCodecContext, av.CodecContext.create(png.name, "w"))
        encoder.width, encoder.height = spec.width, spec.height
        encoder.pix_fmt = png.takes(choice.pixel_format)
        encoder.time_base = Fraction(1, 1)
        threads = encoder_threads()
        encoder.options = png.options(choice, spec.height, spec.width, threads)
        # Each thread has a frame of its own: deflate uses one.
        encoder.thread_type, encoder.thread_count = "FRAME", threads
        encoder.open()
        self._encoder = encoder

    def write(self, pixels: torch.Tensor) -> None:
        encoder = self._encoder
        assert encoder is not None and encoder.pix_fmt is not None, "open it first"
        with naming_the_file(self._unfinished.name):
            for packed in pixels.split(1):
                frame = to_frame(packed, self.pixel_format, self._height, self._width)
                frame.pts, frame.time_base = self._taken, encoder.time_base
                self._taken += 1
                self._store(encoder.encode(same_codes(frame, encoder.pix_fmt)))

    def finish(self) -> None:
        assert self._encoder is not None, "open it first"
        with naming_the_file(self._unfinished.name):
            self._store(self._encoder.encode(None))

    def publish(self) -> None:
        self.path = self._unfinished.publish()

    def abort(self) -> None:
        self._encoder = self.path = None
        self._unfinished.give_up(self._written > 0)

    @property
    def frames(self) -> int:
        """How many pictures are written."""
        return self._written

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
