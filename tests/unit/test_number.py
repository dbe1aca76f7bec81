"""Numbers of every type that other nodes give: taken exactly, or refused."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from async_frame_pipeline.pipeline.number import number_of
from async_frame_pipeline.pipeline.sources import exact_fps
from hypothesis import given, settings
from hypothesis import strategies as st

ALIKE = settings(deadline=None, derandomize=True)

WHOLE = {
    "int": int,
    "float": float,
    "Fraction": Fraction,
    "Decimal": Decimal,
    "text": str,
    "text with spaces": lambda number: f" {number} ",
    "text of a float": lambda number: f"{number}.0",
    "text of a fraction": lambda number: f"{2 * number}/2",
    "torch float": lambda number: torch.tensor(float(number)),
    "torch int": torch.tensor,
    "torch, one element": lambda number: torch.tensor([number]),
    "numpy array": lambda number: np.array(number),
    "numpy array, one element": lambda number: np.array([[number]]),
} | {
    name: getattr(np, name)
    for name in ("int16", "uint16", "int32", "int64", "uint64", "float16", "float32", "float64", "longdouble")
}
NO_NUMBERS = [
    None,
    True,
    False,
    np.bool_(True),
    torch.tensor(True),
    "",
    "abc",
    "1/0",
    "24/",
    "1e999999999",
    "9" * 5000,
    "1/" + "9" * 5000,
    "half\ud800",
    b"24",
    [24],
    {"fps": 24},
    1j,
    np.complex64(1),
    object(),
    torch.tensor([24.0, 24.0]),
    torch.zeros(0),
    np.zeros(0),
    np.array("24"[:0]),
    math.nan,
    math.inf,
    -math.inf,
    "nan",
    "inf",
    np.float32("nan"),
    torch.tensor(math.inf),
    Decimal("NaN"),
    Decimal("sNaN"),
    Decimal("Infinity"),
    Decimal("1e999999"),
    10**400,
    Fraction(10**400),
    Fraction(-(10**400), 3),
]


@pytest.mark.parametrize("kind", WHOLE)
@ALIKE
@given(number=st.integers(1, 1000))
def test_a_whole_number_of_any_type(kind, number):
    taken = number_of(WHOLE[kind](number))
    assert taken == number
    if isinstance(taken, Fraction):  # numpy's would overflow in what is made of them
        assert type(taken.numerator) is type(taken.denominator) is int


@ALIKE
@given(st.fractions())
def test_fractions_stay_exact(number):
    assert number_of(number) == number == number_of(f"{number.numerator}/{number.denominator}")


@ALIKE
@given(st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-1000, max_value=1000))
def test_decimals_stay_exact(number):
    assert number_of(number) == Fraction(number) == number_of(str(number))


@ALIKE
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_stay_floats(number):
    for given_as in (number, np.float64(number), torch.tensor(number, dtype=torch.float64)):
        taken = number_of(given_as)
        assert isinstance(taken, float) and taken == number


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: ascii(value)[:30])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match="expected a number, got") as refused:
        number_of(value)
    str(refused.value).encode()  # can be shown and logged
    assert len(str(refused.value)) < 200
    with pytest.raises(ValueError, match="the frame rate of a video must be a number above 0"):
        exact_fps(value)


@pytest.mark.parametrize("kind", WHOLE)
def test_the_rate_of_somebody_elses_video(kind):
    fps = exact_fps(WHOLE[kind](24))
    assert fps == 24 and type(fps.numerator) is int
