"""Tests of the farm: a real nats-server, worker processes, and short leases."""

import asyncio
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from .ground import PATIENCE_SECONDS, Ground

# In main memory where there is room: the server waits for the disk at each change, which a kill does not need.
MEMORY = Path("/dev/shm")
ROOM = 2 << 30


@pytest.fixture
def make_ground(tmp_path):
    """A Ground with settings of one's own."""
    in_memory = MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ROOM
    root = Path(tempfile.mkdtemp(prefix="farm-", dir=MEMORY if in_memory else tmp_path))
    made = []

    def make(**arguments):
        folder = root / f"ground{len(made)}"
        folder.mkdir()
        made.append(Ground(folder, **arguments))
        return made[-1]

    yield make
    try:
        for each in made:
            each.close()
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def ground(make_ground):
    return make_ground()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """Self-made, for the loopback."""
    folder = tmp_path_factory.mktemp("tls")
    made = ["-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=farm", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run([*command, "-days", "1", *made], cwd=folder, check=True, capture_output=True)
    return folder


def in_a_loop(test):
    """Run a coroutine function as a test, for so long at most."""

    @functools.wraps(test)
    def run(*args, **kwargs):
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 2 * PATIENCE_SECONDS))

    return run
