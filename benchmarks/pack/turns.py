"""What is compared takes turns, each way five times, and is told as median and spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

TURNS = 5

# One run of one way, or of two that share a part: {"stock image": {"seconds": 4.3}, "stock file": {"seconds": 6.2}}.
Rows = dict[str, dict[str, float]]


def in_turns(
    ways: Sequence[Callable[[], Rows]],
    turns: int = TURNS,
    until: float = float("inf"),
    each_turn: Callable[[dict[str, dict]], object] = lambda rows: None,
) -> dict[str, dict]:
    """Run each way once, then each once more, and so on: whatever changes with time meets all of them alike.

    Args:
        ways: each runs once and returns its rows, the same names and figures every time; or none at all.
        until: of `time.time()`. After the first one no turn begins that would end later, if it takes as long as
            the longest so far.
        each_turn: is given after each turn what would be returned then.
    Returns:
        What `spread` makes of each figure, by the rows' names.
    """
    taken: dict[str, dict[str, list[float]]] = {}
    rows: dict[str, dict] = {}
    longest = 0.0
    for turn in range(turns):
        began = time.time()
        if turn and began + longest > until:
            break
        for way in ways:
            for name, row in way().items():
                for figure, value in row.items():
                    taken.setdefault(name, {}).setdefault(figure, []).append(value)
        longest = max(longest, time.time() - began)
        rows = {name: spread(row) for name, row in taken.items()}
        each_turn(rows)
    return rows


def spread(row: dict[str, list[float]]) -> dict:
    """{"seconds": [...]} -> the median as "seconds", and "seconds_min", "seconds_max" and "seconds_all"."""
    told = {}
    for figure, values in row.items():
        told |= {
            figure: statistics.median(values),
            f"{figure}_min": min(values),
            f"{figure}_max": max(values),
            f"{figure}_all": list(values),
        }
    return told
