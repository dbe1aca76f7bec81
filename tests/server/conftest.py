"""Real ComfyUI servers for the tests in this folder, each with this pack and the test nodes in pack/."""

import contextlib
import re
import sys
import zlib
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent / "scripts")]

import flags  # noqa: E402
import host  # noqa: E402

TEST_NODES = HERE / "pack"


# Python hides deprecations by default.
ENVIRONMENT = {"PYTHONWARNINGS": "default"}
DEPRECATED = re.compile(r"^.*async-frame-pipeline.*(?:Deprecation|Future)Warning.*$", re.MULTILINE)


@pytest.fixture(scope="session")
def start_server(tmp_path_factory):
    """Start a server of one's own: `with start_server("--argument") as server`.

    `packs`: folders of further custom nodes. Fails at the end if the server complained of anything old in our code.
    """

    @contextlib.contextmanager
    def start(*args, packs=()):
        base = tmp_path_factory.mktemp("server")
        with host.Server(*args, base=base, env=ENVIRONMENT, packs=[TEST_NODES, *packs]) as server:
            yield server
        assert DEPRECATED.findall(server.log_text()) == []

    return start


@pytest.fixture(scope="session")
def server(start_server):
    """The server that most tests share, as a user starts it."""
    with start_server() as server:
        yield server


@pytest.fixture
def seed(request):
    """A seed no other test uses, so that no result comes from ComfyUI's cache; a test's own, whichever run with it."""
    return zlib.crc32(request.node.nodeid.encode())


@pytest.fixture(scope="session")
def fp16_server(start_server):
    """A server with other defaults, each for its own tests; together, to start one instead of many."""
    with start_server(*flags.BFLOAT16) as server:
        yield server


@pytest.fixture(scope="session")
def quiet_server(start_server):
    """A server whose log stays small, for a limit on the size of all that it writes."""
    with start_server() as server:
        yield server


@pytest.fixture(scope="session")
def deterministic_server(start_server):
    with start_server("--deterministic") as server:
        yield server
