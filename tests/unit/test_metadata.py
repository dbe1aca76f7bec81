"""What goes beside the pictures never costs them: metadata that cannot be written is left out, the rest restores."""

import json
import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from async_frame_pipeline.pipeline.sinks.formats import FORMATS
from async_frame_pipeline.pipeline.sinks.metadata import as_texts, is_tag, storable
from async_frame_pipeline.pipeline.sinks.video_file import VideoOptions
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from .test_sinks import ALIKE, HERE, choice_of, file_sink, target, write

# One of each container.
NAMES = list({FORMATS[name].container.name: name for name in reversed(HERE)}.values())
WORKFLOW = {"nodes": [{"id": 1, "type": "Ä", "widgets_values": ["x", 1.5, None, True]}], "version": 0.4}
PROMPT = {"1": {"class_type": "Loader", "inputs": {"text": "名\n\0=", "half": "\ud800"}}}


def circular() -> list:
    value: list = [1]
    value.append(value)
    return value


def deep() -> list:
    value: list = []
    for _ in range(100_000):
        value = [value]
    return value


class Rude:
    def __iter__(self):
        raise RuntimeError("no")

    __repr__ = __str__ = __iter__


class RudeDict(dict):
    items = keys = __iter__ = Rude.__iter__


UNWRITABLE = {
    "bytes": b"\xff",
    "numpy bool": np.bool_(True),
    "numpy array": np.zeros(3),
    "set": {1},
    "object": Rude(),
    "dict": RudeDict(a=1),
    "circular": circular(),
    "deep": deep(),
    "many digits": 10**5000,
    "complex": 1j,
    "path": Path("x"),
    "type": int,
}
KEYS = {
    "Chinese": "名",
    "umlaut": "é",
    "equals": "a=b",
    "colon": "a:b",
    "spaces": " a  b ",
    "newline": "a\nb",
    "NUL": "a\0b",
    "surrogate": "\ud800",
    "empty": "",
    "long": "x" * 80,
    "very long": "x" * 70_000,
    "number": 7,
    "None": None,
    "tuple": (1, 2),
    "FFmpeg's": "timecode",
    "FFmpeg's too": "creation_time",
}
# What of these each place can hold.
HELD = {
    "tags": {"Chinese", "umlaut", "equals", "colon", "spaces", "long", "very long", "FFmpeg's", "FFmpeg's too"},
    "png": {"umlaut", "equals", "colon", "FFmpeg's", "FFmpeg's too"},
    "exif": {"equals", "spaces", "long", "very long", "FFmpeg's", "FFmpeg's too"},
}
PLACES = {"mp4": "tags", "mov": "tags", "webm": "tags", "webp": "exif"}


def saved(folder: Path, name: str, metadata: dict) -> Path:
    options = VideoOptions(Fraction(8), choice_of(name, speed="fastest"), metadata=metadata)
    sink = file_sink(target(folder, FORMATS[name]), options)
    write(sink, 3, 32, 48)
    return sink.path


def restored(path: Path) -> dict[str, str]:
    """The texts in which the frontend looks for the workflow."""
    if path.is_dir():
        return Image.open(sorted(path.glob("*.png"))[0]).text
    if path.suffix == ".webp":
        return dict(text.split(":", 1) for text in Image.open(path).getexif().values())
    if path.suffix in (".mkv", ".gif"):
        return Image.open(path.with_suffix(".png")).text
    with av.open(str(path)) as container:
        return {key.lower(): text for key, text in container.metadata.items()}


@pytest.mark.parametrize("kind", UNWRITABLE)
def test_a_value_that_cannot_be_written_costs_itself(caplog, kind):
    """As an item of its own; and deep in the prompt, as what a node's IS_CHANGED gives."""
    prompt = {**PROMPT, "2": {"class_type": "Any", "is_changed": [UNWRITABLE[kind]], "inputs": {}}}
    texts = as_texts(storable({"bad": UNWRITABLE[kind], "workflow": WORKFLOW, "prompt": prompt}, is_tag))
    assert json.loads(texts["workflow"]) == WORKFLOW
    left = [1, None] if kind == "circular" else None
    assert ("bad" not in texts) if left is None else json.loads(texts["bad"]) == left
    if kind != "deep":  # it costs all around it
        expected = {**PROMPT, "2": {"class_type": "Any", "is_changed": [left], "inputs": {}}}
        assert json.loads(texts["prompt"]) == expected
    [line] = [record.message for record in caplog.records if "left out" in record.message]
    assert "bad" in line and "prompt" in line
    line.encode()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["bytes", "numpy bool", "circular"])
def test_in_every_file_the_rest_is_kept(tmp_path, caplog, name, kind):
    prompt = {**PROMPT, "2": {"is_changed": [UNWRITABLE[kind]]}}
    texts = restored(saved(tmp_path, name, {"bad": UNWRITABLE[kind], "workflow": WORKFLOW, "prompt": prompt}))
    assert json.loads(texts["workflow"]) == WORKFLOW and json.loads(texts["prompt"])["1"] == PROMPT["1"]
    assert caplog.text.count("left out") == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_key_that_cannot_be_written_costs_itself(tmp_path, caplog, name):
    holds = FORMATS[name].container.holds
    held = {kind for kind, key in KEYS.items() if isinstance(key, str) and holds(key)}
    assert held == HELD[PLACES.get(FORMATS[name].container.name, "png")]
    items = {key: {"v": kind} for kind, key in KEYS.items()}
    texts = restored(saved(tmp_path, name, {**items, "workflow": WORKFLOW, "prompt": PROMPT}))
    assert json.loads(texts["workflow"]) == WORKFLOW and json.loads(texts["prompt"]) == PROMPT
    found = {json.loads(text)["v"] for text in texts.values() if text.startswith('{"v"')}
    assert held - {"FFmpeg's too"} <= found <= held  # that one is no time, which Matroska would want
    [line] = [record.message for record in caplog.records if "left out" in record.message]
    line.encode()


@pytest.mark.parametrize("name", NAMES)
def test_nan_is_written_as_javascript_writes_it(tmp_path, caplog, name):
    """What IS_CHANGED of nodes gives that are to run each time: a browser cannot read NaN."""
    caplog.set_level("INFO")
    prompt = {"1": {"class_type": "Always", "is_changed": [math.nan], "inputs": {"cfg": math.inf, "seed": 1}}}
    texts = restored(saved(tmp_path, name, {"workflow": WORKFLOW, "prompt": prompt}))
    read = json.loads(texts["prompt"], parse_constant=lambda text: pytest.fail(text))
    assert read == {"1": {"class_type": "Always", "is_changed": [None], "inputs": {"cfg": None, "seed": 1}}}
    assert caplog.text.count("prompt.1.is_changed.0, prompt.1.inputs.cfg") == 1


@pytest.mark.parametrize("name", NAMES)
def test_many_items_are_kept(tmp_path, name):
    many = {f"item {i}": i for i in range(300)}
    texts = restored(saved(tmp_path, name, {**many, "workflow": WORKFLOW, "prompt": PROMPT}))
    assert json.loads(texts["workflow"]) == WORKFLOW and json.loads(texts["prompt"]) == PROMPT


def test_no_line_where_all_is_kept(caplog):
    caplog.set_level("INFO")
    metadata = {"workflow": WORKFLOW, "prompt": PROMPT, "async_frame_pipeline": "1"}
    assert storable(metadata, is_tag) == metadata and caplog.records == []


def test_what_is_left_out_in_numbers_is_told_in_short(caplog):
    storable({"a": {str(i): b"" for i in range(1000)}}, is_tag)
    assert caplog.text.count("a.9,") == 0 and "a.9 and more" in caplog.text and len(caplog.text) < 1000


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(exclude_categories=[])),
    st.binary(max_size=3),
    st.sampled_from([np.bool_(False), np.float64("nan"), np.int8(3), {1}, circular()]),
)
keys = st.one_of(st.text(st.characters(exclude_categories=[]), max_size=5), leaves.filter(lambda key: _hashable(key)))
values = st.recursive(
    leaves, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)), max_leaves=9
)


def _hashable(value: object) -> bool:
    try:
        hash(value)
        return True
    except TypeError:
        return False


@settings(max_examples=150, **ALIKE)
@given(metadata=st.dictionaries(keys, values, max_size=4))
def test_whatever_comes_the_workflow_is_kept(metadata):
    whole = {**metadata, "workflow": WORKFLOW}
    texts = as_texts(storable(whole, is_tag))
    assert json.loads(texts["workflow"]) == WORKFLOW
    for text in texts.values():
        text.encode("ascii")
        json.loads(text, parse_constant=lambda constant: pytest.fail(constant))
    for key, value in metadata.items():
        try:
            plain = isinstance(key, str) and is_tag(key) and json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            plain = None
        if plain and key != "workflow":
            assert texts[key] == plain, "what can be written is not touched"


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=6, **ALIKE)
@given(metadata=st.dictionaries(keys, values, max_size=4))
def test_whatever_comes_the_file_is_written(tmp_path_factory, name, metadata):
    texts = restored(saved(tmp_path_factory.mktemp("any"), name, {**metadata, "workflow": WORKFLOW, "prompt": PROMPT}))
    assert json.loads(texts["workflow"]) == WORKFLOW and json.loads(texts["prompt"]) == PROMPT
