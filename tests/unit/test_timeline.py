"""What a watcher sees of the lanes: frames, pace, and a chart that adds up, also of runs of any length."""

import threading

import pytest
import torch
from async_frame_pipeline.pipeline import engine
from async_frame_pipeline.pipeline.report import Report
from async_frame_pipeline.pipeline.ring import Instant
from async_frame_pipeline.pipeline.timeline import COLUMNS, LANES, Pace, Timeline
from async_frame_pipeline.pipeline.video_spec import VideoSpec

from .streams import ListSink, clip, in_chunks

CPU = torch.device("cpu")


def event(seconds: float, passed: bool = True) -> Instant:
    """An event at a time of the test's choosing."""
    instant = Instant()
    instant._at_seconds = seconds
    instant.query = lambda: passed
    return instant


class Passage:
    """A slot as far as a timeline looks at it."""

    def __init__(self, frames=2, decoded=0.0, copy_began=None, copied=None, stall=None, passed=True):
        self.frames = frames
        self.decoded = event(decoded, passed)
        self.copy_began = event(decoded if copy_began is None else copy_began)
        self.copied = event(decoded if copied is None else copied, passed)
        self.stall = stall and (event(stall[0]), event(stall[1]))


def timeline_of(*passages: Passage) -> Timeline:
    timeline = Timeline()
    timeline.begin(event(0.0))
    for passage in passages:
        timeline.arrived(passage)
    return timeline


def busy_seconds(chart: dict, lane: str) -> float:
    return sum(chart[lane]) / 100 * chart["seconds"] / len(chart[lane])


def test_the_lanes_show_when_they_worked():
    timeline = timeline_of(Passage(decoded=0.5, copy_began=0.5, copied=0.75), Passage(decoded=1.0, copied=1.0))
    chart = timeline.chart()
    assert chart["seconds"] == 1.0 and len(chart["decode"]) == 64  # columns of 1/64 s
    assert chart["decode"] == [100] * 64
    assert chart["copy"] == [0] * 32 + [100] * 16 + [0] * 16


def test_a_stall_is_a_gap_in_the_decode_lane():
    timeline = timeline_of(Passage(decoded=0.5), Passage(decoded=1.0, stall=(0.5, 0.75)))
    assert timeline.chart()["decode"] == [100] * 32 + [0] * 16 + [100] * 16
    assert timeline.stalled_seconds == 0.25 and timeline.busy_share == 0.75


def test_a_stall_is_counted_once_however_often_its_slot_comes_round():
    slot = Passage(decoded=1.0, stall=(0.5, 0.75))
    timeline = timeline_of(slot, slot)
    assert timeline.stalled_seconds == 0.25


def test_writes_are_put_on_the_clock_of_the_gpu(monkeypatch):
    # The sink thread's clock says 1000.0 when the first copy ends, at 0.25 of the GPU's.
    monkeypatch.setattr("time.perf_counter", lambda: 1000.0)
    timeline = timeline_of(Passage(decoded=0.25, copied=0.25))
    timeline.wrote(1000.0, 1000.25)
    assert timeline.chart()["write"] == [0] * 16 + [100] * 16


@pytest.mark.parametrize("seconds", [0.4, 1.5, 1.6, 100.0, 7000.0])
def test_a_run_of_any_length_fits_and_its_times_add_up(seconds):
    chunks = 400
    every = seconds / chunks
    passages = [Passage(decoded=(n + 1) * every, copy_began=n * every, copied=(n + 0.5) * every) for n in range(chunks)]
    chart = timeline_of(*passages).chart()
    assert chart["seconds"] == pytest.approx(seconds)
    assert all(len(chart[lane]) <= COLUMNS and len(chart[lane]) == len(chart["decode"]) for lane in LANES)
    assert len(chart["decode"]) >= min(COLUMNS // 2, 64 * seconds), "too coarse to see anything"
    assert busy_seconds(chart, "decode") == pytest.approx(seconds, rel=0.03)
    assert busy_seconds(chart, "copy") == pytest.approx(seconds / 2, rel=0.05)
    assert set(chart["write"]) == {0}


def test_a_lane_that_hardly_works_differs_from_one_that_does_not():
    passages = [Passage(decoded=n + 1.0, copied=n + 1.0 + 1e-5) for n in range(50)]
    chart = timeline_of(*passages).chart()
    assert max(chart["copy"]) == 1 and max(chart["write"]) == 0


def test_nothing_yet_is_an_empty_chart():
    assert Timeline().chart() == {"seconds": 0.0, "decode": [], "copy": [], "write": []}


def test_frames_count_when_their_events_have_passed():
    timeline = Timeline()
    first, second = Passage(frames=2), Passage(frames=1, passed=False)
    timeline.expect(first)
    timeline.expect(second)
    timeline.look()
    assert (timeline.decoded, timeline.copied) == (2, 2)
    second.decoded.query = lambda: True
    timeline.look()
    assert (timeline.decoded, timeline.copied) == (3, 2), "decoded, and still being copied"


def test_a_slot_that_comes_round_is_counted_before_it_is_filled_anew():
    timeline, slot = Timeline(), Passage(frames=2)
    timeline.expect(slot)
    timeline.expect(slot)
    slot.frames = 1
    timeline.look()
    assert timeline.decoded == timeline.copied == 3


def test_the_pace_leaves_out_the_setting_up():
    pace = Pace()
    assert pace.see(0, 10, 5.0) == (None, None)
    assert pace.see(1, 10, 20.0) == (None, None)  # 19 s of these were not for this frame
    assert pace.see(3, 10, 21.0) == (2.0, 3.5)


def test_time_left_runs_down_between_chunks_and_never_below_zero():
    pace = Pace()
    pace.see(2, 10, 1.0)
    assert pace.see(4, 10, 2.0) == (2.0, 3.0)
    assert pace.see(4, 10, 3.0) == (2.0, 2.0)
    assert pace.see(4, 10, 30.0) == (2.0, 0.0)
    assert pace.see(10, 10, 31.0)[1] == 0.0


def test_a_watched_run_tells_its_progress_and_keeps_its_chart():
    frames, gate = clip(6), threading.Event()
    report = Report(timeline=Timeline())
    seen = []

    def decode(submit):
        for start in range(6):
            submit(frames[:, start : start + 1])
            report.timeline.look()
            seen.append(report.progress(seconds=start + 1.0))
            if start == 1:
                gate.set()

    sink = ListSink(gate=gate)
    engine.run(decode, VideoSpec(*frames.shape[1:], CPU), [sink], slots=3, report=report)
    assert [now["decoded"] for now in seen] == [1, 2, 3, 4, 5, 6]
    assert seen[0]["written"] == 0 and seen[0]["total"] == 6, "the sink had not begun"
    assert all(now["decoded"] >= now["copied"] >= now["written"] for now in seen)
    chart = report.as_dict()["chart"]
    assert max(chart["decode"]) > 0 and max(chart["write"]) > 0
    assert chart["seconds"] <= report.total_seconds


def test_a_run_that_nobody_watches_has_no_chart():
    frames = clip(6)
    report = engine.run(in_chunks(frames, 2), VideoSpec(*frames.shape[1:], CPU), [ListSink()])
    assert report.timeline is None and report.as_dict()["chart"] is None
