"""What the table of formats accepts and refuses; no file is written."""

import math

import pytest
from async_frame_pipeline.pipeline.sinks.encoders.base import encoder_threads
from async_frame_pipeline.pipeline.sinks.encoders.x264 import X264
from async_frame_pipeline.pipeline.sinks.formats import FORMATS, Choice


def choice_of(name: str, **more) -> Choice:
    each = FORMATS[name]
    return Choice(each, **({"bit_depth": each.depths[each.default_chroma][0]} | more))


@pytest.mark.parametrize("name", FORMATS)
def test_a_crf_is_taken_within_its_range_and_refused_elsewhere(name):
    each = FORMATS[name]
    if each.crf_range is None:
        with pytest.raises(ValueError, match="has no CRF, got 20: choose a quality"):
            choice_of(name, crf=20)
        return
    low, high = each.crf_range
    for crf in (low, low + 0.5, high):
        options = each.encoder.options(choice_of(name, crf=crf), 64, 64, 1, 1)
        assert f"{crf:g}" in (options.get("crf"), options.get("cq"))
    for crf in (low - 1, high + 1, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"has CRFs from {low} to {high}, got {crf:g}"):
            choice_of(name, crf=crf)
    if each.lossless:
        with pytest.raises(ValueError, match="lossless has no CRF, got 20"):
            choice_of(name, quality="lossless", crf=20)


@pytest.mark.parametrize(
    ("name", "more", "plays"),
    [
        ("mp4 (h264)", {}, True),
        ("mp4 (h264)", {"bit_depth": 10}, False),
        ("mp4 (h264)", {"chroma": "4:4:4"}, False),
        ("mp4 (h264)", {"quality": "lossless"}, False),
        ("mp4 (h264)", {"crf": 0}, False),
        ("mp4 (h264)", {"crf": 1}, True),
        ("mp4 (h264 nvenc)", {}, True),
        ("mp4 (h264 nvenc)", {"quality": "lossless"}, False),
        ("mp4 (h265)", {}, False),
        ("mp4 (av1)", {"bit_depth": 10, "quality": "lossless"}, True),
        ("mkv (h264)", {}, False),
        ("webm (vp9)", {"quality": "lossless"}, True),
        ("webm (vp9)", {"chroma": "4:4:4"}, False),
        ("webp (animated)", {}, True),
        ("mov (prores)", {}, False),
    ],
)
def test_what_browsers_play(name, more, plays):
    """All of them: Chromium alone plays H.264 beyond its profile High, which is also what lossless H.264 is in."""
    assert choice_of(name, **more).plays == plays


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 2), (3, 3), (4, 4), (7, 7), (8, 7), (16, 15)])
def test_only_where_there_are_many_cores_is_one_kept_from_encoders(monkeypatch, cores, threads):
    """Of two cores one is half of them: then savers that take both are quicker."""
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(cores)), raising=False)
    assert encoder_threads() == threads


@pytest.mark.parametrize(
    ("height", "usable", "threads"),
    [(2160, 15, 22), (720, 15, 22), (480, 15, 15), (720, 2, 3), (720, 1, 1), (16, 15, 1)],
)
def test_x264_has_more_threads_than_cores_but_not_more_than_rows(height, usable, threads):
    """Its threads wait for one another."""
    assert X264().threads(height, usable) == threads
