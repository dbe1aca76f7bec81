"""Frames into a folder of numbered pictures."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import torch

from ..pixels import displayable
from ..video_spec import VideoSpec
from .containers import Folder
from .encoders.base import encoder_threads, same_codes
from .frames import to_frame
from .sidecar import Sidecar
from .unfinished import Numbered, Unfinished
from .video_file import VideoOptions, naming_the_file


class ImageSequenceSink:
    """Writes 00001.png, 00002.png and so on, or .exr, into a folder that has its name only when it is complete.

    The first picture holds the metadata, or a workflow.png in the same folder. There is no sound.

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
        self._kind = cast(Folder, options.choice.format.container)
        self._unfinished = Unfinished(target, options.keep_unfinished)
        self._written = 0
        self._encoder: av.VideoCodecContext | None = None

    def open(self, spec: VideoSpec) -> None:
        self._height, self._width = spec.height, spec.width
        self._written = self._taken = 0
        self.path = None
        self._folder = self._unfinished.create()
        choice, kind = self._options.choice, self._options.choice.format.encoder
        encoder = cast(av.VideoCodecContext, av.CodecContext.create(kind.name, "w"))
        encoder.width, encoder.height = spec.width, spec.height
        encoder.pix_fmt = kind.takes(choice.pixel_format)
        encoder.time_base = encoder.sample_aspect_ratio = Fraction(1, 1)  # else the file says that pixels have no width
        encoder.framerate = self._options.fps
        threads = encoder_threads()
        encoder.options = kind.options(choice, spec.height, spec.width, spec.frames, threads)
        # Each thread has a frame of its own: deflate uses one.
        encoder.thread_type, encoder.thread_count = "FRAME", threads
        encoder.open()
        self._encoder = encoder

    def write(self, pixels: torch.Tensor) -> None:
        encoder = self._encoder
        assert encoder is not None and encoder.pix_fmt is not None, "open it first"
        with naming_the_file(self._unfinished.name):
            for packed in pixels.split(1):
                if self._taken == 0 and not self._kind.holds_metadata:
                    sidecar = Sidecar(self._options.metadata)
                    sidecar.take(to_frame(*displayable(packed, self.pixel_format), self._height, self._width))
                    sidecar.write_into(self._folder)
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
            picture = bytes(packet)
            if self._written == 0:
                picture = self._kind.with_metadata(picture, self._options.metadata)
            self._written += 1
            with open(self._folder / f"{self._written:05}.{self._kind.extension}", "xb") as file:
                file.write(picture)
        self.held_frames = self._taken - self._written
