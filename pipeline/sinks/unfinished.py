"""Files while they are written: under another name, never over somebody else's, gone or kept if they fail."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


# More than FFmpeg writes to a file before it takes the first frame.
ROOM_BYTES = 16384


@dataclass(frozen=True, slots=True)
class Numbered:
    """The next free name of a series: folder/name_00001_.mp4, folder/name_00002_.mp4 and so on.

    Args:
        folder: must exist.
        name: start of the file name.
        first: the first number to try.
        extension: without dot; "" names a folder.
        beside: extensions of files that will stand beside it, whose names must be free too.
    """

    folder: Path
    name: str
    first: int
    extension: str
    beside: tuple[str, ...] = ()

    def path(self, number: int) -> Path:
        stem = f"{self.name}_{number:05}_"
        return Path(self.folder) / (f"{stem}.{self.extension}" if self.extension else stem)


class Unfinished:
    """One file, or folder, from its first byte to its name.

    A numbered name is claimed by creating the unfinished file exclusively, so that two writers in one folder,
    in one process or on two machines, never write the same; and the finished file takes its name only where
    there is no file yet, else the next number.

    Args:
        target: a Numbered, or a path that is replaced if it exists.
        keep: while it is written it has a name for users to see, "name.unfinished.mp4", and stays if it is not
            finished; else a hidden one.
    """

    def __init__(self, target: Numbered | str | os.PathLike, keep: bool = False):
        self.target = target if isinstance(target, Numbered) else Path(target)
        self._keep = keep
        self.path: Path | None = None  # where to write
        self.kept: list[Path] = []  # what failed runs left here, and no later one made whole
        self.final: Path | None = None

    def create(self) -> Path:
        """Claim a name and make an empty file, or folder, to write to.

        Raises:
            OSError: it cannot be made; names it and says why.
        """
        for self.final in self._candidates():
            self.path = self._unfinished_name(self.final)
            try:
                if self._is_folder:
                    os.mkdir(self.path)
                else:
                    os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
                    _check_room(self.path)
                return self.path
            except FileExistsError:
                continue
            except OSError as error:
                self.discard()
                raise OSError(error.errno, f"cannot write {self.final}: {error.strerror}") from error

    def publish(self) -> Path:
        """Give the finished file its name, which it returns."""
        if isinstance(self.target, Numbered):
            # The claimed name first: it is free unless somebody who knows nothing of claims took it meanwhile.
            for self.final in itertools.chain([self.final], self._candidates()):
                with contextlib.suppress(FileExistsError):
                    self._take(self.final)
                    break
        else:
            os.replace(self.path, self.final)
        self.path = None
        self.discard_kept()
        return self.final

    def give_up(self, any_frames: bool) -> None:
        """The run failed: keep what there is, if that was asked for and there is something, else remove it."""
        if self.path is not None and self._keep and any_frames and self._has_something:
            logging.warning("async-frame-pipeline: the unfinished video is kept in %s", self.path)
            self.kept.append(self.path)
            self.path = None
        self.discard()

    def discard_kept(self) -> None:
        """A later run made the whole: remove what earlier ones left; does not raise."""
        for path in self.kept:
            _remove(path)
        self.kept = []

    def discard(self) -> None:
        """Remove what was written; does not raise."""
        if self.path is not None:
            _remove(self.path)
        self.path = None

    @property
    def _has_something(self) -> bool:
        return any(self.path.iterdir()) if self._is_folder else self.path.stat().st_size > 0

    @property
    def _is_folder(self) -> bool:
        return isinstance(self.target, Numbered) and not self.target.extension

    def _candidates(self) -> Iterator[Path]:
        if not isinstance(self.target, Numbered):
            yield self.target
            return
        for number in itertools.count(self.target.first):
            path = self.target.path(number)
            names = [path, *(path.with_suffix(f".{extension}") for extension in self.target.beside)]
            if not any(os.path.lexists(name) for name in names):
                yield path

    def _unfinished_name(self, final: Path) -> Path:
        if self._keep:
            return final.with_name(f"{final.stem}.unfinished{final.suffix}")
        # A file that is replaced may be written by two at once: the last one wins.
        own = "" if isinstance(self.target, Numbered) else f".{uuid.uuid4().hex[:8]}"
        return final.with_name(f".{final.name}{own}.part")

    def _take(self, final: Path) -> None:
        """Move to `final`, or raise FileExistsError if there is one already."""
        if self._is_folder:
            try:
                os.rename(self.path, final)  # onto an empty folder at most
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise FileExistsError(error.errno, error.strerror, str(final)) from error
                raise
            return
        os.close(os.open(final, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        os.replace(self.path, final)


def _remove(path: Path) -> None:
    """Remove a file, or a folder and all in it; does not raise."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _check_room(path: Path) -> None:
    """Find out whether a file can be written to, and leave it empty.

    Where not even the head of a file fits, PyAV 18 raises and keeps the file open for as long as the process lives.
    """
    with open(path, "r+b") as file:
        file.write(bytes(ROOM_BYTES))
    os.truncate(path, 0)
