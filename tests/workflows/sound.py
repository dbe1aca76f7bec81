"""The sound of a saved file, beside what went into it."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

AAC_FRAME = 1024  # samples


def sound_of(path: Path) -> tuple[np.ndarray, int]:
    """(channels, samples) as a player plays them from the first picture on, and their rate.

    Raises:
        LookupError: it has none.
    """
    with av.open(str(path)) as file:
        if not file.streams.audio:
            raise LookupError(f"no sound in {path.name}")
        stream = file.streams.audio[0]
        frames = list(file.decode(stream))
    start = round(float(frames[0].pts * frames[0].time_base) * stream.rate)
    samples = np.concatenate([frame.to_ndarray() for frame in frames], axis=1)
    silence = np.zeros((samples.shape[0], max(0, start)), samples.dtype)
    return np.concatenate([silence, samples[:, max(0, -start) :]], axis=1), stream.rate


def assert_in_step(path: Path, waveform: np.ndarray, rate: int, seconds: float) -> None:
    """The file plays `waveform` (channels, samples), cut to the picture, neither late nor early anywhere in it."""
    played, played_rate = sound_of(path)
    assert played_rate == rate
    assert abs(played.shape[1] - seconds * rate) <= AAC_FRAME, "as long as the picture"
    # The same at the beginning, in the middle and at the end: no drift.
    window = rate // 4
    for at in (0, int(seconds * rate) // 2, int(seconds * rate) - 2 * window):
        assert abs(delay(waveform[:, at : at + window], played[:, at : at + window])) <= 1, at


def delay(given: np.ndarray, played: np.ndarray) -> int:
    """By how many samples `played` comes later, by where the two are most alike."""
    a, b = given.mean(axis=0), played.mean(axis=0)
    a, b = a - a.mean(), b - b.mean()
    assert a.std() > 1e-3, "nothing to hear"
    alike = np.correlate(b, a, mode="full")
    best = int(np.argmax(alike))
    assert alike[best] > 0.5 * np.linalg.norm(a) * np.linalg.norm(b), "other sound"
    return best - (len(a) - 1)
