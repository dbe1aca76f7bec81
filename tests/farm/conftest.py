"""Tests of the farm: a real nats-server, worker processes, and short leases."""

import asyncio
import functools

import pytest

from .ground import PATIENCE_SECONDS, Ground


@pytest.fixture
def make_ground(tmp_path):
    """A Ground with settings of one's own."""
    made = []

    def make(**arguments):
        folder = tmp_path / f"ground{len(made)}"
        folder.mkdir()
        made.append(Ground(folder, **arguments))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def ground(make_ground):
    return make_ground()


def in_a_loop(test):
    """Run a coroutine function as a test, for so long at most."""

    @functools.wraps(test)
    def run(*args, **kwargs):
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 2 * PATIENCE_SECONDS))

    return run
