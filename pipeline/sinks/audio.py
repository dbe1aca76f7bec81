"""Sound beside the frames, encoded while the video is being written."""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Protocol, cast

import av
import numpy as np

# Channel layouts by number of channels, as FFmpeg names them.
LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
# Of those in ISO/IEC 14496-3, table 1.18, the ones that Windows' decoder takes.
# https://learn.microsoft.com/windows/win32/medfound/aac-decoder#format-constraints
AAC_RATES = (48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
# Hz that can be written, by resampling too. Below, FFmpeg's resampler gives nothing out of a second of sound (8.0,
# 2026-11-26); nothing is heard there anyway. Above, it wants more memory than there is.
LEAST_RATE, MOST_RATE = 100, 10_000_000
# Of full scale. Louder is no sound but what a broken model or memory gives, and would be a crack at full scale.
LOUDEST = 100.0
# Encoded at once: a few codec frames, so that sound and picture interleave finely in the file.
BLOCK_SAMPLES = 4096


@dataclass(frozen=True, slots=True)
class AudioCodec:
    """A way to store sound.

    Attributes:
        encoder: FFmpeg's.
        rates: Hz it takes, other sound is resampled to 48 kHz; none if it takes any up to `most_rate`.
        most_rate: Hz.
        channels: how many it takes.
        bits_per_second: for each channel, of a lossy one.
        layouts: those it takes in place of the ones in LAYOUTS; the channels are stored as they come.
        options: FFmpeg's, by number of channels.
    """

    encoder: str
    rates: tuple[int, ...] = ()
    most_rate: int = MOST_RATE
    channels: tuple[int, ...] = tuple(LAYOUTS)
    bits_per_second: int = 0
    layouts: Mapping[int, str] = field(default_factory=dict)
    options: Mapping[int, Mapping[str, str]] = field(default_factory=dict)

    def layout(self, channels: int) -> str:
        """FFmpeg's name of the layout in which so many channels are stored."""
        return self.layouts.get(channels, LAYOUTS[channels])

    def rate(self, sample_rate: int) -> int:
        """Hz at which sound of this rate is stored."""
        takes = sample_rate in self.rates if self.rates else sample_rate <= self.most_rate
        return sample_rate if takes else 48000


CODECS = {
    "aac": AudioCodec("aac", AAC_RATES, channels=(1, 2, 3, 4, 5, 6, 8), bits_per_second=96_000),
    "opus": AudioCodec(
        "libopus",
        (48000,),
        bits_per_second=80_000,
        # RFC 7845, section 5.1.1.2: four channels are quadraphonic.
        layouts={4: "quad"},
        # FFmpeg (5.1 to 8.0, 2026-11-25) puts five and seven channels in another order unless it is told which family.
        options={channels: {"mapping_family": "1"} for channels in (5, 7)},
    ),
    # RFC 9639 section 9.1.2 ends there, FFmpeg's muxers for MP4 and Matroska take it.
    "flac": AudioCodec("flac", most_rate=655_350),
    "pcm": AudioCodec("pcm_s24le"),
}


class Sound(Protocol):
    """What can be written beside frames.

    Attributes:
        channels: 1 to 8.
        sample_rate: Hz, LEAST_RATE to MOST_RATE.
        seconds: its length.
    """

    channels: int
    sample_rate: int
    seconds: Fraction

    def pieces(self) -> Iterator[np.ndarray]:
        """(channels, n >= 1) float32 in [-1, 1], one after another, from the start each time.

        An iterator with a `close`, such as a generator, is closed when no more is needed.
        """


def check_sound(channels: int, sample_rate: int) -> None:
    """Raise a ValueError for a number of channels or a rate that no file can hold."""
    if channels not in LAYOUTS:
        raise ValueError(
            f"audio with {channels} channels cannot be written; supported are {', '.join(map(str, LAYOUTS))}: "
            "mix it down first"
        )
    if not LEAST_RATE <= sample_rate <= MOST_RATE:
        raise ValueError(
            f"audio with {sample_rate} samples a second cannot be written; supported are {LEAST_RATE} to {MOST_RATE} "
            "Hz: resample it first"
        )


@dataclass(frozen=True, slots=True)
class Audio:
    """A clip's sound, in memory.

    Args:
        samples: (channels, n) float32 in [-1, 1], n >= 1; 1 to 8 channels.
        sample_rate: Hz, LEAST_RATE to MOST_RATE.
    Raises:
        ValueError: another shape, number of channels or rate.
    """

    samples: np.ndarray
    sample_rate: int

    def __post_init__(self) -> None:
        if self.samples.ndim != 2 or self.samples.shape[1] < 1:
            raise ValueError(f"audio needs samples of shape (channels, n >= 1), got {self.samples.shape}")
        check_sound(self.channels, self.sample_rate)

    @property
    def channels(self) -> int:
        return self.samples.shape[0]

    @property
    def seconds(self) -> Fraction:
        return Fraction(self.samples.shape[1], self.sample_rate)

    def pieces(self) -> Generator[np.ndarray, None, None]:
        """See `Sound`; views of the samples."""
        for first in range(0, self.samples.shape[1], BLOCK_SAMPLES):
            yield self.samples[:, first : first + BLOCK_SAMPLES]


class CleanSound:
    """A `Sound` of which every sample can be played: what is no number, or far too loud, is silent; what is beyond full
    scale is clipped. Says so in the log, once, after the first time it was read.
    """

    def __init__(self, sound: Sound):
        self.channels, self.sample_rate = sound.channels, sound.sample_rate
        self._sound, self._told = sound, False

    @property
    def seconds(self) -> Fraction:
        return self._sound.seconds

    def pieces(self) -> Generator[np.ndarray, None, None]:
        """See `Sound`."""
        silenced = clipped = 0
        pieces = self._sound.pieces()
        try:
            for piece in pieces:
                if piece.min() >= -1 and piece.max() <= 1:  # neither is so where one is NaN
                    yield piece
                    continue
                is_sound = np.abs(piece) <= LOUDEST
                silenced += np.count_nonzero(~is_sound)
                clipped += np.count_nonzero(is_sound & (np.abs(piece) > 1))
                yield np.clip(np.where(is_sound, piece, 0), -1, 1).astype(np.float32)
        finally:
            if hasattr(pieces, "close"):
                pieces.close()
            if (silenced or clipped) and not self._told:
                self._told = True
                logging.warning(
                    "async-frame-pipeline: of the sound, %d samples are no numbers or far too loud, and are silent; "
                    "%d are beyond full scale, and are clipped",
                    silenced,
                    clipped,
                )


def choose_codec(audio: Sound, offered: tuple[str, ...], wanted: str | None = None) -> str:
    """The codec for this sound: the wanted one, else the first offered that takes its channels.

    Raises:
        ValueError: the container has no such codec, or the codec does not take that many channels.
    """
    if wanted is not None and wanted not in offered:
        raise ValueError(f"this file format can have sound as {', '.join(offered)}; got {wanted}")
    for codec in (wanted,) if wanted else offered:
        if audio.channels in CODECS[codec].channels:
            return codec
    raise ValueError(
        f"audio with {audio.channels} channels cannot be written as {wanted or ' or '.join(offered)}, which takes "
        f"{', '.join(map(str, CODECS[wanted or offered[0]].channels))}: choose another audio codec or mix it down"
    )


class AudioTrack:
    """A stream of sound in an open container, kept level with the video.

    The sound is cut, or padded with silence, to exactly `seconds`, so that players neither freeze the last
    picture nor stop early.

    Args:
        container: PyAV output container; the stream is added to it.
        audio: what to encode.
        codec: a key of CODECS that takes the audio's channels.
        seconds: length of the track.
        tags: of the track.
    """

    def __init__(
        self,
        container: av.container.OutputContainer,
        audio: Sound,
        codec: str,
        seconds: Fraction,
        tags: Mapping[str, str],
    ):
        self._container = container
        self._audio = audio
        self._pieces = iter(audio.pieces())
        self._read = np.empty((audio.channels, 0), np.float32)  # and not sent yet
        self._total = math.ceil(seconds * audio.sample_rate)
        self._sent = 0
        kind = CODECS[codec]
        self._layout = kind.layout(audio.channels)
        # PyAV resamples to the stream's rate and sample format, and cuts into the codec's frames, by itself.
        stream = container.add_stream(kind.encoder, rate=kind.rate(audio.sample_rate), layout=self._layout)
        self._stream = cast(av.AudioStream, stream)
        self._stream.metadata.update(tags)
        self._stream.options = {**kind.options.get(audio.channels, {})}
        if kind.bits_per_second:
            self._stream.bit_rate = kind.bits_per_second * audio.channels
        if codec == "flac":
            # 24 bits: the encoder takes them in 32. Its default of 16 would round float sound.
            self._stream.codec_context.format = av.AudioFormat("s32")

    def __str__(self) -> str:
        """What an encoder that cannot be opened was opened for."""
        context = self._stream.codec_context
        return f"{context.name} cannot be opened for sound with {self._audio.channels} channels at {context.rate} Hz"

    @property
    def is_open(self) -> bool:
        """Whether the encoder could be opened."""
        return self._stream.codec_context.is_open

    def advance(self, seconds: Fraction) -> None:
        """Encode the sound up to `seconds` of the video."""
        self._send(min(self._total, math.ceil(seconds * self._audio.sample_rate)))

    def close(self) -> None:
        """Encode what is left and flush."""
        self._send(self._total)
        self.stop()

    def stop(self) -> None:
        """Flush: the track ends here."""
        self._container.mux(self._stream.encode(None))

    def release(self) -> None:
        """Let go of what the sound is read from; in any state, does not raise."""
        close = getattr(self._pieces, "close", None)
        if close is None:
            return
        try:
            close()
        except Exception as error:
            logging.warning("async-frame-pipeline: closing the source of the sound: %s", error)

    def _send(self, end: int) -> None:
        while self._sent < end:
            stop = min(self._sent + BLOCK_SAMPLES, end)
            block = np.zeros((stop - self._sent, self._audio.channels), np.float32)
            samples = self._next(stop - self._sent)
            block[: samples.shape[1]] = samples.T
            # Interleaved: PyAV cannot fill the planes of eight channels.
            frame = av.AudioFrame.from_ndarray(block.reshape(1, -1), format="flt", layout=self._layout)
            frame.sample_rate = self._audio.sample_rate
            frame.pts = self._sent
            frame.time_base = Fraction(1, self._audio.sample_rate)
            self._container.mux(self._stream.encode(frame))
            self._sent = stop

    def _next(self, count: int) -> np.ndarray:
        """The next samples: so many, or fewer at the end."""
        while self._read.shape[1] < count and (piece := next(self._pieces, None)) is not None:
            self._read = np.concatenate((self._read, piece), axis=1)
        samples, self._read = self._read[:, :count], self._read[:, count:]
        return samples
