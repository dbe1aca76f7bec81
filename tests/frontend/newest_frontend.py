"""The newest frontend on the package index, which users run who update more often than the pinned ComfyUI does."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent.parent / ".host" / "newest-frontend"


def static_folder() -> Path:
    """What the server's --front-end-root wants. Downloaded once (30 MB); remove FOLDER to get a newer one."""
    static = FOLDER / "comfyui_frontend_package" / "static"
    if not static.is_dir():
        part = FOLDER.with_name(FOLDER.name + ".part")  # so that an interrupted download is not taken for a whole one
        shutil.rmtree(part, ignore_errors=True)
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", part, "comfyui-frontend-package"]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert done.returncode == 0, f"cannot download the newest frontend:\n{done.stdout}{done.stderr}"
        [wheel] = part.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(part)
        wheel.unlink()
        part.rename(FOLDER)
    return static
