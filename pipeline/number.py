"""Numbers as other people's nodes and files give them: Python's, numpy's, torch's, and text."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from numbers import Rational
from typing import Any

# Powers of ten, and characters of text, beyond which nothing that is counted here lies. As a Fraction, "1e999999999"
# would fill the memory.
MOST_DIGITS = 300


def number_of(value: Any) -> Fraction | float:
    """A number, exact where it is given so.

    Args:
        value: an int, Fraction, Decimal or float; a scalar of numpy or torch; or text, "24", "23.976" or "24000/1001".
    Returns:
        A float of a float, else a Fraction.
    Raises:
        ValueError: it is something else, such as a bool, or not finite.
    """
    try:
        number = _exact(value.item() if hasattr(value, "item") else value)
        is_finite = math.isfinite(number)  # which is an error of what no float holds
    except (TypeError, ValueError, ArithmeticError, RuntimeError):  # no number; an array of several
        number, is_finite = math.nan, False
    if not is_finite:
        raise ValueError(f"expected a number, got {ascii(value)[:100]}")
    return number


def _exact(value: Any) -> Fraction | float:
    if isinstance(value, (bool, bytes, bytearray)):
        return math.nan
    if isinstance(value, str) and "/" in value and len(value) <= MOST_DIGITS:
        return Fraction(value.strip())
    if isinstance(value, (str, Decimal)):
        decimal = Decimal(value if not isinstance(value, str) or len(value) <= MOST_DIGITS else "NaN")
        return Fraction(decimal) if abs(decimal.adjusted()) <= MOST_DIGITS else math.nan
    if isinstance(value, Rational):
        return Fraction(int(value.numerator), int(value.denominator))
    return float(value)
