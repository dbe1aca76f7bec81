"""The verdict: what a run was limited by, in words that its figures bear out."""

import json

import pytest
import torch
from async_frame_pipeline.pipeline import engine
from async_frame_pipeline.pipeline.report import Report
from async_frame_pipeline.pipeline.video_spec import VideoSpec

from .streams import ListSink, clip, in_chunks

ENCODER = {"writer": "the encoder", "advice": "a lower quality"}


@pytest.mark.parametrize(
    ("figures", "limit", "verdict"),
    [
        pytest.param(
            dict(
                total_seconds=4.1,
                span_seconds=4.0,
                stalled_seconds=0.04,
                write_seconds=2.0,
                tail_seconds=0.1,
                copy_seconds=0.02,
            ),
            "decode",
            "The GPU was the limit: it was busy 99% of the time.",
            id="the GPU",
        ),
        pytest.param(
            dict(total_seconds=5.0, span_seconds=4.0, stalled_seconds=0.04, write_seconds=3.0, tail_seconds=0.4),
            "decode",
            "The GPU was the limit: it was busy 99% of the time until the last frame. The encoder took 0.40 s more.",
            id="the GPU, and a tail",
        ),
        pytest.param(
            dict(total_seconds=5.3, span_seconds=5.2, stalled_seconds=1.2, write_seconds=5.0, tail_seconds=0.1),
            "write",
            "The encoder was the limit: the GPU waited 1.2 s for it; a lower quality would help.",
            id="the encoder",
        ),
        pytest.param(
            dict(total_seconds=6.0, span_seconds=5.2, stalled_seconds=1.2, write_seconds=5.0, tail_seconds=0.8),
            "write",
            "The encoder was the limit: the GPU waited 1.2 s for it and it ended 0.80 s after the GPU; "
            "a lower quality would help.",
            id="the encoder, and its tail",
        ),
        pytest.param(
            dict(total_seconds=3.0, span_seconds=1.0, stalled_seconds=0.0, write_seconds=2.9, tail_seconds=2.0),
            "write",
            "The encoder was the limit: it ended 2.0 s after the GPU; a lower quality would help.",
            id="the encoder, after a short clip that fits into the ring",
        ),
        pytest.param(
            dict(
                total_seconds=5.0,
                span_seconds=4.9,
                stalled_seconds=2.0,
                write_seconds=1.0,
                copy_seconds=4.5,
                tail_seconds=0.1,
            ),
            "copy",
            "Copying to main memory was the limit: the GPU waited 2.0 s for it.",
            id="the copies",
        ),
        pytest.param(
            dict(device="cpu", total_seconds=34.0, span_seconds=33.9, write_seconds=0.5, tail_seconds=0.1),
            "decode",
            "Decoding on the CPU was the limit: it was busy 100% of the time.",
            id="a CPU decoder",
        ),
        pytest.param(
            dict(
                device="cpu",
                total_seconds=10.0,
                span_seconds=9.9,
                stalled_seconds=6.0,
                write_seconds=9.8,
                tail_seconds=0.1,
            ),
            "write",
            "The encoder was the limit: the decoder waited 6.0 s for it; a lower quality would help.",
            id="the encoder behind a CPU decoder",
        ),
        pytest.param(
            dict(
                writer="main memory",
                advice="",
                total_seconds=2.0,
                span_seconds=2.0,
                stalled_seconds=1.5,
                write_seconds=1.9,
            ),
            "write",
            "Main memory was the limit: the GPU waited 1.5 s for it.",
            id="a sink nobody can speed up",
        ),
        pytest.param(
            dict(already_decoded=True, total_seconds=3.0, span_seconds=2.9, stalled_seconds=2.8, write_seconds=2.95),
            "write",
            "The frames were already decoded. Writing them took 3.0 s.",
            id="an IMAGE",
        ),
    ],
)
def test_the_verdict_names_the_lane_that_the_run_waited_for(figures, limit, verdict):
    report = Report(**(ENCODER | figures))
    assert (report.limit, report.verdict()) == (limit, verdict)


@pytest.mark.parametrize("figures", [{}, {"already_decoded": True}, {"device": "cpu"}])
def test_a_report_without_figures_has_a_verdict(figures):
    """Reports are shown of runs too short for any clock."""
    assert Report(**figures).verdict()


def test_a_report_names_its_first_sink_and_is_json():
    frames = clip(5)
    report = engine.run(in_chunks(frames, 2), VideoSpec(*frames.shape[1:], torch.device("cpu")), [ListSink()])
    assert (report.writer, report.advice, report.device, report.total_frames) == (
        "the list",
        "a shorter list",
        "cpu",
        5,
    )
    assert 0 <= report.tail_seconds <= report.total_seconds - report.span_seconds
    as_dict = json.loads(json.dumps(report.as_dict()))
    assert as_dict["verdict"] == report.verdict() and as_dict["limit"] == report.limit
