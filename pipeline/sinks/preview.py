"""A small H.264 copy that every browser plays, beside a file that browsers do not."""

from __future__ import annotations

import av

from ..pixels import PixelFormat
from .formats import FORMATS, Choice
from .unfinished import Numbered
from .video_file import VideoFileSink, VideoOptions

LONGER_SIDE = 640


class PreviewSink(VideoFileSink):
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
        small = VideoOptions(options.fps, choice, options.audio, None, options.whole_audio, repeat=options.repeat)
        super().__init__(target, small)
        self._small = self.pixel_format
        self.pixel_format = pixel_format

    def _stored_size(self) -> tuple[int, int]:
        shrink = min(1.0, LONGER_SIDE / max(self._height, self._width))
        # Even, as 4:2:0 needs it.
        return tuple(max(2, 2 * round(side * shrink / 2)) for side in (self._height, self._width))

    def _stored_pixels(self) -> PixelFormat:
        return self._small

    def _encodable(self, frame: av.VideoFrame | None) -> list[av.VideoFrame]:
        if frame is None:
            return []
        height, width = self._stored_size()
        # What it is converted from stands in the frame's tags.
        small = frame.reformat(width, height, self._small.av_name, dst_colorspace="ITU709", dst_color_range="MPEG")
        small.pts, small.time_base = frame.pts, frame.time_base
        return [small]
