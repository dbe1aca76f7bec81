"""Slots and the three barriers between the lanes.

Owns every byte and event the lanes share. A slot is one chunk's place in GPU memory together with its
page-locked twin in host memory; it goes round from the compute stream to the copy stream to the sink
thread and back. Knows nothing of decoders or sinks.

Note [The three barriers]
    decoded   The copy stream waits for it before it reads `device`. Without it the copy takes pixels
              that the conversion kernels have not written yet.
    copied    The sink thread waits for it before it reads `host`. Without it a sink sees a buffer that
              the copy engine is still filling.
    release   The decoder thread waits for it before it reuses a slot. The sink thread releases a slot
              after the sinks have returned from `write`, so after `copied`: both halves are idle, no
              GPU-side wait is needed. Without it the next chunk lands on frames not yet written. It is
              a fact about the host, so it is a host-side primitive: a queue of free slots.
    A slot carries its own events; none is found by counting. tests/cuda/test_barriers.py removes each
    in turn and sees the frames go wrong.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable

import torch

from .main_memory import in_huge_pages, unpin_all
from .pixels import PixelFormat, convert
from .video_spec import VideoSpec

# How often a thread that waits for a slot looks up to see whether it should give up.
POLL_SECONDS = 0.02


class Instant:
    """Stands in for a CUDA event on the CPU, where work is over when the call that did it returns."""

    def __init__(self) -> None:
        self._at_seconds = 0.0

    def record(self, stream: object = None) -> None:
        self._at_seconds = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def query(self) -> bool:
        return True

    def elapsed_time(self, end: Instant) -> float:
        return (end._at_seconds - self._at_seconds) * 1e3


def make_event(device: torch.device) -> torch.cuda.Event | Instant:
    """A timing event of `device`. Waiting for it sleeps: a spinning wait would take a core from the encoder."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.Event(enable_timing=True, blocking=True)
    return Instant()


class Slot:
    """One chunk on its way. Use: `fill`, `start_copy`, `wait_copied`, read `host`, then `Ring.release`."""

    def __init__(self, spec: VideoSpec, formats: Iterable[PixelFormat], capacity: int):
        self.frames = 0
        self.host: dict[PixelFormat, torch.Tensor] = {}
        self.device: dict[PixelFormat, torch.Tensor] = {}
        for pixel_format in formats:
            shape = (capacity, *pixel_format.frame_shape(spec.height, spec.width))
            host = self.host[pixel_format] = in_huge_pages(shape, pixel_format.dtype)
            # On the CPU the two halves are one: there is nothing to copy.
            self.device[pixel_format] = (
                host if spec.device.type == "cpu" else torch.empty_like(host, device=spec.device)
            )
        self.decoded = make_event(spec.device)
        self.copy_began = make_event(spec.device)
        self.copied = make_event(spec.device)
        # Where the decoder waited for this slot: (its output was ready, the slot was there), for a timeline.
        self.stall: tuple | None = None
        # Whether page-locking was tried.
        self.was_pinned = spec.device.type != "cuda"

    def fill(self, frames_cthw: torch.Tensor, zero_centred: bool, clamped: bool = True) -> None:
        """Convert a chunk into `device` on the current stream and record `decoded` behind it."""
        self.frames = frames_cthw.shape[1]
        for pixel_format, buffer in self.device.items():
            convert(frames_cthw, zero_centred, pixel_format, buffer[: self.frames], clamped)
        self.decoded.record()

    def start_copy(self, copy_stream: torch.cuda.Stream | None) -> None:
        """Queue `device` -> `host` on the copy stream behind `decoded`, and record `copied`."""
        if copy_stream is None:
            self.copy_began.record()
            self.copied.record()
            return
        self.fence_copy(copy_stream)
        with torch.cuda.stream(copy_stream):
            self.copy_began.record()
            for pixel_format, buffer in self.device.items():
                self.host[pixel_format][: self.frames].copy_(buffer[: self.frames], non_blocking=True)
            self.copied.record()

    def fence_copy(self, copy_stream: torch.cuda.Stream) -> None:
        """Barrier `decoded`: see Note [The three barriers]."""
        copy_stream.wait_event(self.decoded)

    def wait_copied(self) -> None:
        """Barrier `copied`: see Note [The three barriers]."""
        self.copied.synchronize()

    @property
    def copy_ms(self) -> float:
        """GPU time of the last copy; only after `wait_copied`."""
        return self.copy_began.elapsed_time(self.copied)


class Ring:
    """The slots of one run.

    Args:
        spec: what the run carries; gives device, height and width.
        formats: the pixel formats the sinks asked for; each slot holds one buffer pair for each.
        slots: how many, >= 2.
        frames_per_slot: the most frames a chunk may have, >= 1.
        pin: page-locks a host tensor, returns whether it did; called when a slot is first acquired. A slot that could
            not be pinned still works; its copies are then slower and hold up the launching thread.
        unpin: undoes `pin`; called once for each tensor that was pinned.

    Raises:
        ValueError: fewer than two slots, or no frames in them.
    """

    def __init__(
        self,
        spec: VideoSpec,
        formats: Iterable[PixelFormat],
        slots: int,
        frames_per_slot: int,
        pin: Callable[[torch.Tensor], bool],
        unpin: Callable[[torch.Tensor], object],
    ):
        if slots < 2:
            raise ValueError(f"a ring needs at least 2 slots to overlap anything, got {slots}")
        if frames_per_slot < 1:
            raise ValueError(f"a slot needs room for at least 1 frame, got {frames_per_slot}")
        formats = list(dict.fromkeys(formats))
        self._pin, self._unpin = pin, unpin
        self._pinned: list[torch.Tensor] = []
        self._free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        self._slots = [Slot(spec, formats, frames_per_slot) for _ in range(slots)]
        for slot in self._slots:
            self._free.put(slot)

    @property
    def host_bytes(self) -> int:
        return sum(host.nbytes for slot in self._slots for host in slot.host.values())

    def try_acquire(self) -> Slot | None:
        """A free slot if there is one now."""
        try:
            return self._page_locked(self._free.get_nowait())
        except queue.Empty:
            return None

    def acquire(self, check: Callable[[], None]) -> Slot:
        """Wait for a free slot: barrier `release`, see Note [The three barriers].

        `check` is called every POLL_SECONDS while waiting and may raise to end the wait.
        """
        while True:
            try:
                return self._page_locked(self._free.get(timeout=POLL_SECONDS))
            except queue.Empty:
                check()

    def _page_locked(self, slot: Slot) -> Slot:
        # Not before it is used: by then the GPU has frames to decode, and does so meanwhile.
        if not slot.was_pinned:
            slot.was_pinned = True
            for host in slot.host.values():
                if self._pin(host):
                    self._pinned.append(host)
        return slot

    def release(self, slot: Slot) -> None:
        """Give a slot back; the sinks are done with `slot.host`."""
        self._free.put(slot)

    def close(self) -> None:
        """Give all memory back; does not raise. The caller has made sure that no copy is under way."""
        unpin_all(self._pinned, self._unpin)
        for slot in self._slots:
            # Emptied, not just forgotten: the traceback of a failed run may hold on to a slot.
            slot.host.clear()
            slot.device.clear()
        self._slots.clear()
