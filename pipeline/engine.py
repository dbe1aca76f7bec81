"""The loop: a decoder hands over chunks, three lanes carry them into the sinks.

    caller's thread, compute stream      copy stream             sink thread
    decode chunk n
    convert it into slot.device
    record decoded                       wait decoded
                                         device -> host
                                         record copied           wait copied
                                                                 sink.write(slot.host)
                                                                 release the slot

When the decoder is done the sink thread finishes every sink; only then, and after a last look for a cancel, the
caller's thread publishes them all. So a run commits, or every sink is aborted.

The barriers and why they hold are in `ring.py`. Kernels and copies are launched on the caller's
thread only, and no copy is left running when `run` returns or raises; what a decoder had launched
before an error may be.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import TracebackType

import torch

from .ends import Ends
from .main_memory import page_lock, page_unlock
from .report import Report
from .ring import POLL_SECONDS, Ring, Slot, make_event
from .sinks import Sink
from .sinks.spectator import Spectator
from .video_spec import VideoSpec
from .worker import SinkThread

Submit = Callable[[torch.Tensor], None]


# How long the end of the process waits for lanes under way: a chunk of the decoder, and the writes in hand.
STOP_SECONDS = 10
# How long a run that is over waits for the sink it is to give up. Encoders exist that never return (svt_av1.py knows
# one), and a cancel must come through; one that is only slow gives up its file when it does return.
STUCK_SECONDS = 30

_under_way: set[_Lanes] = set()
# Runs that ended while a sink was stuck: their slots belong to it until it returns, and a next run takes them back.
_stuck: set[_Lanes] = set()


class DecodeError(RuntimeError):
    """The decoder failed, and neither a lane nor a check had; its own error, if it raised one, is the `__cause__`."""


class FrameCountError(DecodeError):
    """The decoder delivered other frames than its spec promised."""


class _Enough(BaseException):
    """Ends a decoder's loop from inside, once it has delivered the last frame asked for; never leaves `run`."""


class _Stopped(BaseException):
    """The process is ending in the middle of a run; never leaves `run`."""


def run(
    decode: Callable[[Submit], None],
    spec: VideoSpec,
    sinks: Sequence[Sink],
    *,
    spectators: Sequence[Sink] = (),
    frames: tuple[int, int] | None = None,
    slots: int = 2,
    frames_per_slot: int = 4,
    check: Callable[[], None] = lambda: None,
    progress: Callable[[int], None] = lambda frames: None,
    pin: Callable[[torch.Tensor], bool] = page_lock,
    unpin: Callable[[torch.Tensor], object] = page_unlock,
    report: Report | None = None,
    ends: Ends | None = None,
) -> Report:
    """Decode a video into sinks while the decoder goes on.

    Args:
        decode: called once on this thread with a `submit` function; calls `submit(frames_cthw)` for
            every chunk in order. A chunk is (spec.channels, T, H, W), any float dtype, T >= 1, on
            `spec.device`; it may be freed or reused on the same stream as soon as `submit` returns,
            which on a GPU, from the third on, it does when the chunk before is done.
        spec: what `decode` will deliver in all.
        sinks: where the frames go, one or more; each gets every frame, in order. The first is what the user
            asked for: it is published first, and the report speaks of it.
        spectators: sinks of what is only watched. One that raises, in whatever it does, is aborted and left
            out from there on, with one line in the log; it never fails the run.
        frames: (start, stop), the part to deliver; None for all. Frames before it are decoded, since later ones
            depend on them, and dropped; decoding ends with the chunk that holds frame `stop - 1`.
        slots: ring size, >= 2. More ride out a sink that writes in bursts; each costs its bytes once
            on the GPU and once on the host.
        frames_per_slot: longer chunks are cut to this. 2 suits decoders that emit few frames at a time.
        check: called between chunks and every 20 ms while waiting, the last time when all sinks have
            finished and none is published; raise from it to cancel.
        progress: called after each chunk with the number of frames submitted so far, of those asked for. What
            it raises counts as raised by `check`: hosts cancel from there too.
        pin, unpin: page-lock host memory through the host application's accounting.
        report: a new one to fill in; give it to read it from another thread while the lanes run.
        ends: takes the first and the last frame of those asked for.

    Returns:
        The report, after every sink has been published.
    Raises:
        The run's first error, with its own traceback; all sinks that were opened are then aborted. Where there
        are several, a lane's (a sink, a conversion, a copy, memory for them) comes before a check's, and that before
        the decoder's. A decoder cannot hide the first two: whatever it makes of an error of `submit`, that error
        comes out.
        DecodeError: the decoder itself raised an Exception, its `__cause__`. What is no Exception, such as
            KeyboardInterrupt or a host's own cancel, comes out as it is.
        FrameCountError: `decode` delivered frames of another size or number than `spec` says; a DecodeError.
        ValueError: no sinks, no frames in `frames`, fewer than 2 slots; before anything is opened.
        RuntimeError: a sink has not returned yet from an earlier run, see STUCK_SECONDS.
    Stream: `decode` runs on the caller's current stream; copies run on a stream of their own. Blocks
        until both are done with everything of this run.
    """
    if not sinks:
        raise ValueError("a run needs at least one sink to write to, got none")
    start, stop = window = (0, spec.frames) if frames is None else frames
    if not 0 <= start < stop <= spec.frames:
        raise ValueError(f"there are no frames from {start} to {stop} in a video of {spec.frames}")
    _reclaim([*sinks, *spectators])
    lanes = _Lanes(spec, window, sinks, spectators, frames_per_slot, check, progress, report or Report(), ends)
    with lanes.opened(slots, pin, unpin):
        lanes.decode(decode)
        lanes.finish()
        lanes.publish()
    return lanes.report


class _Lanes:
    """One run's streams, ring and thread; gives all of it back however the run ends."""

    def __init__(
        self,
        spec: VideoSpec,
        window: tuple[int, int],
        sinks: Sequence[Sink],
        spectators: Sequence[Sink],
        frames_per_slot: int,
        check: Callable[[], None],
        progress: Callable[[int], None],
        report: Report,
        ends: Ends | None,
    ):
        self.stopped = threading.Event()
        self.report = report
        self.given = [*sinks, *spectators]
        self._spec = spec
        self._start, self._stop = window
        self._sinks: list[Sink] = [*sinks, *map(Spectator, spectators)]
        self._frames_per_slot = frames_per_slot
        self._callers_check = check
        self._progress = progress
        self._ends = ends
        if ends is not None:
            ends.begin(spec)
        self._delivered_frames = 0  # by the decoder
        self._submitted_frames = 0  # to the lanes: those of the window
        self._refusal: BaseException | None = None  # what `submit` raised, and will raise from then on
        self._stalls: list[tuple] = []  # (output was there, slot was there), two events each
        self._piece_ends: deque = deque(maxlen=3)  # an event at the end of each of the decoder's last pieces
        self._on_cuda = spec.device.type == "cuda"

    @contextlib.contextmanager
    def opened(
        self, slots: int, pin: Callable[[torch.Tensor], bool], unpin: Callable[[torch.Tensor], object]
    ) -> Iterator[None]:
        """For the length of the run; whatever fails in here or in the block, from here on all is given back."""
        device, report = self._spec.device, self.report
        with contextlib.ExitStack() as stack:
            stack.callback(self._end_with_the_process)
            _under_way.add(self)
            stack.callback(_under_way.discard, self)
            report.total_frames, report.slots, report.device = self._stop - self._start, slots, device.type
            report.width, report.height = self._spec.width, self._spec.height
            report.writer, report.advice = self._sinks[0].name, self._sinks[0].advice
            self._began_seconds = time.perf_counter()
            self._peak_before_bytes = torch.cuda.max_memory_allocated(device) if self._on_cuda else 0
            self._copy_stream = torch.cuda.Stream(device) if self._on_cuda else None
            formats = [sink.pixel_format for sink in self._sinks]
            self._ring = Ring(self._spec, formats, slots, self._frames_per_slot, pin, unpin)
            stack.callback(self._close_ring)
            report.ring_bytes = self._ring.host_bytes
            self.thread = SinkThread(self._ring, self._sinks, report, device)
            stack.callback(self._forget_errors)
            stack.push(self._abort)
            spec = replace(self._spec, frames=report.total_frames)
            for sink in self._sinks:
                self.thread.begun.append(sink)
                sink.open(spec)
            self.thread.start()
            self._decode_began, self._decode_ended = make_event(device), make_event(device)
            self._decode_began_seconds = time.perf_counter()
            self._decode_began.record()
            if report.timeline is not None:
                report.timeline.begin(self._decode_began)
            yield

    # -- the run ----------------------------------------------------------------------------------

    def decode(self, decode: Callable[[Submit], None]) -> None:
        """Let the decoder submit its frames, and say whose error it was if that fails."""
        own = None
        try:
            decode(self.submit)
        except BaseException as error:
            own = error
        try:
            self._raise_lane_error()
            enough = isinstance(self._refusal, _Enough)
            if self._refusal is not None and not enough:
                raise self._refusal
            if own is not None and not isinstance(own, (Exception, _Enough)):
                raise own
            if enough:  # whatever the decoder made of being stopped
                return
            if own is not None:
                self._check()
                raise DecodeError(f"{type(own).__name__}: {own}") from own
            if self._delivered_frames != self._spec.frames:
                raise FrameCountError(
                    f"the decoder delivered {self._delivered_frames} frames, expected {self._spec.frames}"
                )
        finally:
            own = None  # an error that its own traceback leads back to would keep the decoder's memory

    def submit(self, frames_cthw: torch.Tensor) -> None:
        """Send a chunk down the lanes; blocks only while every slot is in use."""
        if self._refusal is not None:  # a decoder that goes on after an error
            raise self._refusal
        try:
            self._submit(frames_cthw)
        except BaseException as error:
            self._refusal = error
            raise

    def finish(self) -> None:
        """Wait until every frame is written and the sinks have finished."""
        self._decode_ended.record()
        self.thread.finish()
        while self.thread.is_alive():
            self.thread.join(POLL_SECONDS)
            self._check_all()
        self._raise_lane_error()
        self._decode_ended.synchronize()
        report = self.report
        report.span_seconds = self._decode_began.elapsed_time(self._decode_ended) / 1e3
        report.stalls = len(self._stalls)
        report.stalled_seconds = sum(there.elapsed_time(got) for there, got in self._stalls) / 1e3
        if self._on_cuda:
            # Others' statistics are not reset: a peak that was not passed is not this run's.
            peak_bytes = torch.cuda.max_memory_allocated(self._spec.device)
            report.device_peak_bytes = peak_bytes if peak_bytes > self._peak_before_bytes else 0
        self._check()

    def publish(self) -> None:
        """Give what was written its names; nothing but a failure to do so can end the run any more."""
        for sink in self._sinks:
            sink.publish()
        ended_seconds, report = time.perf_counter(), self.report
        report.tail_seconds = max(0.0, ended_seconds - self._decode_began_seconds - report.span_seconds)
        report.total_seconds = report.decoded.seconds + ended_seconds - self._began_seconds

    # -- parts ------------------------------------------------------------------------------------

    def _submit(self, frames_cthw: torch.Tensor) -> None:
        spec, first = self._spec, self._delivered_frames
        left = spec.frames - first
        expected = (spec.channels, spec.height, spec.width)
        if (frames_cthw.shape[0], *frames_cthw.shape[2:]) != expected or frames_cthw.shape[1] > left:
            raise FrameCountError(
                f"the decoder delivered a chunk of shape {tuple(frames_cthw.shape)}, "
                f"expected ({spec.channels}, T, {spec.height}, {spec.width}) with T <= {left}"
            )
        self._delivered_frames += frames_cthw.shape[1]
        wanted = frames_cthw[:, max(0, self._start - first) : max(0, self._stop - first)]
        if wanted.shape[1] == 0:  # of which `split` would make a chunk without frames
            self._check_all()
        else:
            for chunk in wanted.split(self._frames_per_slot, dim=1):
                self._send(chunk)
            if self._ends is not None:
                self._ends.see(wanted, is_last=self._delivered_frames >= self._stop)
            self._progress(self._submitted_frames)
        if self._stop <= self._delivered_frames < spec.frames:
            raise _Enough
        self._keep_pace()

    def _keep_pace(self) -> None:
        """Sleep until the GPU is done with the piece before, and has this one to do while the next is launched.

        CUDA takes about a thousand launches; who has more to launch waits inside of it with a whole core, which the
        encoder lacks. The second piece waits for none: the first is short, and what a decoder launched before it
        handed that over would be waited for as well.
        """
        ended = make_event(self._spec.device)
        ended.record()
        self._piece_ends.append(ended)
        if len(self._piece_ends) == self._piece_ends.maxlen:
            self._piece_ends[-2].synchronize()

    def _send(self, chunk: torch.Tensor) -> None:
        """Put up to a slot's worth of frames into the lanes."""
        self._check_all()
        slot = self._ring.try_acquire() or self._stall()
        if self.report.timeline is not None:
            self.report.timeline.expect(slot)
        slot.fill(chunk, self._spec.zero_centred, self._spec.clamped)
        slot.start_copy(self._copy_stream)
        self._submitted_frames += slot.frames
        self.thread.put(slot)

    def _stall(self) -> Slot:
        """Wait for a slot, and let the GPU's own clock tell how long that left it without work."""
        there, got = make_event(self._spec.device), make_event(self._spec.device)
        there.record()
        slot = self._ring.acquire(self._check_all)
        got.record()
        self._stalls.append((there, got))
        slot.stall = (there, got)
        return slot

    def _check_all(self) -> None:
        self._raise_lane_error()
        self._check()

    def _check(self) -> None:
        if self.stopped.is_set():
            raise _Stopped
        self._callers_check()

    def _raise_lane_error(self) -> None:
        if self.thread.error is not None:
            raise self.thread.error

    # -- what is given back, the last first -------------------------------------------------------

    def _abort(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """After a failure, and never in its place: end the lanes and abort the sinks."""
        if error is None:
            return
        returned = False
        try:
            returned = self.thread.abandon(STUCK_SECONDS)
        finally:  # also after a Ctrl-C in the middle of it
            if not returned:
                _stuck.add(self)
                logging.warning(
                    "async-frame-pipeline: %s has not returned and is left behind; what it wrote is given up when it "
                    "does",
                    self.thread.inside or "the writer",
                )
        if self._copy_stream is not None:
            try:
                # Copies still under way would write into host memory that is about to be unpinned.
                self._copy_stream.synchronize()
            except Exception as failed:  # a GPU that failed fails in everything; the first error is the one to see
                logging.warning("async-frame-pipeline: waiting for copies of a failed run: %s", failed)

    def _forget_errors(self) -> None:
        """They lead to frames that lead to this run, a circle that would hold the decoder's memory for some time."""
        self._refusal = self.thread.error = None

    def _close_ring(self) -> None:
        if self not in _stuck:
            self._ring.close()

    def _end_with_the_process(self) -> None:
        if self.stopped.is_set():
            # This thread dies with the process. Whatever it did from here on, such as logging, could meet an
            # interpreter half taken down, which then aborts.
            threading.Event().wait()

    def reclaim(self) -> None:
        """The stuck sink has returned: its slots can go."""
        _stuck.discard(self)
        self._close_ring()


def _reclaim(sinks: Sequence[Sink]) -> None:
    """Take back what runs left to sinks that were stuck and are not any more.

    Raises:
        RuntimeError: one of `sinks` still is.
    """
    for lanes in list(_stuck):
        if not lanes.thread.is_alive():
            lanes.reclaim()
        elif busy := [sink.name for sink in sinks if any(sink is each for each in lanes.given)]:
            raise RuntimeError(f"{busy[0]} has not returned from an earlier run yet, and cannot be used again before")


@atexit.register
def _stop_all() -> None:
    """Let runs in threads that die with the process end as after a failure, so that half-written files are removed."""
    for lanes in list(_under_way):
        lanes.stopped.set()
    deadline = time.monotonic() + STOP_SECONDS
    # Also for sinks that were left behind: they give up their files when they return.
    while (_under_way or any(lanes.thread.is_alive() for lanes in _stuck)) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
