"""The sink thread: drains slots into the sinks while the decoder goes on.

Launches nothing on the GPU and never touches the host's interrupt flag: it only waits for events
and writes.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Sequence

import psutil
import torch

from .report import Report
from .ring import Ring, Slot
from .sinks import Sink


class SinkThread(threading.Thread):
    """Writes slots to all sinks in the order they were put, then closes the sinks.

    The first exception ends the thread and is kept in `error` with its traceback.
    """

    def __init__(self, ring: Ring, sinks: Sequence[Sink], report: Report, device: torch.device):
        super().__init__(name="async-frame-pipeline", daemon=True)
        self.error: BaseException | None = None
        self._ring = ring
        self._sinks = sinks
        self._report = report
        self._device = device
        self._filled: queue.SimpleQueue[Slot | None] = queue.SimpleQueue()
        self._abandoned = threading.Event()

    def put(self, slot: Slot) -> None:
        """Hand over a filled slot whose copy has been queued."""
        self._filled.put(slot)

    def finish(self) -> None:
        """Say that no more slots come; the thread then closes the sinks and ends."""
        self._filled.put(None)

    def abandon(self) -> None:
        """End after the write in hand and leave the sinks open, for `Sink.abort`."""
        self._abandoned.set()
        self._filled.put(None)
        if self.ident is not None:
            self.join()

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

    def _drain(self) -> None:
        process, report = psutil.Process(), self._report
        while (slot := self._filled.get()) is not None and not self._abandoned.is_set():
            slot.wait_copied()
            if report.timeline is not None:
                report.timeline.arrived(slot)
            with self._timed_write():
                for sink in self._sinks:
                    sink.write(slot.host[sink.pixel_format][: slot.frames])
            report.held_frames = max(report.held_frames, self._sinks[0].held_frames)
            report.copy_seconds += slot.copy_ms / 1e3
            report.frames += slot.frames
            report.chunks += 1
            report.host_peak_bytes = max(report.host_peak_bytes, process.memory_info().rss)
            self._ring.release(slot)
        if not self._abandoned.is_set():
            with self._timed_write():
                for sink in self._sinks:
                    sink.close()

    @contextlib.contextmanager
    def _timed_write(self):
        began = time.perf_counter()
        yield
        ended = time.perf_counter()
        self._report.write_seconds += ended - began
        if self._report.timeline is not None:
            self._report.timeline.wrote(began, ended)
