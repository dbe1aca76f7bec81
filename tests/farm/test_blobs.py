"""Files of a farm where the file system does not do as asked."""

import asyncio
import os
import threading
from pathlib import Path

import pytest

from ...farm.blobs import LATENTS, RESULTS, Folder, Scratch
from ...farm.settings import Settings
from ...farm.worker import Worker

NAME = "a" * 64


def test_a_file_that_is_still_open_stays_and_ends_nobody(tmp_path, monkeypatch):
    """As on Windows."""

    def refuse(path, missing_ok=False):
        raise PermissionError("it is used by another process")

    scratch, folder = Scratch(tmp_path), Folder(tmp_path)
    for path in (scratch.folder / f"{NAME}.latents", folder.root / RESULTS / NAME):
        path.write_bytes(b"mapped")
    monkeypatch.setattr(Path, "unlink", refuse)

    async def remove():
        await folder.delete(RESULTS, NAME)
        Worker(None, Settings(), folder, scratch, "a", lambda work: None)._clear(NAME)

    asyncio.run(remove())


@pytest.mark.parametrize("call", ["put", "get", "has", "delete", "names"])
def test_a_share_that_hangs_holds_up_nothing_else(tmp_path, monkeypatch, call):
    """Nothing is asked of the file system on the thread of the event loop."""
    folder, asking = Folder(tmp_path), set()
    (folder.root / LATENTS / NAME).write_bytes(b"latent")
    (tmp_path / "new").write_bytes(b"latent")

    def noted(ask):
        def noting(*args, **how):
            asking.add(threading.current_thread())
            return ask(*args, **how)

        return noting

    for where, name in [(Path, "stat"), (os, "utime")]:
        monkeypatch.setattr(where, name, noted(getattr(where, name)))
    given = {"put": [tmp_path / "new"], "get": [6, tmp_path / "into"], "has": [], "delete": [1e12]}
    asyncio.run(getattr(folder, call)(LATENTS, *([NAME, *given[call]] if call in given else [])))
    assert asking and threading.current_thread() not in asking
