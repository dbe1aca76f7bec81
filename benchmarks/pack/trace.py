"""How long kernels ran, and what lay between them, from a profiler's trace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

# Between kernels that were queued in time a GPU takes 1 to 3 microseconds. A longer gap is waiting.
LONGEST_LAUNCH_GAP = 10e-6


@dataclass(frozen=True, slots=True)
class Trace:
    """Seconds, from the start of the first kernel to the end of the last. Copies and fills are no kernels.

    Attributes:
        kernels: in which at least one kernel ran.
        launch_gaps: between kernels, in gaps of up to 10 microseconds.
        waiting: in longer gaps.
    """

    kernels: float
    launch_gaps: float
    waiting: float

    @property
    def span(self) -> float:
        return self.kernels + self.launch_gaps + self.waiting

    def as_dict(self) -> dict:
        return {
            "kernel_seconds": self.kernels,
            "span_seconds": self.span,
            "busy": self.kernels / self.span,
            "launch_gaps": self.launch_gaps / self.span,
            "waiting": self.waiting / self.span,
        }


def profiled(function: Callable[[], object]) -> Trace:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        function()
        torch.cuda.synchronize()
    kernels = sorted(
        (event.start_ns(), event.start_ns() + event.duration_ns())
        for event in profile.profiler.kineto_results.events()
        if event.device_type() == torch.autograd.DeviceType.CUDA and not event.name().startswith(("Memcpy", "Memset"))
    )
    busy, gaps, reached = 0, [], kernels[0][0]
    for start, end in kernels:
        if start > reached:
            gaps.append((start - reached) / 1e9)
        busy += max(0, end - max(start, reached))
        reached = max(reached, end)
    waiting = sum(gap for gap in gaps if gap > LONGEST_LAUNCH_GAP)
    return Trace(busy / 1e9, sum(gaps) - waiting, waiting)
