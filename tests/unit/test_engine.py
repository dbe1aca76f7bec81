"""The lanes on the CPU: every frame, in order, once; failures and cancel leave nothing behind."""

import contextlib
import threading

import pytest
import torch
from async_frame_pipeline.pipeline import engine
from async_frame_pipeline.pipeline.pixels import PixelFormat
from async_frame_pipeline.pipeline.ring import Ring
from async_frame_pipeline.pipeline.sinks.tensor import TensorSink
from async_frame_pipeline.pipeline.video_spec import VideoSpec

from .streams import ListSink, as_image, clip, in_chunks

CPU = torch.device("cpu")


def spec_of(frames_cthw: torch.Tensor) -> VideoSpec:
    return VideoSpec(*frames_cthw.shape[1:], CPU)


def lane_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("async-frame-pipeline")]


@pytest.mark.parametrize("slots", [2, 3, 5])
@pytest.mark.parametrize("sizes", [(1,), (1, 2), (4,), (7, 1, 30)])
def test_any_chunking_gives_the_frames_of_one_shot(slots, sizes):
    frames = clip(23)
    sink = TensorSink()
    report = engine.run(in_chunks(frames, *sizes), spec_of(frames), [sink], slots=slots, frames_per_slot=3)
    assert torch.equal(sink.frames_thwc, as_image(frames))
    assert report.frames == 23 and report.slots == slots


def test_one_decode_serves_several_sinks():
    frames = clip(9)
    sinks = [TensorSink(), TensorSink(torch.float16), ListSink()]
    engine.run(in_chunks(frames, 2), spec_of(frames), sinks)
    assert torch.equal(sinks[0].frames_thwc, as_image(frames))
    assert torch.equal(sinks[1].frames_thwc, frames.half().add(1.0).div(2.0).clamp(0, 1).permute(1, 2, 3, 0))
    assert torch.equal(sinks[2].frames, sinks[0].frames_thwc)
    assert sinks[2].calls == ["open", *["write"] * 5, "finish", "publish"]


def run_with_a_sink_that_reads_late(frames, slots):
    """The sink reads its first chunk only once the decoder has come round to that chunk's slot."""
    came_round = threading.Event()
    sink = ListSink(gate=came_round)
    submitted, checks = 0, [0] * (frames.shape[1] + 1)

    def decode(submit):
        nonlocal submitted
        for start in range(frames.shape[1]):
            submit(frames[:, start : start + 1])
            submitted += 1
            if submitted > slots:  # only possible when nothing held the decoder back
                came_round.set()

    def check():
        checks[submitted] += 1
        if checks[slots] > 1:  # asked again for the same chunk: the decoder waits for a slot
            came_round.set()

    engine.run(decode, spec_of(frames), [sink], slots=slots, frames_per_slot=1, check=check)
    return sink.frames


@pytest.mark.parametrize("slots", [2, 3, 5])
def test_a_slot_is_not_reused_before_the_sink_is_done_with_it(slots):
    frames = clip(12)
    assert torch.equal(run_with_a_sink_that_reads_late(frames, slots), as_image(frames))


@pytest.mark.parametrize("slots", [2, 3, 5])
def test_without_the_release_barrier_frames_are_overwritten(slots, monkeypatch):
    """The test above can fail: with slots handed out in turn, whoever holds them, it would."""
    turn = iter(range(10**6))
    monkeypatch.setattr(Ring, "try_acquire", lambda ring: ring._slots[next(turn) % slots] if ring._slots else None)
    frames = clip(12)
    assert not torch.equal(run_with_a_sink_that_reads_late(frames, slots), as_image(frames))


def test_a_failing_sink_ends_the_run_with_its_own_error_and_traceback():
    frames = clip(40)
    failing, other = ListSink(fail_at=5), ListSink()
    with pytest.raises(OSError, match="the sink fails at frame 5") as caught:
        engine.run(in_chunks(frames, 1), spec_of(frames), [other, failing])
    assert "write" in [entry.name for entry in caught.traceback]
    assert failing.calls[-1] == other.calls[-1] == "abort"
    assert "finish" not in failing.calls + other.calls
    assert not lane_threads()


@pytest.mark.parametrize("step", ["finish", "publish"])
def test_a_sink_that_cannot_be_completed_fails_the_run(step):
    frames = clip(3)
    sink = ListSink(fail_on=step)
    with pytest.raises(OSError, match=f"fails on {step}"):
        engine.run(in_chunks(frames, 1), spec_of(frames), [sink])
    assert sink.calls[-2:] == [step, "abort"]


def test_a_sink_that_cannot_open_fails_before_decoding():
    sinks = [ListSink(), ListSink(fail_on="open")]
    with pytest.raises(OSError, match="fails on open"):
        engine.run(lambda submit: pytest.fail("decoded all the same"), VideoSpec(1, 2, 2, CPU), sinks)
    assert [sink.calls for sink in sinks] == [["open", "abort"], ["open", "abort"]]
    assert not lane_threads()


def test_a_failing_decoder_aborts_the_sinks():
    frames, sink = clip(8), ListSink()

    def decode(submit):
        submit(frames[:, :4])
        raise MemoryError("out of memory at chunk 1")

    with pytest.raises(engine.DecodeError, match="MemoryError: out of memory at chunk 1") as failed:
        engine.run(decode, spec_of(frames), [sink])
    assert isinstance(failed.value.__cause__, MemoryError)
    assert sink.calls[-1] == "abort" and "finish" not in sink.calls
    assert not lane_threads()


class Cancelled(BaseException):
    """ComfyUI's interrupt is no Exception either."""


@pytest.mark.parametrize("blocked_in", ["a full ring", "the last write"])
def test_cancel_reaches_a_waiting_run(blocked_in):
    """The sink does not return before the cancel was seen, so waiting for it would be waiting for ever."""
    frames = clip(2 if blocked_in == "the last write" else 9)
    cancelled = threading.Event()
    sink = ListSink(gate=cancelled)
    submitted = 0

    def decode(submit):
        nonlocal submitted
        for start in range(frames.shape[1]):
            submit(frames[:, start : start + 1])
            submitted += 1

    def check():
        if submitted == 2:  # both slots are full, the sink holds the first
            cancelled.set()
            raise Cancelled

    with pytest.raises(Cancelled):
        engine.run(decode, spec_of(frames), [sink], slots=2, check=check)
    assert sink.calls[-1] == "abort" and "publish" not in sink.calls
    assert not lane_threads()


@pytest.mark.parametrize(
    ("delivered", "message"),
    [
        (clip(5), "delivered 5 frames, expected 6"),
        (clip(7), "expected .* with T <= "),
        (clip(6, height=8), r"chunk of shape \(3, 2, 8, 10\)"),
    ],
)
def test_other_frames_than_promised_are_refused(delivered, message):
    sink = ListSink()
    with pytest.raises(engine.FrameCountError, match=message):
        engine.run(in_chunks(delivered, 2), spec_of(clip(6)), [sink])
    assert sink.calls[-1] == "abort"


# -- a part of a video ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(1,), (2,), (5, 3), (40,)])
@pytest.mark.parametrize(("start", "stop"), [(0, 17), (0, 4), (3, 4), (5, 17), (16, 17)])
def test_a_part_is_exactly_its_frames(sizes, start, stop):
    frames, sink, told = clip(17), TensorSink(), []
    report = engine.run(in_chunks(frames, *sizes), spec_of(frames), [sink], frames=(start, stop), progress=told.append)
    assert torch.equal(sink.frames_thwc, as_image(frames)[start:stop])
    assert report.frames == report.total_frames == told[-1] == stop - start


def test_decoding_ends_with_the_last_frame_asked_for():
    frames, decoded = clip(20), []

    def decode(submit):
        for chunk in frames.split(2, dim=1):
            decoded.append(chunk.shape[1])
            submit(chunk)

    engine.run(decode, spec_of(frames), [ListSink()], frames=(3, 7))
    assert sum(decoded) == 8


def test_whatever_a_decoder_makes_of_being_stopped_the_part_is_complete():
    frames = clip(20)

    def wrap(submit):
        try:
            in_chunks(frames, 2)(submit)
        except BaseException as error:
            raise RuntimeError("the decoder was disturbed") from error

    def go_on(submit):
        for chunk in frames.split(2, dim=1):
            with contextlib.suppress(BaseException):
                submit(chunk)

    for decode in (wrap, go_on):
        sink = TensorSink()
        engine.run(decode, spec_of(frames), [sink], frames=(3, 7))
        assert torch.equal(sink.frames_thwc, as_image(frames)[3:7])


def test_a_cancel_comes_through_before_the_part_begins():
    def check():
        raise Cancelled

    with pytest.raises(Cancelled):
        engine.run(in_chunks(clip(20), 2), spec_of(clip(20)), [ListSink()], frames=(18, 20), check=check)


@pytest.mark.parametrize("part", [(0, 0), (4, 3), (-1, 3), (0, 7), (6, 7)])
def test_a_part_that_is_not_there_is_refused(part):
    sink = ListSink()
    with pytest.raises(ValueError, match=f"no frames from {part[0]} to {part[1]} in a video of 6"):
        engine.run(lambda submit: pytest.fail("decoded"), spec_of(clip(6)), [sink], frames=part)
    assert sink.calls == []


def test_a_decoder_that_ends_before_the_part_does_is_refused():
    with pytest.raises(engine.FrameCountError, match="delivered 5 frames, expected 6"):
        engine.run(in_chunks(clip(6)[:, :5], 2), spec_of(clip(6)), [ListSink()], frames=(2, 6))


# ------------------------------------------------------------------------------------------------------


def test_sinks_can_be_used_again_after_an_abort():
    frames, sink = clip(6), TensorSink()
    with pytest.raises(engine.FrameCountError):
        engine.run(in_chunks(frames[:, :2], 2), spec_of(frames), [sink])
    assert sink.frames_thwc is None
    engine.run(in_chunks(frames, 2), spec_of(frames), [sink])
    assert torch.equal(sink.frames_thwc, as_image(frames))


def test_the_report_counts_frames_chunks_and_stalls():
    frames, gate = clip(8), threading.Event()
    sink = ListSink(gate=gate)
    submitted = 0

    def decode(submit):
        nonlocal submitted
        for start in range(8):
            submit(frames[:, start : start + 1])
            submitted += 1

    report = engine.run(
        decode, spec_of(frames), [sink], slots=2, check=lambda: gate.set() if submitted == 2 else None
    )
    assert (report.frames, report.chunks) == (8, 8)
    assert report.stalls >= 1 and report.stalled_seconds > 0
    assert 0 <= report.busy_share < 1
    assert report.ring_bytes == 2 * 4 * 6 * 10 * 3 * 4  # slots, frames a slot, height, width, channels, float32
    assert report.host_peak_bytes > 0 and report.total_seconds >= report.span_seconds > 0
    assert report.as_dict()["text"] == report.text()


@pytest.mark.parametrize(("slots", "frames_per_slot"), [(1, 4), (0, 4), (2, 0)])
def test_rings_that_cannot_overlap_are_refused(slots, frames_per_slot):
    with pytest.raises(ValueError, match="at least"):
        engine.run(lambda submit: None, VideoSpec(1, 2, 2, CPU), [ListSink()], slots=slots, frames_per_slot=frames_per_slot)


@pytest.mark.parametrize("sizes", [(0, 2, 2), (1, 0, 2), (1, 2, -1)])
def test_specs_without_pixels_are_refused(sizes):
    with pytest.raises(ValueError, match=">= 1"):
        VideoSpec(*sizes, CPU)


def test_devices_without_lanes_are_refused():
    with pytest.raises(ValueError, match="supported are cuda and cpu"):
        VideoSpec(1, 2, 2, torch.device("meta"))


def test_the_sink_thread_writes_in_inference_mode():
    """ComfyUI's tensors are inference tensors; writing into one outside of the mode raises."""
    frames = clip(4)
    sink = TensorSink()
    with torch.inference_mode():
        engine.run(in_chunks(frames, 2), spec_of(frames), [sink])
    assert sink.frames_thwc.is_inference()
    assert torch.equal(sink.frames_thwc, as_image(frames))


def test_float_formats_of_one_size_share_no_buffer():
    """Two formats in one slot: a mix-up would show in either."""
    frames, singles, halves = clip(4), ListSink(), ListSink()
    halves.pixel_format = PixelFormat.RGB_F16
    engine.run(in_chunks(frames, 4), spec_of(frames), [singles, halves])
    assert singles.frames.dtype is torch.float32 and halves.frames.dtype is torch.float16


def test_the_end_of_the_process_aborts_the_sinks_and_lets_the_thread_do_nothing_more():
    """As at exit: the run is in a thread that dies with the process, in the middle of its decode."""
    frames = clip(12)
    sink, after = ListSink(), []
    under_way = threading.Event()

    def decode(submit):
        submit(frames[:, :4])
        [lanes] = engine._under_way
        under_way.set()
        assert lanes.stopped.wait(60)
        submit(frames[:, 4:])

    def run():
        try:
            engine.run(decode, spec_of(frames), [sink])
        finally:
            after.append("went on")

    thread = threading.Thread(target=run, daemon=True, name="dies with the process")
    thread.start()
    assert under_way.wait(60)
    engine._stop_all()
    assert sink.calls[-1] == "abort" and "finish" not in sink.calls
    assert lane_threads() == []
    assert after == [] and thread.is_alive()
