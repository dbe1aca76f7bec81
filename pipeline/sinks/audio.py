"""Sound beside the frames: AAC, encoded while the video is being written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

# Channel layouts FFmpeg's AAC encoder accepts, by number of channels.
LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}
# ISO/IEC 14496-3, table 1.18. Other rates are resampled to 48 kHz.
AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
# Encoded at once: a few AAC frames, so that sound and picture interleave finely in the file.
BLOCK_SAMPLES = 4096


@dataclass(frozen=True, slots=True)
class Audio:
    """A clip's sound.

    Args:
        samples: (channels, n) float32 in [-1, 1], n >= 1; 1 to 6 or 8 channels.
        sample_rate: Hz, > 0.
    Raises:
        ValueError: another shape, number of channels or rate.
    """

    samples: np.ndarray
    sample_rate: int

    def __post_init__(self):
        if self.samples.ndim != 2 or self.samples.shape[1] < 1:
            raise ValueError(f"audio needs samples of shape (channels, n >= 1), got {self.samples.shape}")
        if self.samples.shape[0] not in LAYOUTS:
            raise ValueError(
                f"audio with {self.samples.shape[0]} channels cannot be written as AAC; "
                f"supported are {', '.join(map(str, LAYOUTS))}: mix it down first"
            )
        if self.sample_rate <= 0:
            raise ValueError(f"audio needs a sample rate above 0 Hz, got {self.sample_rate}")


class AudioTrack:
    """An AAC stream in an open container, kept level with the video.

    The sound is cut, or padded with silence, to exactly the video's length, so that players neither
    freeze the last picture nor stop early.

    Args:
        container: PyAV output container; the stream is added to it.
        audio: what to encode.
        seconds: length of the video.
    """

    def __init__(self, container: av.container.OutputContainer, audio: Audio, seconds: Fraction):
        self._container = container
        self._audio = audio
        self._layout = LAYOUTS[audio.samples.shape[0]]
        self._total = math.ceil(seconds * audio.sample_rate)
        self._sent = 0
        rate = audio.sample_rate if audio.sample_rate in AAC_RATES else 48000
        # PyAV resamples to the stream's rate and cuts into AAC frames by itself.
        self._stream = container.add_stream("aac", rate=rate, layout=self._layout)

    def advance(self, seconds: Fraction) -> None:
        """Encode the sound up to `seconds` of the video."""
        self._send(min(self._total, math.ceil(seconds * self._audio.sample_rate)))

    def close(self) -> None:
        """Encode what is left and flush."""
        self._send(self._total)
        self._container.mux(self._stream.encode(None))

    def _send(self, end: int) -> None:
        while self._sent < end:
            stop = min(self._sent + BLOCK_SAMPLES, end)
            channels = self._audio.samples.shape[0]
            block = np.zeros((stop - self._sent, channels), np.float32)
            samples = self._audio.samples[:, self._sent : stop]
            block[: samples.shape[1]] = samples.T
            # Interleaved: PyAV cannot fill the planes of eight channels.
            frame = av.AudioFrame.from_ndarray(block.reshape(1, -1), format="flt", layout=self._layout)
            frame.sample_rate = self._audio.sample_rate
            frame.pts = self._sent
            frame.time_base = Fraction(1, self._audio.sample_rate)
            self._container.mux(self._stream.encode(frame))
            self._sent = stop
