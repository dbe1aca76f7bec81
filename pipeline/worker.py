"""The sink thread: drains slots into the sinks while the decoder goes on.

Launches nothing on the GPU and never touches the host's interrupt flag: it only waits for events
and writes.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence

import psutil
import torch

from .report import Report
from .ring import Ring, Slot
from .sinks import Sink, abort_all


class SinkThread(threading.Thread):
    """Writes slots to all sinks in the order they were put, then finishes the sinks.

    The first exception is kept in `error` with its traceback; the thread then aborts the sinks and ends.

    Attributes:
        error: what a sink raised.
        inside: the name of the sink that is being driven, or "".
    """

    def __init__(self, ring: Ring, sinks: Sequence[Sink], report: Report, device: torch.device):
        super().__init__(name="async-frame-pipeline", daemon=True)
        self.error: BaseException | None = None
        self.inside = ""
        self._ring = ring
        self._sinks = sinks
        self._report = report
        self._device = device
        self._filled: queue.SimpleQueue[Slot | None] = queue.SimpleQueue()
        self._abandoned = threading.Event()
        self._aborted = False
        # The sinks that this run has begun to open: the others have nothing of it to give up.
        self.begun: list[Sink] = []

    def put(self, slot: Slot) -> None:
        """Hand over a filled slot whose copy has been queued."""
        self._filled.put(slot)

    def finish(self) -> None:
        """Say that no more slots come; the thread then finishes the sinks and ends."""
        self._filled.put(None)

    def abandon(self, seconds: float) -> bool:
        """End after the call in hand, and abort the sinks; in any state, on the caller's thread.

        The thread aborts them itself if it has not ended: who is inside of a sink is the only one who may touch it, and
        an encoder that never ends would not do so in `abort` either.

        Returns:
            Whether all of that was over within `seconds`. If not, the thread does it when the sink lets it.
        """
        self._abandoned.set()
        self._filled.put(None)
        if self.ident is not None:
            self.join(seconds)
            if self.is_alive():
                return False
        self._abort()
        return True

    def run(self) -> None:
        # ComfyUI's tensors are inference tensors, which refuse in-place writes outside of this mode,
        # and the mode is a thread's own.
        with torch.inference_mode():
            try:
                if self._device.type == "cuda":
                    torch.cuda.set_device(self._device)
                self._drain()
            except BaseException as error:  # the engine raises it in the thread that asked for the run
                self.error = error
            if self.error is not None or self._abandoned.is_set():
                self._abort()

    def _drain(self) -> None:
        process, report = psutil.Process(), self._report
        while (slot := self._filled.get()) is not None and not self._abandoned.is_set():
            slot.wait_copied()
            if report.timeline is not None:
                report.timeline.arrived(slot)
            self._each(lambda sink: sink.write(slot.host[sink.pixel_format][: slot.frames]))
            report.held_frames = max(report.held_frames, self._sinks[0].held_frames)
            report.copy_seconds += slot.copy_ms / 1e3
            report.frames += slot.frames
            report.chunks += 1
            report.host_peak_bytes = max(report.host_peak_bytes, process.memory_info().rss)
            self._ring.release(slot)
        self._each(lambda sink: sink.finish())

    def _each(self, drive: Callable[[Sink], None]) -> None:
        """One call into each sink, timed; no further one once the run is given up."""
        began = time.perf_counter()
        for sink in self._sinks:
            if self._abandoned.is_set():
                break
            self.inside = sink.name
            drive(sink)
        self.inside = ""
        ended = time.perf_counter()
        self._report.write_seconds += ended - began
        if self._report.timeline is not None:
            self._report.timeline.wrote(began, ended)

    def _abort(self) -> None:
        """Once, by whichever thread comes to it; never by two at a time, since one has waited for the other's end."""
        if not self._aborted:
            self._aborted = True
            abort_all(self.begun)
