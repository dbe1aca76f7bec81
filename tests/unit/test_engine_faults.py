"""Every lane, at its first, middle and last chunk, with every fault it can meet: what comes out, and that nothing is left.

The server's side of it, with a message, a file to resume from and the next prompt, is in tests/server/test_faults.py.
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
# Each of them is met once for each chunk; the others by one of the sinks.
SLOT_METHODS = {"convert": "fill", "copy": "start_copy", "wait": "wait_copied"}
MOMENTS = {"first": 1, "middle": CHUNKS // 2, "last": CHUNKS}
LANES = {
    "open": {"open": 1}, "decode": MOMENTS, "convert": MOMENTS, "copy": MOMENTS, "wait": MOMENTS, "write": MOMENTS,
    "close": {"close": 1},
}  # fmt: skip
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
    if (lane, fault) != ("open", "cancel")  # nobody looks for a cancel before there is a chunk
]


class Fault:
    """Met `at` the n-th call."""

    def __init__(self, fault: str, at: int):
        self.cancelled, self.noticed = threading.Event(), threading.Event()
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
            self.noticed.set()
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
        if name == "close" and self._fault.cancelled.is_set():
            # As an encoder that has much left to write: a cancel comes before the file is complete.
            assert self._fault.noticed.wait(60)


@pytest.fixture
def slots(monkeypatch) -> list[Slot]:
    """All slots that are made."""
    made, real = [], Slot.__init__
    monkeypatch.setattr(Slot, "__init__", lambda slot, *args: made.append(slot) or real(slot, *args))
    return made


@pytest.mark.parametrize("lane, at, fault", CELLS)
def test_cell(monkeypatch, slots, lane, at, fault):
    armed = Fault(fault, at)
    if lane in SLOT_METHODS:
        real = getattr(Slot, SLOT_METHODS[lane])
        monkeypatch.setattr(Slot, SLOT_METHODS[lane], lambda *args: armed.meet() or real(*args))
    sinks = [ListSink(), FaultySink(armed, lane), ListSink()]

    def decode(submit):
        for i in range(CHUNKS):
            if lane == "decode":
                armed.meet()
            submit(FRAMES[:, i : i + 1])

    def run():
        return engine.run(decode, spec_of(FRAMES), sinks, slots=3, check=armed.check)

    if fault == "slow":
        assert run().frames == CHUNKS
        assert all(torch.equal(sink.frames, as_image(FRAMES)) and sink.calls[-1] == "close" for sink in sinks)
    else:
        with pytest.raises(type(ERRORS[fault])) as caught:
            run()
        assert caught.value is ERRORS[fault]
        assert [sink.calls[-1] for sink in sinks] == ["abort"] * 3
    assert lane_threads() == [] and engine._under_way == set()
    assert len(slots) == 3 and not any(slot.host or slot.device for slot in slots)
