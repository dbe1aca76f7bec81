"""A server whose models folder holds a small random stand-in for every model the bundled workflows name."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
REPO = HERE.parent.parent
sys.path += [str(REPO / "scripts"), str(HERE)]

import compare  # noqa: E402, F401
import host  # noqa: E402

# Nodes that compare and hand out frames inside the server.
PROBES = REPO / "tests" / "server" / "pack"
# Makes text encoders and VAEs small of which ComfyUI has one size.
SMALL = HERE / "small"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[host.Server]:
    base = tmp_path_factory.mktemp("workflows")
    comfyui = host.prepare()
    subprocess.run([comfyui.python, HERE / "stand_ins.py", comfyui.root, base / "models"], check=True, cwd=base)
    # The picture that comes with ComfyUI, and that Load Image shows in a new installation.
    (base / "input").mkdir()
    shutil.copy(comfyui.root / "input" / "example.png", base / "input")
    with host.Server(base=base, host=comfyui, packs=[PROBES, SMALL]) as server:
        yield server
    shutil.rmtree(base / "models")  # 1.7 GB
