"""The verdict: what a run was limited by, in words that its figures bear out."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from async_frame_pipeline.pipeline import engine
from async_frame_pipeline.pipeline.report import Decoded, Report
from async_frame_pipeline.pipeline.text import Text
from async_frame_pipeline.pipeline.video_spec import VideoSpec

from .streams import ListSink, clip, in_chunks

REPO = Path(__file__).resolve().parent.parent.parent
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
            "The GPU was the limit: it was busy 99% of the time. "
            "The last frame was written 0.40 s after it was decoded.",
            id="the GPU, and a tail",
        ),
        pytest.param(
            dict(total_seconds=5.3, span_seconds=5.2, stalled_seconds=1.2, write_seconds=5.0, tail_seconds=0.1),
            "write",
            "The encoder was the limit. The GPU waited 1.2 s for it. A lower quality would help.",
            id="the encoder",
        ),
        pytest.param(
            dict(total_seconds=6.0, span_seconds=5.2, stalled_seconds=1.2, write_seconds=5.0, tail_seconds=0.8),
            "write",
            "The encoder was the limit. The GPU waited 1.2 s for it. The last frame was written 0.80 s after it was "
            "decoded. A lower quality would help.",
            id="the encoder, and its tail",
        ),
        pytest.param(
            dict(total_seconds=3.0, span_seconds=1.0, stalled_seconds=0.0, write_seconds=2.9, tail_seconds=2.0),
            "write",
            "The encoder was the limit. The last frame was written 2.0 s after it was decoded. "
            "A lower quality would help.",
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
            "Copying to main memory was the limit. The GPU waited 2.0 s for it.",
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
            "The encoder was the limit. The decoder waited 6.0 s for it. A lower quality would help.",
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
            "Main memory was the limit. The GPU waited 1.5 s for it.",
            id="a sink nobody can speed up",
        ),
        pytest.param(
            dict(already_decoded=True, total_seconds=3.0, span_seconds=2.9, stalled_seconds=2.8, write_seconds=2.95),
            "write",
            "The frames were already decoded. Writing them took 3.0 s.",
            id="an IMAGE",
        ),
        pytest.param(
            dict(
                already_decoded=True,
                decoded=Decoded("stock", "the VAE's output is not RGB", seconds=4.1),
                frames=33,
                total_seconds=4.6,
                span_seconds=0.4,
                write_seconds=0.45,
            ),
            "decode",
            "Nothing overlapped: decoding took 4.1 s, and writing 0.50 s after that.",
            id="the stock way",
        ),
        pytest.param(
            dict(already_decoded=True, decoded=Decoded("tiled", "out of memory", seconds=4.1), total_seconds=4.1),
            "decode",
            "Decoding took 4.1 s, and nothing overlapped.",
            id="the stock way to an IMAGE, which nobody writes",
        ),
    ],
)
def test_the_verdict_names_the_lane_that_the_run_waited_for(figures, limit, verdict):
    report = Report(**(ENCODER | figures))
    assert (report.limit, " ".join(report.verdict())) == (limit, verdict)


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
    assert as_dict["verdict"] == " ".join(report.verdict()) and as_dict["limit"] == report.limit


def test_what_was_decoded_before_the_run_counts():
    """A stock decode of 4.1 s and a run of its frames are never "0.5 s"."""
    frames, decoded = clip(5), Decoded("stock", seconds=4.1)
    report = engine.run(
        in_chunks(frames, 2),
        VideoSpec(*frames.shape[1:], torch.device("cpu")),
        [ListSink()],
        report=Report(already_decoded=True, decoded=decoded),
    )
    assert report.total_seconds > 4.1 and report.decode_seconds == 4.1
    assert "decoded in 4.10 s" in report.text()


def test_a_report_says_how_it_was_decoded_and_why_not_faster():
    patched = Text("the VAE's weights are patched")
    vain = Text("the fast decoder cannot be used: %reason%", reason=patched)
    report = Report(decoded=Decoded("exact", patched, patched, [vain])).as_dict()
    assert (report["decoder"], report["why_not_fast"]) == ("exact", "the VAE's weights are patched")
    assert report["notes"] == ["the fast decoder cannot be used: the VAE's weights are patched"]
    texts = json.loads(json.dumps(report))["texts"]
    assert texts["reason"] == {"text": "the VAE's weights are patched", "values": {}}
    assert texts["notes"] == [
        {
            "text": "the fast decoder cannot be used: %reason%",
            "values": {"reason": {"text": "the VAE's weights are patched", "values": {}}},
        }
    ]


def every_verdict():
    """What a report can say: all combinations of what it looks at."""
    from async_frame_pipeline.pipeline.sinks.image_sequence import ImageSequenceSink
    from async_frame_pipeline.pipeline.sinks.tensor import TensorSink
    from async_frame_pipeline.pipeline.sinks.video_file import VideoFileSink

    for sink, device, already, decoder, frames in itertools.product(
        (VideoFileSink, ImageSequenceSink, TensorSink), ("cuda", "cpu"), (False, True), ("", "stock"), (0, 9)
    ):
        for stalled, copy, write, tail in itertools.product((0.0, 2.0), (0.0, 9.0), (0.0, 8.0), (0.0, 3.0)):
            report = Report(
                frames=frames,
                device=device,
                already_decoded=already,
                decoded=Decoded(decoder),
                writer=sink.name,
                advice=sink.advice,
                span_seconds=5.0,
                stalled_seconds=stalled,
                copy_seconds=copy,
                write_seconds=write,
                tail_seconds=tail,
                total_seconds=10.0,
            )
            yield from report.verdict()


def test_every_verdict_can_be_translated():
    texts = json.loads((REPO / "locales" / "en" / "main.json").read_text())["asyncFramePipeline"]
    assert {text.template for text in every_verdict()} <= set(texts)
