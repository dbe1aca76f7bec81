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

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "async_frame_pipeline"

if PACKAGE not in sys.modules:
    spec = importlib.util.spec_from_file_location(
        PACKAGE, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = module
    spec.loader.exec_module(module)
