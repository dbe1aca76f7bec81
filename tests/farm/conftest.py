"""Tests of the farm: a real nats-server, worker processes, and short leases."""

import asyncio
import functools
import subprocess

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
