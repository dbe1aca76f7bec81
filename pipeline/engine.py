"""The loop: a decoder hands over chunks, three lanes carry them into the sinks.

    caller's thread, compute stream      copy stream             sink thread
    decode chunk n
    convert it into slot.device
    record decoded                       wait decoded
                                         device -> host
                                         record copied           wait copied
                                                                 sink.write(slot.host)
                                                                 release the slot

The barriers and why they hold are in `ring.py`. Kernels and copies are launched on the caller's
thread only, and none is left running when `run` returns or raises.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable, Sequence

import torch

from .report import Report
from .ring import POLL_SECONDS, Ring, make_event, page_lock, page_unlock
from .sinks import Sink
from .video_spec import VideoSpec
from .worker import SinkThread

Submit = Callable[[torch.Tensor], None]


# How long the end of the process waits for lanes under way: a chunk of the decoder, and the writes in hand.
STOP_SECONDS = 10

_under_way: set["_Lanes"] = set()


class _Stopped(BaseException):
    """The process is ending in the middle of a run; never leaves `run`."""


class FrameCountError(RuntimeError):
    """The decoder delivered other frames than its spec promised."""


def run(
    decode: Callable[[Submit], None],
    spec: VideoSpec,
    sinks: Sequence[Sink],
    *,
    slots: int = 2,
    frames_per_slot: int = 4,
    check: Callable[[], None] = lambda: None,
    pin: Callable[[torch.Tensor], bool] = page_lock,
    unpin: Callable[[torch.Tensor], object] = page_unlock,
    report: Report | None = None,
) -> Report:
    """Decode a video into sinks while the decoder goes on.

    Args:
        decode: called once on this thread with a `submit` function; calls `submit(frames_cthw)` for
            every chunk in order. A chunk is (spec.channels, T, H, W), any float dtype, T >= 1, on
            `spec.device`; it may be freed or reused on the same stream as soon as `submit` returns.
        spec: what `decode` will deliver.
        sinks: where the frames go, one or more; each gets every frame, in order.
        slots: ring size, >= 2. More ride out a sink that writes in bursts; each costs its bytes once
            on the GPU and once on the host.
        frames_per_slot: longer chunks are cut to this. 2 suits decoders that emit few frames at a time.
        check: called between chunks and every 20 ms while waiting; raise from it to cancel.
        pin, unpin: page-lock host memory through the host application's accounting.
        report: a new one to fill in; give it to read it from another thread while the lanes run.

    Returns:
        The report, after every sink has been closed.
    Raises:
        Whatever failed first: opening a sink (before `decode` is called), `decode`, `check`, or a sink
        in the other thread, with its own traceback. All sinks are then aborted.
        FrameCountError: `decode` delivered frames of another size or number than `spec` says.
    Stream: `decode` runs on the caller's current stream; copies run on a stream of their own. Blocks
        until both are done with everything of this run.
    """
    with _Lanes(spec, sinks, slots, frames_per_slot, check, pin, unpin, report or Report()) as lanes:
        decode(lanes.submit)
        return lanes.finish()


class _Lanes:
    """One run's streams, ring and thread; gives all of it back on exit, however the run ends."""

    def __init__(self, spec, sinks, slots, frames_per_slot, check, pin, unpin, report):
        self._spec = spec
        self._sinks = list(sinks)
        self._frames_per_slot = frames_per_slot
        self._callers_check = check
        self._submitted_frames = 0
        self.stopped = threading.Event()
        self._stalls: list[tuple] = []  # (output was ready, slot was there), two events each
        self._report = report
        report.total_frames, report.slots, report.device = spec.frames, slots, spec.device.type
        report.writer, report.advice = self._sinks[0].name, self._sinks[0].advice
        self._on_cuda = spec.device.type == "cuda"
        formats = [sink.pixel_format for sink in self._sinks]
        self._began_seconds = time.perf_counter()
        if self._on_cuda:
            torch.cuda.reset_peak_memory_stats(spec.device)
        self._copy_stream = torch.cuda.Stream(spec.device) if self._on_cuda else None
        self._ring = Ring(spec, formats, slots, frames_per_slot, pin, unpin)
        report.ring_bytes = self._ring.host_bytes
        self._thread = SinkThread(self._ring, self._sinks, report, spec.device)
        self._decode_began = make_event(spec.device)
        self._decode_ended = make_event(spec.device)

    def __enter__(self):
        _under_way.add(self)
        try:
            for sink in self._sinks:
                sink.open(self._spec)
            self._thread.start()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        self._decode_began_seconds = time.perf_counter()
        self._decode_began.record()
        if self._report.timeline is not None:
            self._report.timeline.begin(self._decode_began)
        return self

    def __exit__(self, kind, error, traceback):
        try:
            if error is not None:
                self._abort()
            else:
                self._ring.close()
        finally:
            _under_way.discard(self)
        if self.stopped.is_set():
            # This thread dies with the process. Whatever it did from here on, such as logging, could meet an
            # interpreter half taken down, which then aborts.
            threading.Event().wait()

    def submit(self, frames_cthw: torch.Tensor) -> None:
        """Send a chunk down the lanes; blocks only while every slot is in use."""
        left = self._spec.frames - self._submitted_frames
        expected = (self._spec.channels, self._spec.height, self._spec.width)
        if (frames_cthw.shape[0], *frames_cthw.shape[2:]) != expected or frames_cthw.shape[1] > left:
            raise FrameCountError(
                f"the decoder delivered a chunk of shape {tuple(frames_cthw.shape)}, "
                f"expected ({self._spec.channels}, T, {self._spec.height}, {self._spec.width}) with T <= {left}"
            )
        for chunk in frames_cthw.split(self._frames_per_slot, dim=1):
            self._check_all()
            slot = self._ring.try_acquire() or self._stall()
            if self._report.timeline is not None:
                self._report.timeline.expect(slot)
            slot.fill(chunk, self._spec.signed)
            slot.start_copy(self._copy_stream)
            self._submitted_frames += slot.frames
            self._thread.put(slot)

    def finish(self) -> Report:
        """Wait until every frame is written and the sinks are closed."""
        if self._submitted_frames != self._spec.frames:
            raise FrameCountError(
                f"the decoder delivered {self._submitted_frames} frames, expected {self._spec.frames}"
            )
        self._decode_ended.record()
        self._thread.finish()
        while self._thread.is_alive():
            self._thread.join(POLL_SECONDS)
            self._check()
        self._raise_sink_error()
        self._decode_ended.synchronize()
        report = self._report
        report.span_seconds = self._decode_began.elapsed_time(self._decode_ended) / 1e3
        report.stalls = len(self._stalls)
        report.stalled_seconds = sum(ready.elapsed_time(got) for ready, got in self._stalls) / 1e3
        if self._on_cuda:
            report.device_peak_bytes = torch.cuda.max_memory_allocated(self._spec.device)
        ended_seconds = time.perf_counter()
        report.tail_seconds = max(0.0, ended_seconds - self._decode_began_seconds - report.span_seconds)
        report.total_seconds = ended_seconds - self._began_seconds
        return report

    def _stall(self):
        """Wait for a slot, and let the GPU's own clock tell how long that left it without work."""
        ready, got = make_event(self._spec.device), make_event(self._spec.device)
        ready.record()
        slot = self._ring.acquire(self._check_all)
        got.record()
        self._stalls.append((ready, got))
        slot.stall = (ready, got)
        return slot

    def _check_all(self) -> None:
        self._raise_sink_error()
        self._check()

    def _check(self) -> None:
        if self.stopped.is_set():
            raise _Stopped
        self._callers_check()

    def _raise_sink_error(self) -> None:
        if self._thread.error is not None:
            raise self._thread.error

    def _abort(self) -> None:
        try:
            self._thread.abandon()
            if self._copy_stream is not None:
                # Copies still under way would write into host memory that is about to be unpinned.
                self._copy_stream.synchronize()
        finally:
            for sink in self._sinks:
                sink.abort()
            self._ring.close()


@atexit.register
def _stop_all() -> None:
    """Let runs in threads that die with the process end as after a failure, so that half-written files are removed."""
    for lanes in list(_under_way):
        lanes.stopped.set()
    deadline = time.monotonic() + STOP_SECONDS
    while _under_way and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
