"""VAEs that are on this machine already, by their SHA-256: those that came before, and those in folders of models."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from .blobs import sha256_of
from .settings import write_private

# Of VAEs that came over the network; a large one has 2 GB.
MOST_KEPT_BYTES = 20 * 10**9


class Models:
    """Finds a VAE by its hash. Files in folders of models are hashed once, and again when they changed; what is kept
    here is hashed each time, since nobody would notice otherwise.

    Args:
        folders: with .safetensors files, at any depth.
        home: where hashes are remembered and VAEs kept, those used last; shared by this machine's workers.
    """

    def __init__(self, folders: Sequence[Path], home: Path, most_kept_bytes: int = MOST_KEPT_BYTES):
        self._folders, self._index, self._kept = folders, home / "models.json", home / "vaes"
        self._most_kept_bytes = most_kept_bytes
        self._known: dict[str, list] = {}
        with contextlib.suppress(OSError, ValueError):
            self._known = json.loads(self._index.read_text(encoding="utf-8"))

    def __call__(self, sha256: str, size: int) -> Path | None:
        """Of that many bytes; only those are hashed."""
        path = self._kept / sha256
        with contextlib.suppress(OSError):
            if path.stat().st_size == size and sha256_of(path) == sha256:
                os.utime(path)
                return path
            path.unlink()
        return self._in_folders(sha256, size)

    def keep(self, sha256: str, path: Path) -> Path:
        """Move a file that holds what it should here, and give its place; where that cannot be, it stays."""
        try:
            self._kept.mkdir(parents=True, exist_ok=True, mode=0o700)
            target = self._kept / sha256
            try:
                os.replace(path, target)
            except OSError:  # on another disk
                part = self._kept / f".{sha256}.{os.getpid()}.part"
                shutil.copyfile(path, part)
                os.replace(part, target)
            with contextlib.suppress(OSError):  # others make room, too
                self._make_room(target)
            return target
        except OSError:
            return path

    def _make_room(self, but: Path) -> None:
        """Delete those that were not used for longest."""
        kept = [(path.stat().st_mtime, path.stat().st_size, path) for path in self._kept.iterdir()]
        too_many = sum(size for _, size, _ in kept) - self._most_kept_bytes
        for _, size, path in sorted(kept):
            if too_many > 0 and path != but:
                with contextlib.suppress(OSError):  # Windows deletes nothing that another worker has mapped
                    path.unlink(missing_ok=True)
                    too_many -= size

    def _in_folders(self, sha256: str, size: int) -> Path | None:
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
