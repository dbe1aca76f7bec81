"""The newest workflow templates on the package index: those that a ComfyUI of today comes with."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent.parent / ".host" / "newest-templates"


def newest_templates() -> Path:
    """A folder with their package in it. Downloaded once (4 MB); remove FOLDER to get newer ones."""
    if not FOLDER.is_dir():
        part = FOLDER.with_name(FOLDER.name + ".part")  # so that an interrupted download is not taken for a whole one
        shutil.rmtree(part, ignore_errors=True)
        package = "comfyui-workflow-templates-json"
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", part, package]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert done.returncode == 0, f"cannot download the newest templates:\n{done.stdout}{done.stderr}"
        [wheel] = part.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(part)
        wheel.unlink()
        part.rename(FOLDER)
    return FOLDER
