"""Values of any type, as other nodes give them: what is let through is of the type that is used, and means the same."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from . import in_comfyui  # noqa: F401

from async_frame_pipeline.nodes import values
from async_frame_pipeline.nodes.saver_inputs import Refused, SaverInputs, convert

# As nodes give numbers: arithmetic, NumPy's, a widget of text, an element of a tensor.
KINDS = [
    int,
    float,
    Fraction,
    Decimal,
    np.int64,
    np.uint8,
    np.float32,
    np.float64,
    np.array,
    torch.tensor,
    str,
    lambda number: f" {number}.0 ",
]
STRANGE = [None, "", "x", "nan", "½", [], [2], {}, {"a": 1}, (1, 2), b"2x", np.ones(3), torch.ones(2), object(), 1j]
WORDS = [name for name, kind in SaverInputs.__annotations__.items() if kind == "str" and name != "filename_prefix"]
FLAGS = [name for name, kind in SaverInputs.__annotations__.items() if kind == "bool"]


@settings(deadline=None)
@given(some.integers(0, 200), some.sampled_from(KINDS))
def test_a_whole_number_of_any_type_is_that_number(number, kind):
    got = values.whole("repeat", kind(number), 0, 200)
    assert type(got) is int and got == number


@settings(deadline=None)
@given(some.one_of(some.floats(), some.sampled_from(STRANGE), some.integers()))
def test_whatever_is_let_through_is_whole_and_within(value):
    try:
        got = values.whole("repeat", value, 0, 1000)
    except ValueError as error:
        assert str(error).startswith("repeat can be a whole number from 0 to 1000, got ")
    else:
        assert type(got) is int and 0 <= got <= 1000


@pytest.mark.parametrize("name", [*WORDS, *FLAGS, "repeat", "crf", "filename_prefix"])
@settings(deadline=None)
@given(some.one_of(some.sampled_from(STRANGE), some.floats(), some.integers(), some.booleans(), some.text()))
def test_every_input_of_the_saver_is_converted_or_refused(name, value):
    kind = {"str": str, "bool": bool, "int": int, "float": float}[SaverInputs.__annotations__[name]]
    try:
        got = convert(name, value)
    except Refused as refused:
        assert refused.input == name and name in str(refused)
    else:
        assert type(got) is kind


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("kind", [bool, int, float, Fraction, np.bool_, np.int64, np.array, torch.tensor])
def test_a_boolean_of_any_type_is_that_boolean(name, kind):
    assert convert(name, kind(1)) is True and convert(name, kind(0)) is False


@pytest.mark.parametrize("depth", [10, np.int64(10), "10", np.str_("10")])
def test_a_depth_may_be_a_number(depth):
    got = convert("bit_depth", depth)
    assert type(got) is str and got == "10"
