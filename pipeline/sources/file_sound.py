"""The sound of a video file, decoded while it is encoded again: no more of it is in memory than that takes."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Generator
from fractions import Fraction

import av
import numpy as np

from ..sinks.audio import check_sound
from .part import Part
from .times import LONGEST_SECONDS

# Shorter ones may be a codec's way of counting.
PAUSE_SECONDS = 0.1
SILENT_SAMPLES = 48000  # given at once


class FileSound:
    """A `Sound`: that of a part of a file, of the last stream that can be decoded, as ComfyUI takes it.

    It keeps its times: where it begins later than the pictures, or pauses, there is silence. A damaged place is silent,
    as long as its packets say it is.

    Args:
        part: of the file.
    Attributes:
        is_silent: whether there is none; nothing else is known then.
        channels, sample_rate: of the sound.
        begins: when the first of it is heard, in seconds on the file's clock.
        zero: when the first sample given is heard, likewise; before the sound there is silence, what is earlier is left
            out. That of the part, or where the sound begins, until `begin_at`.
    Raises:
        ValueError: it has more channels than can be written.
    """

    def __init__(self, part: Part):
        self._part = part
        self.sample_rate, self.channels = 0, 0
        self.begins = self.zero = part.start
        pieces = self._heard()
        first = next(pieces, None)
        pieces.close()
        self.is_silent = first is None
        if first is not None:
            begins, samples = first
            self.begins = max(part.start, begins) if part.start else begins
            self.zero = part.start or self.begins
            self.channels = len(samples)
            check_sound(self.channels, self.sample_rate)

    def begin_at(self, zero: float) -> None:
        """Set `zero`, by which it may become longer or shorter."""
        if zero != self.zero:
            self.zero = zero
            self.__dict__.pop("seconds", None)

    @functools.cached_property
    def seconds(self) -> Fraction:
        """Its length, which is found by decoding it once: what files say of it is off by up to some codec frames."""
        return Fraction(sum(piece.shape[1] for piece in self.pieces()), self.sample_rate)

    def pieces(self) -> Generator[np.ndarray, None, None]:
        """See `Sound`; the file is open until the last piece, or `close`."""
        given = 0
        with contextlib.closing(self._heard()) as heard:
            for begins, samples in heard:
                belongs = round((begins - self.zero) * self.sample_rate)
                if belongs - given > LONGEST_SECONDS * self.sample_rate:
                    belongs = given  # that time is wrong
                if given == 0 or belongs - given > PAUSE_SECONDS * self.sample_rate:
                    samples = samples[:, max(0, -belongs) :]
                    while given < belongs:
                        silent = min(SILENT_SAMPLES, belongs - given)
                        yield np.zeros((self.channels, silent), np.float32)
                        given += silent
                if samples.shape[1]:
                    yield samples
                    given += samples.shape[1]

    def _heard(self) -> Generator[tuple[float, np.ndarray], None, None]:
        """The sound of the part: when each piece begins, and its samples (channels, n >= 1)."""
        part = self._part
        with part.open() as container:
            stream, begun = sound_stream(container), False
            if stream is None:
                return
            part.seek(container, stream)
            for begins, samples in self._decoded(container, stream):
                skip = 0 if begun or not part.start else max(0, round((part.start - begins) * self.sample_rate))
                if not math.isinf(part.end):
                    samples = samples[:, : max(0, round((part.end - begins) * self.sample_rate))]
                if samples.shape[1] > skip:
                    begun = True
                    yield begins + skip / self.sample_rate, samples[:, skip:]
                elif begun:
                    return

    def _decoded(
        self, container: av.container.InputContainer, stream: av.AudioStream
    ) -> Generator[tuple[float, np.ndarray], None, None]:
        """When they begin in seconds, and samples (channels, n >= 1), one after another; zeros where it is damaged."""
        resampler = av.AudioResampler(format="fltp")
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                # What follows keeps its time. What the packet says may be damaged too.
                seconds = min(float((packet.duration or 0) * stream.time_base), LONGEST_SECONDS)
                silent = round(seconds * self.sample_rate) if self.channels else 0
                for at in range(0, silent, SILENT_SAMPLES):
                    piece = np.zeros((self.channels, min(SILENT_SAMPLES, silent - at)), np.float32)
                    yield self._seconds(packet) + at / self.sample_rate, piece
                continue
            for frame in frames:
                for piece in resampler.resample(frame):
                    self.sample_rate = piece.sample_rate
                    yield self._seconds(piece), piece.to_ndarray()

    def _seconds(self, timed: av.Packet | av.AudioFrame) -> float:
        return float(timed.pts * timed.time_base) if timed.pts is not None else self._part.start


def sound_stream(container: av.container.InputContainer) -> av.AudioStream | None:
    """The last that can be decoded."""
    return next((each for each in reversed(container.streams.audio) if each.codec_context is not None), None)
