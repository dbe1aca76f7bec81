"""How long kernels ran, and what lay between them, from a profiler's trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

# Between kernels that were queued in time a GPU takes 1 to 3 microseconds. A longer gap is waiting.
LONGEST_LAUNCH_GAP = 10e-6
# The kernel of torch's `_sleep`, which nothing else uses: it marks the end of a step.
MARK = "spin_kernel"

# (name, start, end), in nanoseconds of one clock.
Event = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Trace:
    """Seconds, from the start of the first kernel to the end of the last. Copies and fills are no kernels.

    Attributes:
        kernels: in which at least one kernel ran.
        copies: in which none did, but a copy from the GPU to itself or a fill.
        launch_gaps: in which nothing did, in gaps of up to 10 microseconds.
        waiting: in longer gaps.
        steady: the same, without the first two steps; None where less than three were marked.
    """

    kernels: float = 0.0
    copies: float = 0.0
    launch_gaps: float = 0.0
    waiting: float = 0.0
    steady: Trace | None = None

    @property
    def span(self) -> float:
        return self.kernels + self.copies + self.launch_gaps + self.waiting

    def as_dict(self) -> dict:
        span = self.span or 1.0  # a rehearsal has no kernels
        told = {
            "kernel_seconds": self.kernels,
            "span_seconds": self.span,
            "busy": self.kernels / span,
            "copies": self.copies / span,
            "launch_gaps": self.launch_gaps / span,
            "waiting": self.waiting / span,
        }
        return told if self.steady is None else told | {"steady": self.steady.as_dict()}


def mark() -> None:
    """The end of a step, in a trace. Takes a microsecond of the current stream, and can be part of a CUDA graph."""
    if torch.cuda.is_available():
        torch.cuda._sleep(1)


def profiled(function: Callable[[], object]) -> Trace:
    if not torch.cuda.is_available():
        function()
        return Trace()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        function()
        torch.cuda.synchronize()
    return traced(
        [
            (event.name(), event.start_ns(), event.start_ns() + event.duration_ns())
            for event in profile.profiler.kineto_results.events()
            if event.device_type() == torch.autograd.DeviceType.CUDA
        ]
    )


def traced(events: Sequence[Event]) -> Trace:
    """What the events of a GPU come to."""
    marks = sorted(end for name, _, end in events if MARK in name)
    # The first step of a video is shorter than the others, and only from the third on all are the same.
    steady = _told([event for event in events if marks[1] <= event[1] < marks[-1]]) if len(marks) > 2 else None
    return replace(_told(events), steady=steady)


def _told(events: Sequence[Event]) -> Trace:
    kernels = [(start, end) for name, start, end in events if not name.startswith(("Memcpy", "Memset"))]
    if not kernels:
        return Trace()
    first, last = min(start for start, _ in kernels), max(end for _, end in kernels)
    of_the_gpu = [event[1:] for event in events if "HtoD" not in event[0] and "DtoH" not in event[0]]
    idle = _gaps([(max(first, start), min(last, end)) for start, end in of_the_gpu if start < last and end > first])
    no_kernel = sum(_gaps(kernels))
    waiting = sum(gap for gap in idle if gap > LONGEST_LAUNCH_GAP)
    return Trace((last - first) / 1e9 - no_kernel, no_kernel - sum(idle), sum(idle) - waiting, waiting)


def _gaps(intervals: Sequence[tuple[int, int]]) -> list[float]:
    """Seconds in which none of them was, from the first to the last."""
    gaps, reached = [], None
    for start, end in sorted(intervals):
        if reached is not None and start > reached:
            gaps.append((start - reached) / 1e9)
        reached = end if reached is None else max(reached, end)
    return gaps
