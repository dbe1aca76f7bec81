"""Loads the repository as one package, under a name of its own.

ComfyUI imports the pack by its folder, whose name is no module name. Loading it once under a fixed
name gives tests and nodes one copy of each module, and keeps our `nodes` from shadowing ComfyUI's.
"""

import importlib.util
import os
import sys
from pathlib import Path

# Before torch starts its threads: they spin while they wait, beside encoders that want the same cores. With two threads
# for two cores the tests of the sinks took four times the CPU time of one thread, and six times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Where pytest lives when the ComfyUI is the user's own; processes that tests start get it with this file.
if packages := os.environ.get("AFP_TEST_PACKAGES"):
    sys.path.append(packages)

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "async_frame_pipeline"

if PACKAGE not in sys.modules:
    spec = importlib.util.spec_from_file_location(PACKAGE, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = module
    spec.loader.exec_module(module)


def pytest_collection_modifyitems(items):
    """Mark as `unit` what needs neither a server nor a browser;
    tests/server and tests/cuda start things in other ways too.
    """
    for item in items:
        folder = item.path.relative_to(ROOT).parts[1]
        starts_one = folder in ("server", "cuda") or {"server", "browser"} & set(item.fixturenames)
        if folder == "unit" or not starts_one:
            item.add_marker("unit")


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A real ComfyUI with this pack in it as its users have it. tests/server has one of its own, with test nodes."""
    sys.path.append(str(ROOT / "scripts"))
    from host import Server

    with Server(base=tmp_path_factory.mktemp("plain")) as server:
        yield server
