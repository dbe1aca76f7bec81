"""A watched run on a GPU: the lanes are shown when they worked, by the GPU's own clock."""

import threading
import time

import pytest
import torch
from async_frame_pipeline.pipeline import engine
from async_frame_pipeline.pipeline.report import Report
from async_frame_pipeline.pipeline.timeline import Timeline
from async_frame_pipeline.pipeline.video_spec import VideoSpec

from ..unit.streams import ListSink, as_image, clip
from .test_barriers import SLEEP_CYCLES, SlowSink

FRAMES = 24


@pytest.fixture(autouse=True)
def kernels_loaded(device):
    """The first use of a kernel loads it, which would show as time of the GPU's."""
    watched(device, ListSink(), cycles=1)


def watched(device, sink, slots=3, cycles=SLEEP_CYCLES):
    """A run in chunks of two frames, each of which takes the GPU `cycles`; its report, and its progress on the way."""
    source = clip(FRAMES, 64, 96, device)
    report = Report(timeline=Timeline())
    progress, over, began = [], threading.Event(), time.perf_counter()

    def tell():
        while not over.wait(0.002):
            progress.append(report.progress(time.perf_counter() - began))

    def decode(submit):
        for start in range(0, FRAMES, 2):
            torch.cuda._sleep(cycles)
            submit(source[:, start : start + 2])
            report.timeline.look()

    teller = threading.Thread(target=tell)
    teller.start()
    try:
        spec = VideoSpec(FRAMES, 64, 96, device)
        engine.run(decode, spec, [sink], slots=slots, frames_per_slot=2, check=report.timeline.look, report=report)
    finally:
        over.set()
        teller.join()
    report.timeline.look()
    assert torch.equal(sink.frames, as_image(source)), "watching changes nothing"
    return report, progress


def busy_share(chart, lane):
    return sum(chart[lane]) / 100 / len(chart[lane])


def test_a_busy_gpu_is_shown_busy(device):
    report, progress = watched(device, ListSink())
    chart = report.as_dict()["chart"]
    assert busy_share(chart, "decode") > 0.8 and report.limit == "decode"
    assert 0 < sum(chart["copy"]) < sum(chart["decode"])
    assert chart["seconds"] <= report.total_seconds * 1.05


def test_a_gpu_that_waits_for_a_slow_sink_is_shown_waiting(device):
    report, progress = watched(device, SlowSink(seconds=0.1), slots=2, cycles=1000)
    chart = report.as_dict()["chart"]
    assert busy_share(chart, "write") > 0.7 and busy_share(chart, "decode") < 0.5
    assert report.limit == "write" and "The GPU waited" in " ".join(report.verdict())
    # What was known on the way is what the report says in the end.
    assert abs(report.timeline.stalled_seconds - report.stalled_seconds) < 0.01 * report.total_seconds


def test_frames_are_counted_as_they_get_through_and_all_in_the_end(device):
    report, progress = watched(device, ListSink())
    assert report.timeline.decoded == report.timeline.copied == FRAMES
    for now, then in zip(progress, progress[1:]):
        assert FRAMES >= now["decoded"] >= now["copied"] >= now["written"]
        assert all(then[lane] >= now[lane] for lane in ("decoded", "copied", "written"))
    assert len({now["decoded"] for now in progress}) > 3
    assert max(now["decoded"] - now["written"] for now in progress) <= 3 * 2, "launched, but not yet decoded"
