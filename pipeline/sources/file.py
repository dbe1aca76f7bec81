"""A video file, or a part of it, decoded one picture at a time."""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Callable, Generator

import av
import torch

from . import exact_fps
from .file_sound import FileSound
from .part import Part
from .rgb import ToRGB, bits_of, has_alpha


class FileSource:
    """A file's first video stream as a `Source`, with its last sound stream.

    Pictures are those that begin in the part; times are taken to be regular. What the decoder refuses of a damaged
    file is left out.

    Args:
        file: its path, or its bytes.
        start, end: seconds; the end may be infinite.
    Raises:
        ValueError: no video in it, no frame in the part, or sound that no file can hold.
    """

    device = torch.device("cpu")
    chunk_frames = 1
    frames_thwc = None

    def __init__(self, file: str | os.PathLike | io.BytesIO, start: float = 0.0, end: float = math.inf):
        self._part = Part(file, start, end)
        with self._part.open() as container:
            stream = _video(container)
            codec = stream.codec_context
            rotated = self._first().rotation % 180 != 0
            self.height, self.width = (codec.width, codec.height) if rotated else (codec.height, codec.width)
            self.fps = exact_fps(stream.average_rate or 1)
            self.bit_depth, self.alpha = bits_of(codec.format), has_alpha(codec.format)
            self._part.seek(container, stream)
            self.frames = sum(1 for packet in container.demux(stream) if packet.size and self._holds(packet, stream))
        self._check_frames()
        sound = FileSound(self._part)
        self.sound = None if sound.is_silent else sound

    def count_by_decoding(self) -> None:
        """Set `frames` to what `decode` delivers: from a damaged file other pictures come than it has packets."""
        with contextlib.closing(self._pictures()) as pictures:
            self.frames = sum(1 for _ in pictures)
        self._check_frames()

    def decode(self, submit: Callable[[torch.Tensor], None]) -> None:
        convert = None
        # Closed here, not when the generator is collected: the traceback of what `submit` raises may keep it for long.
        with contextlib.closing(self._pictures()) as pictures:
            for frame in pictures:
                convert = convert or ToRGB(frame, frame.time_base, self.alpha)
                submit(torch.from_numpy(convert(frame))[:, None])

    def _pictures(self) -> Generator[av.VideoFrame, None, None]:
        """Those of the part; the file is open until the last, or `close`."""
        with self._part.open() as container:
            stream = _video(container)
            self._part.seek(container, stream)
            for frame in _decoded(container, stream):
                if self._part.is_after(frame.pts, stream.time_base):
                    return  # they come in the order they are shown in
                if not self._part.is_before(frame.pts, stream.time_base):
                    yield frame

    def _first(self) -> av.VideoFrame:
        with self._part.open() as container:
            for frame in _decoded(container, _video(container)):
                return frame
        raise ValueError("The file's video has no frame that can be decoded.")

    def _holds(self, packet: av.Packet, stream: av.VideoStream) -> bool:
        at = packet.pts, stream.time_base
        return not self._part.is_before(*at) and not self._part.is_after(*at)

    def _check_frames(self) -> None:
        if self.frames < 1:
            raise ValueError(f"The video has no frames between {self._part.start:g} and {self._part.end:g} seconds.")


def _video(container: av.container.InputContainer) -> av.VideoStream:
    if not container.streams.video:
        raise ValueError("The file has no video in it.")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    return stream


def _decoded(container: av.container.InputContainer, stream: av.VideoStream) -> Generator[av.VideoFrame, None, None]:
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:  # costs these pictures, not the video, as in ComfyUI
            continue
        yield from frames
