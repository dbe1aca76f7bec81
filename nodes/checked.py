"""What other nodes give of sound and time, as the engine takes it: keys and numbers are asked for, never a type."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from ..pipeline.number import number_of
from ..pipeline.sinks.audio import Audio
from ..pipeline.sinks.video_file import MAX_FPS
from . import families
from .log import say

# What stands for silence and for full scale in samples that are whole numbers.
PCM = {torch.uint8: (128, 2**7), torch.int16: (0, 2**15), torch.int32: (0, 2**31)}
# FFmpeg's words for a file without sound, in the error of loaders that look for it when somebody wants it.
NO_SOUND = "does not contain any stream"
# What can be said of the frames of a video in Matroska or MP4.
MOST_DENOMINATOR = 10_000


def checked_fps(fps: Any) -> Fraction:
    """A frame rate: floats in thousandths, as the stock Create Video and Save Video make it of them, all others exact.

    Raises:
        ValueError: not a number above 0 and at most MAX_FPS.
    """
    try:
        number = number_of(fps)
        if 0.001 <= number <= MAX_FPS:
            if isinstance(number, float):
                return Fraction(round(Fraction(number) * 1000), 1000)
            return number.limit_denominator(MOST_DENOMINATOR)
    except ValueError:
        pass
    given = fps if isinstance(fps, (int, float)) else ascii(fps)[:100]
    raise ValueError(f"fps must be a number above 0 and at most {MAX_FPS}, got {given}. {families.frame_rates()}.")


def checked_audio(audio: Any) -> Audio | None:
    """ComfyUI's AUDIO as the engine takes it: its first clip. None where there is nothing to hear.

    Args:
        audio: a dict, or whatever answers to the keys: "waveform", floats in [-1, 1] or PCM of shape (batch, channels,
            samples), (channels, samples) or (samples,); "sample_rate", Hz. None for silence.
    Raises:
        ValueError: it is something else, or more channels than can be written.
        Otherwise: what a loader raises that reads the sound only now.
    """
    if audio is None:
        return None
    found = _waveform_of(audio)
    if found is None:
        return None
    waveform_bcn, sample_rate = found
    return Audio(_in_full_scale(waveform_bcn[0].float().cpu().numpy()), sample_rate)


def trimmed_audio(audio: Any, start: Fraction, end: Fraction) -> dict | None:
    """The part of an AUDIO between two times in seconds, as AUDIO; None where there is nothing to hear."""
    found = None if audio is None else _waveform_of(audio)
    if found is None:
        return None
    waveform, rate = found
    waveform = waveform[..., round(start * rate) : math.ceil(end * rate)]
    # Sound that ended before the part begins leaves silence, which the saver would pad with anyway.
    others = audio if isinstance(audio, Mapping) else {}
    return {**others, "waveform": waveform, "sample_rate": rate} if waveform.shape[-1] else None


def _waveform_of(audio: Any) -> tuple[torch.Tensor, int] | None:
    """(batch, channels, samples) floats, each at least 1, and Hz; None where there is nothing to hear."""
    try:
        waveform, rate = audio["waveform"], audio["sample_rate"]
    except (KeyError, IndexError, TypeError) as error:
        if isinstance(audio, Mapping) and not isinstance(error, TypeError) and not audio:
            return None
        raise _no_audio(type(audio).__name__) from error
    except Exception as error:
        if NO_SOUND not in str(error):
            raise
        say("the audio comes from a file that has no sound: the video is saved without")
        return None
    waveform = _tensor_of(waveform)
    try:
        sample_rate = int(number_of(rate))
    except ValueError:
        sample_rate = 0
    if sample_rate < 1:
        raise _no_audio(f"a sample_rate of {ascii(rate)[:100]}")
    if 0 in waveform.shape:
        say(f"the audio is empty, a waveform of shape {tuple(waveform.shape)}: the video is saved without sound")
        return None
    return waveform[(None,) * (3 - waveform.ndim)], sample_rate


def _tensor_of(waveform: Any) -> torch.Tensor:
    """As floats, 1 to 3 axes."""
    given = type(waveform).__name__
    if not isinstance(waveform, torch.Tensor):
        try:
            array = np.asarray(waveform)
            dtype = np.dtype(np.float32) if array.dtype.kind == "f" else array.dtype.newbyteorder("=")
            # Torch knows neither another order of bytes nor rows that are stored backwards.
            waveform = torch.from_numpy(array.astype(dtype, order="C"))
        except (TypeError, ValueError, RuntimeError) as error:
            raise _no_audio(given) from error
    waveform = waveform.detach()
    if not 1 <= waveform.ndim <= 3 or not (waveform.is_floating_point() or waveform.dtype in PCM):
        raise _no_audio(f"{str(waveform.dtype).removeprefix('torch.')} of shape {tuple(waveform.shape)}")
    if waveform.dtype in PCM:
        silence, full = PCM[waveform.dtype]
        return (waveform.double() - silence).div_(full).float()
    return waveform


def _in_full_scale(samples: np.ndarray) -> np.ndarray:
    """Samples as they are, or, where more than half of what is heard is beyond full scale, all divided by the loudest:
    whole numbers that somebody made floats. As they are they would be noise at full scale.
    """
    if samples.min() >= -1 and samples.max() <= 1:  # neither is so where one is NaN
        return samples
    loudness = np.abs(samples[np.isfinite(samples)])
    if 2 * np.count_nonzero(loudness > 1) <= np.count_nonzero(loudness):
        return samples  # a few, which are clipped where they are written
    loudest = float(loudness.max())
    say(f"the audio is not in [-1, 1], its loudest sample is {loudest:g}: all are divided by that")
    return samples / np.float32(loudest)


def _no_audio(given: str) -> ValueError:
    return ValueError(
        "The audio holds no samples: expected a waveform of shape (batch, channels, samples), floats in [-1, 1], with "
        f"a sample_rate of at least 1, got {given}. Connect an audio with sound in it, or disconnect the input."
    )
