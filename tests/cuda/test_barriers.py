"""Note [The three barriers] of ring.py: with each lane slowed down in turn the frames are right, and
with any one barrier taken out they are wrong."""

import time

import pytest
import torch
from async_frame_pipeline.pipeline import engine
from async_frame_pipeline.pipeline.ring import Ring, Slot
from async_frame_pipeline.pipeline.video_spec import VideoSpec

from ..unit.streams import ListSink, as_image, clip

SLEEP_CYCLES = 20_000_000  # about 10 ms on an H100: far longer than any copy or conversion here
FRAMES = 24


class SlowSink(ListSink):
    def __init__(self, seconds: float = 0.005):
        super().__init__()
        self._seconds = seconds

    def write(self, pixels):
        time.sleep(self._seconds)
        super().write(pixels)


def run(device, slots, slow_decode=False, slow_sink=False):
    """Frames that arrive on the GPU late, if slow, but always before anyone who waits for them."""
    source = clip(FRAMES, 64, 96, device)
    sink = SlowSink() if slow_sink else ListSink()

    def decode(submit):
        for start in range(0, FRAMES, 2):
            # Poisoned, so that who reads too early reads something else than the frames.
            chunk = torch.full((3, 2, 64, 96), 9.0, device=device)
            if slow_decode:
                torch.cuda._sleep(SLEEP_CYCLES)
            chunk.copy_(source[:, start : start + 2])
            submit(chunk)

    engine.run(decode, VideoSpec(FRAMES, 64, 96, device), [sink], slots=slots, frames_per_slot=2)
    return torch.equal(sink.frames, as_image(source))


def test_a_piece_is_done_when_the_next_one_is_submitted(device):
    """The launching thread sleeps until then, and does not spin for want of room for its launches."""

    def decode(submit):
        pieces = []
        for _ in range(6):
            torch.cuda._sleep(SLEEP_CYCLES)
            pieces.append(torch.cuda.Event())
            pieces[-1].record()
            submit(torch.zeros((3, 2, 64, 96), device=device))
            assert len(pieces) < 3 or pieces[-2].query()

    engine.run(decode, VideoSpec(12, 64, 96, device), [ListSink()], slots=5, frames_per_slot=2)


@pytest.fixture
def slow_copies(monkeypatch):
    fence = Slot.fence_copy

    def fence_and_sleep(slot, copy_stream):
        fence(slot, copy_stream)
        with torch.cuda.stream(copy_stream):
            torch.cuda._sleep(SLEEP_CYCLES)

    monkeypatch.setattr(Slot, "fence_copy", fence_and_sleep)


slots_in_turn = pytest.mark.parametrize("slots", [2, 3, 5])


@slots_in_turn
def test_no_delay(device, slots):
    assert run(device, slots)


@slots_in_turn
def test_slow_decoder(device, slots):
    assert run(device, slots, slow_decode=True)


@slots_in_turn
def test_slow_copies(device, slots, slow_copies):
    assert run(device, slots)


@slots_in_turn
def test_slow_sink(device, slots):
    assert run(device, slots, slow_sink=True)


@slots_in_turn
def test_all_slow(device, slots, slow_copies):
    assert run(device, slots, slow_decode=True, slow_sink=True)


@slots_in_turn
def test_without_decoded_the_copy_reads_what_is_not_written_yet(device, slots, monkeypatch):
    monkeypatch.setattr(Slot, "fence_copy", lambda slot, copy_stream: None)
    assert not run(device, slots, slow_decode=True)


@slots_in_turn
def test_without_copied_the_sink_reads_a_torn_buffer(device, slots, slow_copies, monkeypatch):
    monkeypatch.setattr(Slot, "wait_copied", lambda slot: None)
    monkeypatch.setattr(Slot, "copy_ms", 0.0)  # no time can be read off an event that has not happened
    assert not run(device, slots)


@slots_in_turn
def test_without_release_the_next_chunk_lands_on_frames_not_written_yet(device, slots, monkeypatch):
    turn = iter(range(10**6))
    monkeypatch.setattr(Ring, "try_acquire", lambda ring: ring._slots[next(turn) % slots] if ring._slots else None)
    monkeypatch.setattr(Slot, "copy_ms", 0.0)  # its events may have been recorded anew
    assert not run(device, slots, slow_sink=True)


def test_launching_does_not_wait_for_the_gpu(device):
    """The decoder thread may run ahead by the whole ring: nothing in `submit` waits for kernels or copies."""
    source = clip(4, 64, 96, device)
    sink = ListSink()
    gpu_was_done_when_submitted = []

    def decode(submit):
        submit(source[:, :2])  # the first chunk may wait for one-time set-up
        torch.cuda.synchronize(device)
        torch.cuda._sleep(50 * SLEEP_CYCLES)
        done = torch.cuda.Event()
        done.record()
        submit(source[:, 2:])
        gpu_was_done_when_submitted.append(done.query())

    engine.run(decode, VideoSpec(4, 64, 96, device), [sink], slots=3, frames_per_slot=2)
    assert gpu_was_done_when_submitted == [False]
    assert torch.equal(sink.frames, as_image(source))
