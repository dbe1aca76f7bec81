"""Every lane, at its first, middle and last chunk, with every fault it can meet:
what comes out, and that nothing is left.

The server's side of it, with a message, a file to resume from and the next prompt, is in tests/server/test_faults.py;
what is left in a folder by real files, in test_video_file.py.
"""

import threading
import time

import pytest
import torch
from async_frame_pipeline.pipeline import engine
from async_frame_pipeline.pipeline.ring import Slot

from .streams import ListSink, as_image, clip
from .test_engine import Cancelled, lane_threads, spec_of

CHUNKS = 6
FRAMES = clip(CHUNKS)
# Each of them is met once for each chunk; the others by one of the sinks, or by a spectator.
SLOT_METHODS = {"convert": "fill", "copy": "start_copy", "wait": "wait_copied"}
MOMENTS = {"first": 1, "middle": CHUNKS // 2, "last": CHUNKS}
ONCE = {"once": 1}
LANES = {
    "open": ONCE,
    "decode": MOMENTS,
    "convert": MOMENTS,
    "copy": MOMENTS,
    "wait": MOMENTS,
    "write": MOMENTS,
    "finish": ONCE,
    "publish": ONCE,
    "abort": ONCE,
    "spectator open": ONCE,
    "spectator write": MOMENTS,
    "spectator finish": ONCE,
    "spectator publish": ONCE,
    "spectator abort": ONCE,
}
ERRORS = {
    "exception": RuntimeError("injected by the test"),
    "out of memory": torch.OutOfMemoryError("injected by the test"),
    "cancel": Cancelled(),
}
CELLS = [
    pytest.param(lane, at, fault, id=f"{lane}-{moment}-{fault}")
    for lane, moments in LANES.items()
    for moment, at in moments.items()
    for fault in [*ERRORS, "slow"]
]


class Fault:
    """Met `at` the n-th call."""

    def __init__(self, fault: str, at: int):
        self.cancelled = threading.Event()
        self._fault, self._at, self._calls = fault, at, 0

    def meet(self) -> None:
        self._calls += 1
        if self._calls != self._at:
            return
        if self._fault == "slow":
            time.sleep(0.05)
        elif self._fault == "cancel":
            self.cancelled.set()
        else:
            raise ERRORS[self._fault]

    def check(self) -> None:
        if self.cancelled.is_set():
            raise ERRORS["cancel"]


class FaultySink(ListSink):
    """Meets the fault when it is called by this name."""

    def __init__(self, fault: Fault, lane: str):
        super().__init__()
        self._fault, self._lane = fault, lane

    def _called(self, name: str) -> None:
        super()._called(name)
        if name == self._lane:
            self._fault.meet()


@pytest.fixture
def slots(monkeypatch) -> list[Slot]:
    """All slots that are made."""
    made, real = [], Slot.__init__
    monkeypatch.setattr(Slot, "__init__", lambda slot, *args: made.append(slot) or real(slot, *args))
    return made


def outcome(lane: str, fault: str):
    """The error that comes out of a cell, and the decoder's own where that is its cause; None for a complete run."""
    if lane.endswith("abort"):
        return FIRST, None  # which is the error there was before
    if fault == "slow" or (fault == "cancel" and lane.endswith("publish")):
        return None, None  # what is being published can be cancelled no more
    if lane == "decode" and fault != "cancel":
        return engine.DecodeError, ERRORS[fault]
    if lane.startswith("spectator") and fault != "cancel":
        return None, None
    return ERRORS[fault], None


FIRST = OSError("what made the run fail")


@pytest.mark.parametrize("lane, at, fault", CELLS)
def test_cell(monkeypatch, slots, lane, at, fault):
    armed = Fault(fault, at)
    if lane in SLOT_METHODS:
        real = getattr(Slot, SLOT_METHODS[lane])
        monkeypatch.setattr(Slot, SLOT_METHODS[lane], lambda *args: armed.meet() or real(*args))
    sinks = [ListSink(), FaultySink(armed, lane), ListSink()]
    spectator = FaultySink(armed, lane.removeprefix("spectator ") if lane.startswith("spectator") else "")
    watched = [ListSink(), spectator, ListSink()]

    def decode(submit):
        for i in range(CHUNKS):
            if lane == "decode":
                armed.meet()
            submit(FRAMES[:, i : i + 1])

    def finish():
        raise FIRST

    if lane.endswith("abort"):
        sinks[2].finish = finish
    error, cause = outcome(lane, fault)
    try:
        report = engine.run(decode, spec_of(FRAMES), sinks, spectators=watched, slots=3, check=armed.check)
    except BaseException as raised:
        assert raised is error or type(raised) is error
        assert raised.__cause__ is cause
        opened = [sink for sink in [*sinks, *watched] if "open" in sink.calls]
        assert [sink.calls[-1] for sink in opened] == ["abort"] * len(opened)
        fails_to_open = lane == "open" and fault != "cancel"
        assert len(opened) == (2 if fails_to_open else 6), "those after one that cannot be opened are let be"
        published = [sink for sink in [*sinks, *watched] if "publish" in sink.calls]
        assert published == (sinks[:2] if lane == "publish" else []), "the failing one, and the user's before it"
    else:
        assert error is None and report.frames == CHUNKS
        dropped = lane.startswith("spectator") and fault in ("exception", "out of memory")
        for sink in [*sinks, *watched]:
            if sink is spectator and dropped:
                assert sink.calls[-1] == "abort"
            else:
                assert torch.equal(sink.frames, as_image(FRAMES)) and sink.calls[-1] == "publish"
    assert all(sink.calls.count("abort") <= 1 for sink in [*sinks, *watched])
    assert lane_threads() == [] and engine._under_way == engine._stuck == set()
    assert len(slots) == 3 and not any(slot.host or slot.device for slot in slots)
