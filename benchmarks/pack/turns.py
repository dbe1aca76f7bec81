"""What is compared takes turns, each way five times, and is told as median and spread."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

TURNS = 5

# One run of one way, or of two that share a part: {"stock image": {"seconds": 4.3}, "stock file": {"seconds": 6.2}}.
Rows = dict[str, dict[str, float]]


def in_turns(ways: Sequence[Callable[[], Rows]], turns: int = TURNS) -> dict[str, dict]:
    """Run each way once, then each once more, and so on: whatever changes with time meets all of them alike.

    Args:
        ways: each runs once and returns its rows, the same names and figures every time.
    Returns:
        What `spread` makes of each figure, by the rows' names.
    """
    taken: dict[str, dict[str, list[float]]] = {}
    for _ in range(turns):
        for way in ways:
            for name, row in way().items():
                for figure, value in row.items():
                    taken.setdefault(name, {}).setdefault(figure, []).append(value)
    return {name: spread(row) for name, row in taken.items()}


def spread(row: dict[str, list[float]]) -> dict:
    """{"seconds": [...]} -> the median as "seconds", and "seconds_min", "seconds_max" and "seconds_all"."""
    told = {}
    for figure, values in row.items():
        told |= {
            figure: statistics.median(values),
            f"{figure}_min": min(values),
            f"{figure}_max": max(values),
            f"{figure}_all": values,
        }
    return told
