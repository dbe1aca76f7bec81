"""What users run who update more often than the pinned ComfyUI does: packages of its, the newest on the index."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

HOST = Path(__file__).resolve().parent.parent / ".host"


def unpacked(package: str, name: str) -> Path:
    """A folder with the newest wheel of a package in it. Downloaded once; remove .host/<name> to get a newer one."""
    folder = HOST / name
    if not folder.is_dir():
        part = folder.with_name(folder.name + ".part")  # so that an interrupted download is not taken for a whole one
        shutil.rmtree(part, ignore_errors=True)
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", part, package]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert done.returncode == 0, f"cannot download the newest {package}:\n{done.stdout}{done.stderr}"
        [wheel] = part.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(part)
        wheel.unlink()
        part.rename(folder)
    return folder
