"""A small H.264 copy that every browser plays, beside a file that browsers do not."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import torch

from ..pixels import PixelFormat, displayable
from ..stated import Stated
from ..video_spec import VideoSpec
from .formats import FORMATS, Choice
from .frames import colour_tags, to_frame
from .ping_pong import frames_back, way_back
from .unfinished import Numbered
from .video_file import VideoFileSink, VideoOptions

LONGER_SIDE = 640


class PreviewSink:
    """Writes a small MP4 out of the same pixels as another sink, in the same pass.

    Args:
        target: of the copy.
        options: of the other file; frame rate, sound and repeats are taken from it.
        pixel_format: the other sink's, whose buffers it reads.
        ping_pong: forwards, then backwards, as by a `PingPong`, of which this holds the small frames alone.
    """

    name = "the preview"
    advice = ""

    def __init__(self, target: Numbered, options: VideoOptions, pixel_format: PixelFormat, ping_pong: bool = False):
        shape = Stated(pixel_aspect=options.choice.stated.pixel_aspect)
        choice = Choice(FORMATS["mp4 (h264)"], "medium", "fast", stated=shape)
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
        self._stated = options.choice.stated
        self._frames_at_most = options.frames_at_most
        self._ping_pong = ping_pong
        self._there: list[av.VideoFrame] = []
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
        self._there = []
        self._back = frames_back(spec.frames, self._frames_at_most) if self._ping_pong else 0
        self._small = replace(spec, frames=spec.frames + self._back, height=height, width=width)
        self._file.open(self._small)
        self._to_bt709 = None if self._stated.is_bt709 else self._converting()

    def write(self, pixels: torch.Tensor) -> None:
        size, name = (self._small.width, self._small.height), self._file.pixel_format.av_name
        for packed in pixels.split(1):
            frame = to_frame(*displayable(packed, self.pixel_format), self._height, self._width)
            if self._to_bt709 is not None:
                self._to_bt709.push(frame)
                small = self._to_bt709.pull()
            else:
                # What it is converted from stands in the frame's tags.
                small = frame.reformat(*size, name, dst_colorspace="ITU709", dst_color_range="MPEG")
            if self._ping_pong:
                self._there.append(small)
            self._file.write_frame(small)

    def _converting(self) -> av.filter.Graph:
        """What makes SDR of HDR, and BT.709 of other colours: browsers show the copy on any screen."""
        graph, tags = av.filter.Graph(), colour_tags(self.pixel_format)
        height, width = self.pixel_format.stored_size(self._height, self._width)
        # Frames of older PyAVs cannot carry them.
        told = "color_primaries={color_primaries}:color_trc={color_trc}:colorspace={colorspace}".format(**tags)
        graph.link_nodes(
            graph.add_buffer(width=width, height=height, format=self.pixel_format.av_name, time_base=Fraction(1)),
            graph.add("setparams", told),
            graph.add(
                "scale",
                f"{self._small.width}:{self._small.height}:out_range=limited:out_color_matrix=bt709:{self._stated.to_bt709}",
            ),
            graph.add("format", self._file.pixel_format.av_name),
            graph.add("buffersink"),
        ).configure()
        return graph

    def finish(self) -> None:
        there, self._there = self._there, []
        for small in way_back(there, self._back):
            self._file.write_frame(small)
        self._file.finish()

    def publish(self) -> None:
        self._file.publish()

    def abort(self) -> None:
        self._there = []
        self._file.abort()
