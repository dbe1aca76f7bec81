"""What the lanes are doing while they do it, for somebody who watches; a run without a watcher has none.

Counts frames and adds up when each lane worked. Knows nothing of who watches.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque

import torch

from .ring import Instant, Slot

LANES = ("decode", "copy", "write")
# The chart: when time runs past the last column, pairs of columns are added up and stand for twice the time.
COLUMNS = 96
FIRST_COLUMN_SECONDS = 1 / 64


class Pace:
    """How fast frames come, and when the last will, from when others came.

    Counted from the first frames seen on: those bring all the setting up with them.
    """

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None
        self._last: tuple[int, float] = (0, 0.0)

    def see(self, frames: int, total: int, seconds: float) -> tuple[float | None, float | None]:
        """`frames` of `total` are there after `seconds`.

        Returns:
            (frames a second, seconds left), both None until two lots of frames were seen.
        """
        if frames > self._last[0]:
            self._last = (frames, seconds)
            self._first = self._first or self._last
        if self._first is None or self._last[0] == self._first[0]:
            return None, None
        fps = (self._last[0] - self._first[0]) / (self._last[1] - self._first[1])
        due = self._last[1] + (total - frames) / fps
        return fps, max(0.0, due - seconds)


class Timeline:
    """Frames through each lane, and each lane's busy time in columns of equal length.

    `begin`, `expect` and `look` are for the thread that submits, `arrived` and `wrote` for the sink thread,
    `chart` for any. Times are seconds since decoding began, on the clock of the decoding device.

    Attributes:
        decoded, copied: frames seen to be through these lanes.
        stalled_seconds: how long the decoding device had to wait for slots, as far as is known.
        decoded_seconds: the time of the last decoded chunk that is known.
        pace: of the written frames; for the one thread that asks for it.
    """

    def __init__(self) -> None:
        self.decoded = 0
        self.copied = 0
        self.stalled_seconds = 0.0
        self.decoded_seconds = 0.0
        self.pace = Pace()
        self._undecoded: deque[Slot] = deque()
        self._uncopied: deque[Slot] = deque()
        self._began: torch.cuda.Event | Instant | None = None
        self._device_ahead: float | None = None  # the device's clock minus this thread's
        self._lock = threading.Lock()  # a chart drawn while columns are joined would show a time twice
        self._column_seconds = FIRST_COLUMN_SECONDS
        self._busy = {lane: [0.0] * COLUMNS for lane in LANES}
        self._end = 0.0

    @property
    def busy_share(self) -> float:
        """`Report.busy_share` of the run so far."""
        return 1.0 - self.stalled_seconds / self.decoded_seconds if self.decoded_seconds > 0 else 1.0

    def begin(self, decode_began: torch.cuda.Event | Instant) -> None:
        """This event has been recorded on the compute stream, and decoding starts."""
        self._began = decode_began

    def expect(self, slot: Slot) -> None:
        """A free slot is about to be filled."""
        # What was in it has been written, so its events have passed, and those of all slots before it.
        self.look()
        self._undecoded.append(slot)
        self._uncopied.append(slot)

    def look(self) -> None:
        """Count what is through by now; asks the slots' events and waits for none."""
        while self._undecoded and self._undecoded[0].decoded.query():
            self.decoded += self._undecoded.popleft().frames
        while self._uncopied and self._uncopied[0].copied.query():
            self.copied += self._uncopied.popleft().frames

    def arrived(self, slot: Slot) -> None:
        """A slot's copy has been waited for."""

        def at(event: torch.cuda.Event | Instant) -> float:
            assert self._began is not None, "frames arrive after `begin`"
            return self._began.elapsed_time(event) / 1e3

        if self._device_ahead is None:
            # The sink thread was waiting for the first copy, so it sees its end as it happens.
            self._device_ahead = at(slot.copied) - time.perf_counter()
        with self._lock:
            began = self.decoded_seconds
            if slot.stall is not None:
                ready, got = map(at, slot.stall)
                slot.stall = None
                self._add("decode", began, ready)
                self.stalled_seconds += got - ready
                began = got
            self.decoded_seconds = at(slot.decoded)
            self._add("decode", began, self.decoded_seconds)
            self._add("copy", at(slot.copy_began), at(slot.copied))

    def wrote(self, began: float, ended: float) -> None:
        """The sinks were at work between these two readings of `time.perf_counter`."""
        if self._device_ahead is not None:
            with self._lock:
                self._add("write", began + self._device_ahead, ended + self._device_ahead)

    def chart(self) -> dict:
        """`{"seconds": what the columns span, "decode": [...], "copy": [...], "write": [...]}`.

        A column holds the percentage of its time that the lane was busy, rounded up, so that 0 is idle.
        """
        with self._lock:
            width, end = self._column_seconds, self._end
            # The last column ends with the run; half a column or less counts to the one before.
            last = max(1, math.ceil(end / width - 0.5)) - 1
            columns = {lane: [*busy[:last], sum(busy[last:])] for lane, busy in self._busy.items()}
        lengths = [width] * last + [end - last * width]
        return {"seconds": end} | {
            lane: [
                min(100, math.ceil(100 * busy / length)) for busy, length in zip(columns[lane], lengths) if length > 0
            ]
            for lane in LANES
        }

    def _add(self, lane: str, began: float, ended: float) -> None:
        self._end = max(self._end, ended)
        while self._end > COLUMNS * self._column_seconds:
            self._join_pairs()
        width, busy = self._column_seconds, self._busy[lane]
        for column in range(max(0, int(began / width)), min(COLUMNS - 1, int(ended / width)) + 1):
            inside = min(ended, (column + 1) * width) - max(began, column * width)
            busy[column] += max(0.0, inside)

    def _join_pairs(self) -> None:
        self._column_seconds *= 2
        for lane, busy in self._busy.items():
            self._busy[lane] = [a + b for a, b in zip(busy[::2], busy[1::2])] + [0.0] * (COLUMNS // 2)
