"""How long a worker says that a decode will take."""

import types

import pytest

from ...farm import worker


@pytest.fixture
def clock(monkeypatch):
    """Of the worker: `now` is set by hand."""
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(worker, "time", types.SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_by_the_pace_since_the_first_step(clock):
    attempt = worker.Attempt(None, None)
    assert attempt.seconds_left is None
    clock.now = 30.0  # kernels were compiled
    attempt.progress(1, 33)
    assert attempt.seconds_left is None, "one step is no pace"
    for step in range(1, 5):
        clock.now += 2.0
        attempt.progress(1 + 4 * step, 33)
    assert attempt.seconds_left == 8.0, "16 frames at two a second"
    clock.now += 1.5
    assert attempt.seconds_left == 6.5, "it counts down within a step"
    clock.now += 60
    assert attempt.seconds_left == 0
