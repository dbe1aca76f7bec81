"""What the decoder is to do so that it fits into the memory there is, chosen before the first kernel.

Little memory costs time: bands compute some rows twice, and what leaves for main memory comes back over the bus once a
step. So does a model that makes room: it is loaded again for the next prompt. Both are bytes over the same
bus, so the plan is the one that moves fewest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...text import Text, gib
from . import room
from .network import Bands
from .weights import Weights

# Of the last sections; the fastest first. Measured: see benchmarks/NOTES.md.
PLANS: tuple[tuple[Bands, ...], ...] = (
    (),
    (Bands(1), Bands(4)),
    *((Bands(1), Bands(8, away)) for away in range(5, 9)),
    (Bands(4, 2), Bands(8, 8)),
    (Bands(4, 4), Bands(8, 8)),
    (Bands(6, 6), Bands(16, 16)),
    (Bands(4, 4), Bands(8, 8), Bands(16, 16)),
    (Bands(4, 4), Bands(16, 16), Bands(32, 32)),
)
# Beside what is counted: workspaces of cuDNN.
WORKSPACES = 64 * 1024**2
# How many bytes torch's allocators take for each that is asked for: with bands that stay, with some that leave and
# come; and whole frames, for which cudaMallocAsync, which does not join what is free, needs more. Measured on an H200.
GAPS_BANDS, GAPS_AWAY, GAPS_WHOLE, GAPS_WHOLE_UNJOINED = 1.03, 1.12, 1.04, 1.13
# How many bytes to and from main memory, while the decoder computes, cost as much as one of a model to be loaded again.
RELOADING = 2.0
# After memory ran out: how much of what was tried is tried next.
LESS = 0.75


class NoRoom(torch.OutOfMemoryError):
    """The least that a decode needs does not fit."""


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes that a decode may take.

    Attributes:
        free: of the GPU's memory, as it is.
        emptied: of it, when all other models are unloaded.
        main: of main memory.
    """

    free: int
    emptied: int
    main: int


@dataclass(frozen=True, slots=True)
class Plan:
    """One of PLANS for frames of one size.

    Attributes:
        needed: bytes on the GPU at most, weights left out.
        away: bytes in main memory, which go there and come back once a step.
    """

    bands: tuple[Bands, ...]
    needed: int
    away: int

    @property
    def count(self) -> int:
        """How many bands the last section, the largest, is worked through in; 1 is none."""
        return self.bands[-1].count if self.bands else 1


def of(weights: Weights, height: int, width: int, bands: tuple[Bands, ...], joins: bool) -> Plan:
    """Args: see `room.measured`; `joins`: whether the allocator joins what is free."""
    measured = room.measured(weights, height, width, bands)
    gaps = GAPS_WHOLE if joins else GAPS_WHOLE_UNJOINED
    if bands:
        gaps = GAPS_AWAY if measured.away else GAPS_BANDS
    return Plan(bands, int(measured.peak * gaps) + WORKSPACES, measured.away)


class Plans:
    """Those of one decoder, each made once: to run through the steps on the meta device takes up to a second.

    Args: as of `of`.
    """

    def __init__(self, weights: Weights, joins: bool):
        self._weights, self._joins = weights, joins
        self._made: dict[tuple[int, int, tuple[Bands, ...]], Plan] = {}

    def of(self, height: int, width: int, bands: tuple[Bands, ...]) -> Plan:
        """For a latent of that size."""
        key = (height, width, bands)
        if key not in self._made:
            self._made[key] = of(self._weights, *key, self._joins)
        return self._made[key]


def choose(plan_of: Callable[[tuple[Bands, ...]], Plan], there: Room, steps: int, below: int | None = None) -> Plan:
    """The plan that takes the least time, counting that of models which have to be loaded again.

    Args:
        plan_of: `of`, for one decoder and size.
        steps: of the video.
        below: only what needs less than this: the GPU has no more, whatever it says.
    Returns:
        Where none fits, the least: that is to be tried, since what others hold may be gone by then.
    Raises:
        NoRoom: none that main memory suffices for is below that.
    """
    best: Plan | None = None
    least = 0.0
    others: list[Plan] = []
    for bands in PLANS:
        plan = plan_of(bands)
        moved = float(plan.away * steps)
        if best is not None and moved >= least:
            break  # those that follow move more
        if plan.needed > there.emptied or plan.away > there.main or (below is not None and plan.needed >= below):
            others.append(plan)
            continue
        moved += RELOADING * max(0, plan.needed - there.free)
        if best is None or moved < least:
            best, least = plan, moved
        if not moved:
            break
    if best is not None:
        return best
    smallest = min((plan for plan in others if plan.away <= there.main), key=lambda plan: plan.needed)
    if below is None or smallest.needed < below:
        return smallest
    raise no_room(smallest, min(there.emptied, below), there.main)


def no_room(least: Plan, free: int, main: int) -> NoRoom:
    """Says what the least of the plans takes, and how many bytes there are on the GPU and in main memory."""
    return NoRoom(
        Text(
            "it needs at least %needed% GiB of GPU memory and %away% of main memory, there are %free% and %main%",
            needed=gib(least.needed),
            away=gib(least.away),
            free=gib(max(0, free)),
            main=gib(main),
        )
    )
