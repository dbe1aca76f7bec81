"""The examples of docs/engine.md, word for word, as somebody runs them who has no ComfyUI."""

import os
import re
import subprocess
import sys
from pathlib import Path

import av
import numpy as np

from ..conftest import ROOT

DOCUMENT = (ROOT / "docs" / "engine.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
# Nothing of ComfyUI can be imported.
BANNED = "import sys; sys.modules.update(dict.fromkeys(['comfy', 'comfy_api', 'folder_paths', 'nodes', 'server']))\n"


def run(example: str, folder: Path, *, frames: int, width: int, height: int) -> list[np.ndarray]:
    """The pictures, 8-bit RGB, of the one file that it leaves in `folder`."""
    (folder / "example.py").write_text(BANNED + example, encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=folder, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{frames} frames in "), "it prints the report"
    [path] = set(folder.iterdir()) - {folder / "example.py"}
    with av.open(str(path)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert {picture.shape for picture in pictures} == {(height, width, 3)} and len(pictures) == frames
    return pictures


def test_the_document_has_these_examples_and_no_longer_ones():
    assert len(EXAMPLES) == 2
    assert all(sum(line != "" for line in example.splitlines()) <= 20 for example in EXAMPLES)


def test_any_decoder_into_a_file(tmp_path):
    pictures = run(EXAMPLES[0], tmp_path, frames=24, width=160, height=120)
    red, green, blue = pictures[0][60, 120].astype(int)
    assert abs(green - 0.75 * 255) < 12 and abs(blue - 0.25 * 255) < 12
    # Red moves on by half of the picture in 12 frames.
    assert abs(red - green) < 12 and abs(int(pictures[12][60, 120, 0]) - 0.25 * 255) < 12


def test_the_fast_decoder(tmp_path):
    pictures = run(EXAMPLES[1], tmp_path, frames=5, width=480, height=272)
    assert pictures[0].std() > 30, "a picture, not a grey surface"
