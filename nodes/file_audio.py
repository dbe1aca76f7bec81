"""The sound of a video file, decoded while it is encoded again: no more of it is in memory than that takes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from fractions import Fraction

import av
import numpy as np

from ..pipeline.sinks.audio import check_sound


def seek(container: av.container.InputContainer, stream: av.VideoStream | av.AudioStream, start: float) -> None:
    """Go to where decoding must begin for the stream to be whole from `start` seconds on."""
    if start:
        container.seek(int(start / stream.time_base), stream=stream)


class FileAudio:
    """Sound of the part of a file between two times, of the last stream that can be decoded, as ComfyUI takes it.

    Args:
        open: opens the file anew each time.
        start, end: seconds; the end may be infinite.
    Attributes:
        channels, sample_rate: of the sound.
    Raises:
        ValueError: it has more channels than can be written.
    """

    def __init__(self, open: Callable[[], av.container.InputContainer], start: float, end: float):
        self._open, self._start, self._end = open, start, end
        self.sample_rate, self.channels = 0, 0
        pieces = self.pieces()
        first = next(pieces, None)
        pieces.close()
        self.is_silent = first is None
        if first is not None:
            self.channels = len(first)
            check_sound(self.channels, self.sample_rate)

    @functools.cached_property
    def seconds(self) -> Fraction:
        """Its length, which is found by decoding it once: what files say of it is off by up to some codec frames."""
        return Fraction(sum(piece.shape[1] for piece in self.pieces()), self.sample_rate)

    def pieces(self) -> Iterator[np.ndarray]:
        """(channels, n >= 1) float32 in [-1, 1], one after another; the file is open until the last, or `close`."""
        with self._open() as container:
            streams = [stream for stream in container.streams.audio if stream.codec_context is not None]
            if not streams:
                return
            stream, begun = streams[-1], False
            resampler = av.AudioResampler(format="fltp")
            seek(container, stream, self._start)
            for frame in container.decode(stream):
                for piece in resampler.resample(frame):
                    self.sample_rate = rate = piece.sample_rate
                    begins = float(piece.pts * piece.time_base) if piece.pts is not None else self._start
                    skip = 0 if begun else max(0, round((self._start - begins) * rate))
                    samples = piece.to_ndarray()
                    if not math.isinf(self._end):
                        samples = samples[:, : max(0, round((self._end - begins) * rate))]
                    if samples.shape[1] > skip:
                        begun = True
                        yield samples[:, skip:]
                    elif begun:
                        return
