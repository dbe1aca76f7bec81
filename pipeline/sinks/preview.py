"""A small H.264 copy that every browser plays, beside a file that browsers do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from ..pixels import PixelFormat, displayable
from ..video_spec import VideoSpec
from .formats import FORMATS, Choice
from .frames import to_frame
from .unfinished import Numbered
from .video_file import VideoFileSink, VideoOptions

LONGER_SIDE = 640


class PreviewSink:
    """Writes a small MP4 out of the same pixels as another sink, in the same pass.

    Args:
        target: of the copy.
        options: of the other file; frame rate, sound and repeats are taken from it.
        pixel_format: the other sink's, whose buffers it reads.
    """

    name = "the preview"
    advice = ""

    def __init__(self, target: Numbered, options: VideoOptions, pixel_format: PixelFormat):
        choice = Choice(FORMATS["mp4 (h264)"], "medium", "fast")
        small = VideoOptions(
            options.fps,
            choice,
            options.audio,
            None,
            options.whole_audio,
            repeat=options.plays,
            frames_at_most=options.frames_at_most,
        )
        self._file = VideoFileSink(target, small)
        self.pixel_format = pixel_format

    @property
    def path(self) -> Path | None:
        """The finished file, after `publish`; None before and after `abort`."""
        return self._file.path

    @property
    def held_frames(self) -> int:
        return self._file.held_frames

    def open(self, spec: VideoSpec) -> None:
        self._height, self._width = spec.height, spec.width
        shrink = min(1.0, LONGER_SIDE / max(spec.height, spec.width))
        # Even, as 4:2:0 needs it.
        height, width = (max(2, 2 * round(side * shrink / 2)) for side in (spec.height, spec.width))
        self._small = replace(spec, height=height, width=width)
        self._file.open(self._small)

    def write(self, pixels: torch.Tensor) -> None:
        size, name = (self._small.width, self._small.height), self._file.pixel_format.av_name
        for packed in pixels.split(1):
            frame = to_frame(*displayable(packed, self.pixel_format), self._height, self._width)
            # What it is converted from stands in the frame's tags.
            self._file.write_frame(frame.reformat(*size, name, dst_colorspace="ITU709", dst_color_range="MPEG"))

    def finish(self) -> None:
        self._file.finish()

    def publish(self) -> None:
        self._file.publish()

    def abort(self) -> None:
        self._file.abort()
