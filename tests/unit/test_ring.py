"""Page-locked memory is given back whatever happens; without a GPU, the slots are stand-ins."""

from types import SimpleNamespace

import pytest
import torch
from async_frame_pipeline.pipeline import ring
from async_frame_pipeline.pipeline.ring import Ring


@pytest.fixture
def spec(monkeypatch):
    """Of a GPU, for slots with two buffers each."""

    def slot(spec, formats, capacity):
        return SimpleNamespace(host={each: torch.zeros(1) for each in formats}, device={}, was_pinned=False)

    monkeypatch.setattr(ring, "Slot", slot)
    return SimpleNamespace(device=torch.device("cuda"))


def all_acquired(ring):
    ring.acquire(lambda: None)
    ring.acquire(lambda: None)


@pytest.mark.parametrize("refused", [1, 2, 3, 4])
def test_memory_pinned_before_pinning_fails_is_unpinned(spec, refused):
    pinned, calls = [], 0

    def pin(host):
        nonlocal calls
        calls += 1
        if calls == refused:
            raise MemoryError("no more page-locked memory")
        pinned.append(host)
        return True

    def unpin(host):
        [at] = [i for i, each in enumerate(pinned) if each is host]
        pinned.pop(at)

    ring = Ring(spec, ["one", "other"], 2, 1, pin, unpin)
    with pytest.raises(MemoryError):
        all_acquired(ring)
    ring.close()
    assert pinned == []


def test_a_slot_is_pinned_once_and_when_it_is_acquired(spec):
    pinned = []
    ring = Ring(spec, ["one", "other"], 2, 1, lambda host: not pinned.append(host), lambda host: None)
    assert pinned == []
    for count in (2, 4, 4):
        slot = ring.try_acquire()
        assert len(pinned) == count
        ring.release(slot)
    ring.close()


def test_what_could_not_be_pinned_is_not_unpinned(spec):
    unpinned, turn = [], iter([True, False, False, True])
    rings = Ring(spec, ["one", "other"], 2, 1, lambda host: next(turn), unpinned.append)
    all_acquired(rings)
    assert unpinned == []
    rings.close()
    assert len(unpinned) == 2


def test_memory_that_cannot_be_unpinned_keeps_no_other_pinned(spec, caplog):
    unpinned = []

    def unpin(host):
        unpinned.append(host)
        if len(unpinned) == 2:
            raise RuntimeError("CUDA error")

    ring = Ring(spec, ["one", "other"], 2, 1, lambda host: True, unpin)
    all_acquired(ring)
    ring.close()
    assert len(unpinned) == 4 and caplog.messages == ["async-frame-pipeline: memory could not be unpinned: CUDA error"]
