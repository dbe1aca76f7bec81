"""The lanes on the CPU: every frame, in order, once; failures and cancel leave nothing behind."""

import contextlib
import gc
import threading
import weakref

import pytest
import torch
from async_frame_pipeline.pipeline import engine
from async_frame_pipeline.pipeline.pixels import PixelFormat
from async_frame_pipeline.pipeline.ring import Instant, Ring, Slot
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


def test_the_launching_thread_sleeps_while_the_gpu_has_a_whole_piece_to_do(monkeypatch):
    frames, events, done = clip(12), [], []

    class Event(Instant):
        def record(self, stream=None):
            events.append(self)

        def synchronize(self):
            done.append(self)

    monkeypatch.setattr(engine, "make_event", lambda device: Event())

    def decode(submit):
        for start in range(0, 12, 3):
            submit(frames[:, start : start + 3])  # more than a slot takes
            assert done == pieces()[1:-1], "not of the first, which is short"

    def pieces():
        return events[1:]  # before them there is that of the decode's beginning

    engine.run(decode, spec_of(frames), [ListSink()], slots=8, frames_per_slot=2)  # no chunk waits for a slot
    assert len(pieces()) == 5, "four, and the decode's end"


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

    report = engine.run(decode, spec_of(frames), [sink], slots=2, check=lambda: gate.set() if submitted == 2 else None)
    assert (report.frames, report.chunks) == (8, 8)
    assert report.stalls >= 1 and report.stalled_seconds > 0
    assert 0 <= report.busy_share < 1
    assert report.ring_bytes == 2 * 4 * 6 * 10 * 3 * 4  # slots, frames a slot, height, width, channels, float32
    assert report.host_peak_bytes > 0 and report.total_seconds >= report.span_seconds > 0
    assert report.as_dict()["text"] == report.text()


@pytest.mark.parametrize(("slots", "frames_per_slot"), [(1, 4), (0, 4), (2, 0)])
def test_rings_that_cannot_overlap_are_refused(slots, frames_per_slot):
    with pytest.raises(ValueError, match="at least"):
        engine.run(
            lambda submit: None, VideoSpec(1, 2, 2, CPU), [ListSink()], slots=slots, frames_per_slot=frames_per_slot
        )


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


# -- a run commits or it does not ----------------------------------------------------------------------


def test_all_finish_before_the_first_is_published_and_that_is_the_users():
    frames, order = clip(4), []

    class Noting(ListSink):
        def _called(self, name):
            order.append((name, self))

    sinks, spectators = [Noting(), Noting()], [Noting()]
    engine.run(in_chunks(frames, 4), spec_of(frames), sinks, spectators=spectators)
    all_of_them = [*sinks, *spectators]
    assert order == [(step, sink) for step in ("open", "write", "finish", "publish") for sink in all_of_them]


def test_nothing_is_published_where_one_cannot_finish():
    frames, sinks = clip(4), [ListSink(), ListSink(fail_on="finish"), ListSink()]
    with pytest.raises(OSError, match="fails on finish"):
        engine.run(in_chunks(frames, 2), spec_of(frames), sinks)
    assert all("publish" not in sink.calls and sink.calls[-1] == "abort" for sink in sinks)


def test_a_cancel_after_the_last_sink_has_finished_publishes_nothing():
    frames, finished = clip(4), threading.Event()

    class Last(ListSink):
        def finish(self):
            super().finish()
            finished.set()

    def check():
        if finished.is_set():
            raise Cancelled

    sinks = [ListSink(), Last()]
    with pytest.raises(Cancelled):
        engine.run(in_chunks(frames, 2), spec_of(frames), sinks, check=check)
    assert [sink.calls[-2:] for sink in sinks] == [["finish", "abort"]] * 2


def test_an_abort_that_goes_wrong_hides_no_error_and_skips_no_sink(caplog):
    frames = clip(4)
    sinks = [ListSink(fail_on="abort"), ListSink(fail_at=1), ListSink(fail_on="abort"), ListSink()]
    with pytest.raises(OSError, match="fails at frame 1"):
        engine.run(in_chunks(frames, 1), spec_of(frames), sinks)
    assert [sink.calls.count("abort") for sink in sinks] == [1] * 4
    assert [record.getMessage() for record in caplog.records] == [
        "async-frame-pipeline: the list could not be given up: OSError: the sink fails on abort"
    ] * 2
    assert not lane_threads()


@pytest.mark.parametrize("step", ["open", "write", "finish", "publish", "write and abort"])
def test_a_spectator_that_fails_is_left_out_with_one_line_and_the_run_goes_on(caplog, step):
    frames = clip(6)
    sink, after = TensorSink(), ListSink()
    bad = ListSink(fail_on=step) if " and " not in step else ListSink(fail_at=2, fail_on="abort")
    engine.run(in_chunks(frames, 1), spec_of(frames), [sink], spectators=[bad, after])
    assert torch.equal(sink.frames_thwc, as_image(frames)) and torch.equal(after.frames, sink.frames_thwc)
    assert after.calls[-1] == "publish"
    assert bad.calls.count("abort") == 1 and bad.calls[-1] == "abort", "and is not called again"
    left_out = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(left_out) == 1 and left_out[0].startswith(
        "async-frame-pipeline: the list is left out, the run goes on: OSError"
    )


def test_a_spectator_is_aborted_with_the_rest():
    frames, spectator = clip(6), ListSink()
    with pytest.raises(OSError):
        engine.run(in_chunks(frames, 1), spec_of(frames), [ListSink(fail_at=2)], spectators=[spectator])
    assert spectator.calls[-1] == "abort" and "publish" not in spectator.calls


def test_a_run_without_sinks_is_refused():
    with pytest.raises(ValueError, match="at least one sink"):
        engine.run(lambda submit: pytest.fail("decoded"), spec_of(clip(1)), [], spectators=[ListSink()])


# -- whose error it was --------------------------------------------------------------------------------


def wrapping(submit, chunks):
    try:
        for chunk in chunks:
            submit(chunk)
    except BaseException as error:
        raise RuntimeError("my decoder failed") from error


def swallowing(submit, chunks):
    for chunk in chunks:
        with contextlib.suppress(BaseException):
            submit(chunk)


def ending_early(submit, chunks):
    with contextlib.suppress(BaseException):
        for chunk in chunks:
            submit(chunk)


def failing_by_itself(submit, chunks):
    ending_early(submit, chunks)
    raise MemoryError("the decoder's own")


@pytest.mark.parametrize("decoder", [wrapping, swallowing, ending_early, failing_by_itself])
@pytest.mark.parametrize("whose", ["a sink", "a conversion", "a check", "progress"])
def test_a_decoder_cannot_hide_a_lanes_error_or_a_checks(monkeypatch, decoder, whose):
    """Else a full disk looks like a decoder that failed, and all is decoded again another way."""
    frames, error, calls = clip(12), OSError("No space left on device"), 0

    def fail(*args):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise error

    class Full(ListSink):
        def write(self, pixels):
            fail()

    if whose == "a conversion":
        monkeypatch.setattr(Slot, "fill", fail)
    options = {"a check": {"check": fail}, "progress": {"progress": fail}}.get(whose, {})
    sink = Full() if whose == "a sink" else ListSink()
    with pytest.raises(OSError) as caught:
        engine.run(lambda submit: decoder(submit, frames.split(1, dim=1)), spec_of(frames), [sink], **options)
    assert caught.value is error and sink.calls[-1] == "abort"


def test_a_lanes_error_comes_before_a_checks():
    """Both while the decoder waits for an answer to its second chunk."""
    frames, gate, checks = clip(12), threading.Event(), 0

    def check():
        nonlocal checks
        checks += 1
        if checks == 2:
            gate.set()
            [thread] = [each for each in threading.enumerate() if each.name == "async-frame-pipeline"]
            thread.join()
            raise Cancelled

    with pytest.raises(OSError, match="fails at frame 0"):
        engine.run(in_chunks(frames, 1), spec_of(frames), [ListSink(fail_at=0, gate=gate)], check=check)


def test_a_check_comes_before_the_decoders_own_error():
    broken = False

    def check():
        if broken:
            raise Cancelled

    def decode(submit):
        nonlocal broken
        broken = True
        raise RuntimeError("while the user cancelled")

    with pytest.raises(Cancelled):
        engine.run(decode, spec_of(clip(2)), [ListSink()], check=check)


@pytest.mark.parametrize("error", [Cancelled, KeyboardInterrupt])
def test_what_is_no_exception_leaves_the_decoder_as_it_is(error):
    def decode(submit):
        raise error

    sink = ListSink()
    with pytest.raises(error):
        engine.run(decode, spec_of(clip(2)), [sink])
    assert sink.calls == ["open", "abort"]


def test_other_frames_than_promised_are_the_decoders_error():
    def decode(submit):
        wrapping(submit, [clip(3)])

    with pytest.raises(engine.DecodeError, match="expected .* with T <= 2") as caught:
        engine.run(decode, spec_of(clip(2)), [ListSink()])
    assert type(caught.value) is engine.FrameCountError and caught.value.__cause__ is None


def test_a_failed_run_holds_nothing_of_the_decoders_once_its_error_is_gone():
    """The next way needs that memory at once, and not when Python next looks for circles."""
    frames, held = clip(4), []

    def decode(submit):
        activations = torch.zeros(8)
        held.append(weakref.ref(activations))
        submit(frames[:, :2])
        raise MemoryError("in the decoder")

    def decode_into_failing(submit):
        activations = torch.zeros(8)
        held.append(weakref.ref(activations))
        in_chunks(frames, 1)(submit)

    gc.collect()
    gc.disable()
    try:
        for way, sink in ((decode, ListSink()), (decode_into_failing, ListSink(fail_at=0))):
            with contextlib.suppress(engine.DecodeError, OSError):
                engine.run(way, spec_of(frames), [sink])
        assert [activations() for activations in held] == [None, None]
    finally:
        gc.enable()


# -- what a run leaves ---------------------------------------------------------------------------------


@pytest.mark.parametrize("failing", ["the first event's record", "an event"])
def test_an_error_between_the_threads_start_and_the_first_event_gives_everything_back(monkeypatch, failing):
    class Unrecordable(Instant):
        def record(self, stream=None):
            raise RuntimeError("CUDA error")

    def make(device):
        if failing == "an event":
            raise RuntimeError("CUDA error")
        return Unrecordable()

    monkeypatch.setattr(engine, "make_event", make)
    closed, real = [], Ring.close
    monkeypatch.setattr(Ring, "close", lambda ring: closed.append(ring) or real(ring))
    sink = ListSink()
    with pytest.raises(RuntimeError, match="CUDA error"):
        engine.run(lambda submit: pytest.fail("decoded"), spec_of(clip(2)), [sink])
    assert sink.calls == ["open", "abort"] and len(closed) == 1
    assert not lane_threads() and engine._under_way == set()


@pytest.mark.parametrize("step", ["write", "finish"])
def test_a_sink_that_never_returns_holds_up_no_cancel(monkeypatch, caplog, step):
    monkeypatch.setattr(engine, "STUCK_SECONDS", 0.0)
    frames, inside, gate = clip(6), threading.Event(), threading.Event()
    made, real = [], Slot.__init__
    monkeypatch.setattr(Slot, "__init__", lambda slot, *args: made.append(slot) or real(slot, *args))

    class Stuck(ListSink):
        name = "the stuck one"

        def _called(self, name):
            super()._called(name)
            if name == step and not gate.is_set():
                inside.set()
                assert gate.wait(60)

    def check():
        if inside.is_set():
            raise Cancelled

    sink, other = Stuck(), ListSink()
    with pytest.raises(Cancelled):
        engine.run(in_chunks(frames, 1), spec_of(frames), [other, sink], check=check)
    assert caplog.messages == [
        "async-frame-pipeline: the stuck one has not returned and is left behind; "
        "what it wrote is given up when it does"
    ]
    assert "abort" not in sink.calls + other.calls, "nobody touches a sink that another thread is inside of"
    assert all(slot.host for slot in made), "it may still read them"
    assert engine._under_way == set()
    with pytest.raises(RuntimeError, match="the stuck one has not returned from an earlier run yet"):
        engine.run(in_chunks(frames, 1), spec_of(frames), [sink])

    [thread] = [each for each in threading.enumerate() if each.name == "async-frame-pipeline"]
    gate.set()
    thread.join()
    assert sink.calls[-1] == other.calls[-1] == "abort" and "publish" not in sink.calls + other.calls
    sink.chunks.clear()
    engine.run(in_chunks(frames, 1), spec_of(frames), [sink])
    assert torch.equal(sink.frames, as_image(frames))
    assert engine._stuck == set() and not any(slot.host for slot in made)
