"""When the pictures of a file are shown, as frames of a constant rate: each is repeated until the next one begins.

What comes after a source counts frames (the `frames` output, ping-pong, lengths of sound, GIF, PNG sequences), so the
times of a file whose rate varies become a number of repeats here, once and for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

# Rates that are tried where none that the file states holds its times; the last one where none does.
USUAL_RATES = tuple(map(Fraction, (24, 25, 30, 50, 60)))
# Above it, what a file states is taken for the clock of its times, unless there is a picture at every tick.
MOST_STATED_RATE = 240
MOST_RATE = 1000
# How far from its time a picture may be shown, where that is less than half a frame.
CLOSE_SECONDS = 0.02
# And by how much the last one may be shown too long or too short.
WRONG_LAST_SECONDS = 0.1
# Longer than this, no picture is shown and no silence lasts: a time that says so is a mistake of the file.
LONGEST_SECONDS = 4 * 3600.0


def constant_rate(begins: np.ndarray, stated: Sequence[Fraction], end: float = 0.0) -> Fraction:
    """The lowest rate that gives each picture a frame of its own, at its time.

    Args:
        begins: (n >= 1,) float64 seconds, rising.
        stated: rates in the file; the first is the average.
        end: when the last picture is over, where that is known.
    Returns:
        One of the stated; of USUAL_RATES where none of them will do; the largest of those, or the average if that is
        higher, where none does, and pictures share a frame.
    """
    rates = sorted(set(stated))
    if len(begins) == 1:
        return stated[0] if stated else Fraction(1)
    rate = _rate_of(begins, stated, rates)
    last = end - begins[-1]
    if last > 0 and abs(max(1, round(last * float(rate))) / float(rate) - last) > WRONG_LAST_SECONDS:
        return _rate_of(np.append(begins, end), stated, rates)
    return rate


def rate_without_pauses(begins: np.ndarray, stated: Sequence[Fraction]) -> Fraction:
    """The rate, of the stated and USUAL_RATES, that is nearest to what most of the gaps say.

    Args:
        begins: (n >= 1,) float64 seconds, rising.
    """
    gaps = np.sort(np.diff(begins))
    if not len(gaps):
        return USUAL_RATES[0]
    rate = 1 / float(gaps[(len(gaps) - 1) // 2])
    rates = [each for each in (*stated, *USUAL_RATES) if each <= MOST_STATED_RATE]
    return min(rates, key=lambda each: abs(math.log(float(each) / rate)))


def _rate_of(begins: np.ndarray, stated: Sequence[Fraction], rates: Sequence[Fraction]) -> Fraction:
    since = begins - begins[0]
    for rate in (*stated[:1], *rates):  # the average of a regular file is the nearest to its rate
        if np.array_equal(_nearest(since, rate), np.arange(len(since))) and _holds(since, rate, 0.25):
            return rate
    usable = [rate for rate in rates if rate <= MOST_STATED_RATE]
    for slack in (0.25, 0.5):
        for rate in (*usable, *USUAL_RATES):
            if _holds(since, rate, slack):
                return rate
    return max([USUAL_RATES[-1], *(rate for rate in stated[:1] if rate <= MOST_RATE)])


def _nearest(since: np.ndarray, rate: Fraction) -> np.ndarray:
    return np.rint(since * float(rate)).astype(np.int64)


def _holds(since: np.ndarray, rate: Fraction, slack: float) -> bool:
    """Whether no two pictures share a frame, and none is off by more than so many frames, or by CLOSE_SECONDS."""
    frames = _nearest(since, rate)
    off = np.abs(since * float(rate) - frames).max()
    return bool((np.diff(frames) >= 1).all() and off <= min(slack, CLOSE_SECONDS * float(rate)) + 1e-6)


class Places:
    """Which frames each picture takes.

    Args:
        pts: (n >= 1,) int64 ticks at which pictures begin, rising.
        begins: (n,) float64, the same in seconds.
        end: when the last picture is over, in seconds.
        fps: of the frames.
        lead: how many frames come before picture number `first`, which belong to the pictures before it, or to itself.
        first: 0, or 1 where there is a picture that is seen before.
    Attributes:
        frames: in all, >= 1.
    """

    def __init__(self, pts: np.ndarray, begins: np.ndarray, end: float, fps: Fraction, lead: int = 0, first: int = 0):
        # Counted from a picture, not from the part: half a frame off, every second one would be rounded the other way.
        frames = lead + _nearest(begins - begins[first], fps)
        frames[0] = 0
        self.frames = max(int(frames[-1]) + 1, lead + round((end - begins[first]) * float(fps)))
        self._pts = pts
        self._frames = np.append(frames, self.frames)

    def of(self, pts: int) -> tuple[int, int]:
        """The first frame of the picture that begins at `pts`, and the one after its last; equal where it has none."""
        at = int(np.searchsorted(self._pts, pts))
        if at == len(self._pts) or self._pts[at] != pts:
            return 0, 0
        return int(self._frames[at]), int(self._frames[at + 1])
