"""Which sink writes which format."""

from __future__ import annotations

import io
import os

from .animated import AnimatedPictureSink
from .image_sequence import ImageSequenceSink
from .unfinished import Numbered
from .video_file import VideoFileSink, VideoOptions

_SINKS = {"webp": AnimatedPictureSink, "gif": AnimatedPictureSink, "png": ImageSequenceSink}

FileSink = VideoFileSink | ImageSequenceSink


def file_sink(target: Numbered | str | os.PathLike | io.BytesIO, options: VideoOptions) -> FileSink:
    """A sink that writes `options.choice.format`."""
    return _SINKS.get(options.choice.format.container, VideoFileSink)(target, options)
