"""Files while they are written: under another name, never over somebody else's, gone or kept if they fail.

A final name stands for a whole file from its first moment: it comes by a hard link or a rename that both refuse a name
that is taken. Only where the disk has neither (FAT, some network shares) an empty file holds it for an instant.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
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
# What any disk takes of a name: eCryptfs this much, all others 255 (Windows counts UTF-16 units, which are fewer).
NAME_BYTES = 143
# More than what a `Numbered` adds to a name: its number and extension.
NUMBER_BYTES = 20


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
    Attributes:
        path: where to write; None before `create`, and once it is published, kept or discarded.
        final: its name when it is finished.
        kept: what failed runs left here, and no later one made whole.
    """

    def __init__(self, target: Numbered | str | os.PathLike[str], keep: bool = False):
        self.target = target if isinstance(target, Numbered) else Path(target)
        self._keep = keep
        self.path: Path | None = None
        self.final: Path | None = None
        self.kept: list[Path] = []
        self._beside: dict[str, Path] = {}  # by their extensions, where they are until all is published
        self._published: list[Path] = []

    @property
    def name(self) -> str:
        """The file as users know it."""
        return str(self.final)

    def create(self) -> Path:
        """Claim a name and make an empty file, or folder, to write to.

        Raises:
            OSError: it cannot be made; names it and says why.
        """
        self._beside, self._published = {}, []
        for final in self._candidates():
            self.final, path = final, self._unfinished_name(final)
            try:
                _check_length(final)
                if self._is_folder:
                    os.mkdir(path)
                else:
                    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
                self.path = path  # from here on it is ours to remove
                if not self._is_folder:
                    _check_room(path)
                return path
            except FileExistsError:
                continue
            except OSError as error:
                self.discard()
                raise OSError(error.errno, f"cannot write {final}: {error.strerror}") from error
        # Only for a name that is given: numbers never end.
        raise FileExistsError(errno.EEXIST, f"cannot write {final}: there is already {path}")

    def adopt(self, path: Path) -> None:
        """Take a file that is written already, on the same disk, in the place of one that `create` makes. It claims no
        name: it has the next one that is free when it is published.
        """
        self._beside, self._published = {}, []
        self.path, self.final = path, next(self._candidates())

    def write_beside(self, extension: str, data: bytes) -> None:
        """Write a file that gets its name, the finished one's with this extension, at the same time.

        Raises:
            OSError: it cannot be written; names it and says why.
        """
        assert self.final is not None and self.path is not None, "create it first"
        beside = self._beside_of(self.final, extension)
        if not isinstance(self.target, Numbered) and os.path.lexists(beside):
            raise FileExistsError(errno.EEXIST, f"cannot write {beside}: there is one already")
        path = self.path.with_name(fitting(".", beside.name, f".{uuid.uuid4().hex[:8]}.part"))
        try:
            with open(path, "xb") as file:
                file.write(data)
        except OSError as error:
            _remove(path)
            raise OSError(error.errno, f"cannot write {beside}: {error.strerror}") from error
        except BaseException:
            _remove(path)
            raise
        self._beside[extension] = path

    def publish(self) -> Path:
        """Give the finished file its name, which it returns, and first what stands beside it, as far as that can be.

        Raises:
            OSError: the file cannot have its name; says which. Nothing then has one.
        """
        # The claimed name first: it is free unless somebody who knows nothing of claims took it meanwhile.
        assert self.final is not None and self.path is not None, "create it first"
        for final in itertools.chain([self.final], self._candidates()):
            self.final = final
            try:
                self._take_all(self.path, final)
                break
            except OSError as error:
                if isinstance(error, FileExistsError) and isinstance(self.target, Numbered):
                    continue
                raise OSError(error.errno, f"cannot write {final}: {error.strerror}") from error
        self.path = None
        self.discard()  # what could not be put beside it
        self.discard_kept()
        return self.final

    def give_up(self, any_frames: bool) -> None:
        """The run failed: keep what there is, if that was asked for and there is something, else remove it.

        A file that was published before the run failed is taken back, or kept; one that replaced another stays, since
        there is nothing to go back to. Does not raise.
        """
        if self._keep and any_frames:
            left = [path for path in (self.path, *self._published) if path is not None and _has_something(path)]
            for path in left:
                logging.warning("async-frame-pipeline: the unfinished video is kept in %s", path)
            self.kept += left
            self.path = None if self.path in left else self.path
        elif isinstance(self.target, Numbered):
            for path in self._published:
                _remove(path)
        self._published = []
        self.discard()

    def discard_kept(self) -> None:
        """A later run made the whole: remove what earlier ones left; does not raise."""
        for path in self.kept:
            _remove(path)
        self.kept = []

    def discard(self) -> None:
        """Remove what was written; does not raise."""
        for path in (self.path, *self._beside.values()):
            if path is not None:
                _remove(path)
        self.path, self._beside = None, {}

    @property
    def _is_folder(self) -> bool:
        return isinstance(self.target, Numbered) and not self.target.extension

    def _candidates(self) -> Iterator[Path]:
        if not isinstance(self.target, Numbered):
            yield self.target
            return
        for number in itertools.count(self.target.first):
            path = self.target.path(number)
            names = [path, *(self._beside_of(path, extension) for extension in self.target.beside)]
            if not any(os.path.lexists(name) for name in names):
                yield path

    def _unfinished_name(self, final: Path) -> Path:
        """Of a numbered name the same for everybody, whatever the system: it is a claim."""
        if self._keep:
            stem, suffix = (final.name, "") if self._is_folder else (final.stem, final.suffix)
            return final.with_name(fitting("", stem, f".unfinished{suffix}"))
        # A file that is replaced may be written by two at once: the last one wins.
        own = "" if isinstance(self.target, Numbered) else f".{uuid.uuid4().hex[:8]}"
        return final.with_name(fitting(".", final.name, f"{own}.part"))

    def _beside_of(self, final: Path, extension: str) -> Path:
        # What follows a dot in a folder's name is no extension.
        return final.with_name(f"{final.name if self._is_folder else final.stem}.{extension}")

    def _take_all(self, finished: Path, final: Path) -> None:
        """Move everything to its final name, or nothing: FileExistsError if one of them is taken."""
        take = _take if isinstance(self.target, Numbered) else os.replace
        done: list[tuple[Path, Path]] = []
        try:
            for extension, path in self._beside.items():
                name = self._beside_of(final, extension)
                try:
                    take(path, name)
                    done.append((path, name))
                except FileExistsError:
                    raise
                except OSError as error:
                    logging.warning("async-frame-pipeline: %s is left out: %s", name, error)
            # The file itself last: once it has its name, nothing can fail any more.
            take(finished, final)
            done.append((finished, final))
        except BaseException:
            for path, name in done:
                with contextlib.suppress(OSError):
                    os.replace(name, path)
            raise
        self._published = [name for _, name in done]


class InMemory:
    """In place of an `Unfinished`: a buffer, which holds the whole file or nothing."""

    name = "the video"

    def __init__(self, buffer: io.BytesIO):
        self._buffer = buffer
        self.kept: list[Path] = []

    def create(self) -> io.BytesIO:
        self.discard()
        return self._buffer

    def give_up(self, any_frames: bool) -> None:
        with contextlib.suppress(ValueError):  # somebody closed it
            self.discard()

    def discard(self) -> None:
        self._buffer.seek(0)
        self._buffer.truncate()


def fitting(before: str, name: str, after: str, at_most_bytes: int = NAME_BYTES) -> str:
    """The three joined; where that is too long for a disk, with the name's start alone and what tells it from others.

    So whatever the user's name is, ours beside it fits.
    """
    whole = f"{before}{name}{after}"
    if len(os.fsencode(whole)) <= at_most_bytes:
        return whole
    mark = f"~{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"
    room = at_most_bytes - len(os.fsencode(f"{before}{mark}{after}"))
    return f"{before}{os.fsencode(name)[: max(0, room)].decode('utf-8', 'ignore')}{mark}{after}"


def _check_length(final: Path) -> None:
    """Find out before anything is written whether the disk takes a name, since ours in its place is shorter.

    Raises:
        OSError: it is too long.
    """
    try:
        os.lstat(final)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise
    if os.name == "nt" and len(final.name.encode("utf-16-le", "surrogatepass")) > 2 * 255:  # there it is "not found"
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))


def _take(path: Path, final: Path) -> None:
    """Move a file or folder to `final`, or raise FileExistsError if there is one already."""
    if path.is_dir():
        try:
            os.rename(path, final)  # onto an empty folder at most
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise FileExistsError(error.errno, error.strerror, str(final)) from error
            raise
    elif os.name == "nt":
        os.rename(path, final)  # refuses a name that is taken
    else:
        try:
            os.link(path, final)
        except (FileExistsError, FileNotFoundError):
            raise
        except OSError:  # a disk without hard links; if it is something else, the other way fails as well
            _take_by_claim(path, final)
        else:
            _remove(path)


def _take_by_claim(path: Path, final: Path) -> None:
    """As `_take`, on a disk without hard links: claim the name with an empty file, and replace that."""
    os.close(os.open(final, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        os.replace(path, final)
    except BaseException:
        _remove(final)
        raise


def _has_something(path: Path) -> bool:
    """Whether there is anything in a file or folder; does not raise where it is gone."""
    try:
        return any(path.iterdir()) if path.is_dir() else path.stat().st_size > 0
    except OSError:
        return False


def _remove(path: Path) -> None:
    """Remove a file, or a folder and all in it; does not raise."""
    if os.path.isdir(path):  # Path.is_dir raises where a share has gone
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
