"""python -m farm, in the folder of this repository, whatever that folder is called."""

import importlib
import importlib.util
import sys
from pathlib import Path

PACKAGE = "async_frame_pipeline"


def as_one_package() -> None:
    """Load the repository as one package, so that `farm` reaches `pipeline` as it does inside ComfyUI."""
    root = Path(__file__).resolve().parent.parent
    if PACKAGE not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            PACKAGE, root / "__init__.py", submodule_search_locations=[str(root)]
        )
        sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[PACKAGE])


if __name__ == "__main__":
    as_one_package()
    sys.exit(importlib.import_module(f"{PACKAGE}.farm.commands").main())
