"""VAEs that are on this machine already, found by their SHA-256 in folders of models."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

from .blobs import sha256_of
from .settings import write_private


class Models:
    """Finds a VAE by its hash; each file is hashed once, and again when it changed.

    Args:
        folders: with .safetensors files, at any depth.
        index: a file that remembers the hashes.
    """

    def __init__(self, folders: Sequence[Path], index: Path):
        self._folders, self._index = folders, index
        self._known: dict[str, list] = {}
        with contextlib.suppress(OSError, ValueError):
            self._known = json.loads(index.read_text(encoding="utf-8"))

    def __call__(self, sha256: str, size: int) -> Path | None:
        """Of that many bytes; only those are hashed."""
        for folder in self._folders:
            for path in sorted(folder.rglob("*.safetensors")):
                with contextlib.suppress(OSError):
                    if path.stat().st_size == size and self._hash(path) == sha256:
                        return path
        return None

    def _hash(self, path: Path) -> str:
        status = path.stat()
        stamp, known = [status.st_size, status.st_mtime_ns], self._known.get(str(path), [])
        if known[:2] != stamp:
            self._known[str(path)] = known = [*stamp, sha256_of(path)]
            with contextlib.suppress(OSError):
                write_private(self._index, json.dumps(self._known))
        return known[2]
