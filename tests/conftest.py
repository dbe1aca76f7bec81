"""Loads the repository as one package, under a name of its own.

ComfyUI imports the pack by its folder, whose name is no module name. Loading it once under a fixed
name gives tests and nodes one copy of each module, and keeps our `nodes` from shadowing ComfyUI's.
"""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

# Before torch starts its threads: they spin while they wait, and with one per core any second busy process
# makes the tiny decodes of these tests many times slower.
os.environ.setdefault("OMP_NUM_THREADS", "2")

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "async_frame_pipeline"

if PACKAGE not in sys.modules:
    spec = importlib.util.spec_from_file_location(
        PACKAGE, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = module
    spec.loader.exec_module(module)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A real ComfyUI with this pack in it as its users have it. tests/server has one of its own, with test nodes."""
    sys.path.append(str(ROOT / "scripts"))
    from host import Server

    with Server(base=tmp_path_factory.mktemp("plain")) as server:
        yield server
