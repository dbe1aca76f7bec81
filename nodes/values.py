"""What another node gives, as the value that an input takes: ComfyUI checks only what is typed.

Whatever reads like a number is that number, NumPy's and text too. What comes out is of Python's own types, and is what
is used: a check that lets more pass than its user takes is none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..pipeline.number import number_of
from ..pipeline.sinks.formats import check_in
from ..pipeline.text import shown


def number(value: object) -> float:
    """NaN if it is none."""
    try:
        return float(value) if isinstance(value, bool) else float(number_of(value))
    except Exception:  # whatever a stranger's type raises
        return math.nan


def whole(name: str, value: object, low: int, high: int) -> int:
    """Raise a ValueError if it is not a whole number from `low` to `high`."""
    wanted = number(value)
    if not (low <= wanted <= high and wanted.is_integer()):
        raise ValueError(f"{name} can be a whole number from {low} to {high}, got {shown(value)}")
    return int(wanted)


def flag(name: str, value: object) -> bool:
    """Raise a ValueError if it is neither a boolean nor a number."""
    try:
        # Of any type that is one, NumPy's too, which are no numbers. Text is none: "false" would be true.
        wanted = math.nan if isinstance(value, (str, bytes)) else float(value)
    except Exception:  # whatever a stranger's type raises
        wanted = math.nan
    if math.isnan(wanted):
        raise ValueError(f"{name} can be true or false, got {shown(value)}")
    return wanted != 0


def one_of(name: str, value: object, allowed: Sequence[str]) -> str:
    """Raise a ValueError if it does not read like one of these."""
    check_in(str(value), allowed, f"{name} can be")
    return str(value)
