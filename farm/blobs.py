"""Where latents, VAEs, sound and finished videos are: a folder that all see, or the broker.

A blob is whole or it is not there. What is named by its SHA-256 is checked against it by who reads it.
Names are made here of digits; nothing that a client wrote becomes a path.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import nats
import nats.js.errors
import psutil

from .broker import ANSWER_SECONDS, patiently, to_seconds
from .messages import InvalidJob

LATENTS, VAES, AUDIO, RESULTS = "latents", "vaes", "audio", "results"
KINDS = (LATENTS, VAES, AUDIO, RESULTS)
_NAME = re.compile(r"[0-9a-f]{32,64}(\.[0-9]{1,19}){0,2}\Z")
_PIECE = re.compile(r"[0-9a-f]{32}\Z")
# Of one message of the broker, whose limit is 1 MB with its headers; half as many take a quarter more time.
CHUNK_BYTES = 1000 * 1024
READ_BYTES = 1 << 20
# After which a scratch folder that nobody touched is of somebody who is gone.
LEFT_SECONDS = 86400.0
# In which the next of several messages comes.
BATCH_SECONDS = 10
# The broker's numbers for: it is another one by now.
WRONG_SEQUENCE = (10071, 10164)


class Missing(InvalidJob):
    """A blob that a job needs is not there."""


class Broken(InvalidJob):
    """A blob is not what its name or its record says."""


class Blobs(Protocol):
    """A store."""

    async def put(self, kind: str, name: str | None, path: Path, copy: Path | None = None) -> str:
        """Store a file; what is there already stays.

        Args:
            name: None for its SHA-256, which is made on the way.
            path: used up, unless there is a `copy`.
            copy: where the store may write one, on its disk, in a `Scratch`; `path` itself is there otherwise.
        Returns:
            The name.
        """

    async def get(self, kind: str, name: str, size: int, into: Path) -> Path:
        """The blob of so many bytes as a file to read: `into`, or where it is.

        Raises:
            Missing: there is none.
            Broken: it is of another size; nothing was read.
        """

    async def has(self, kind: str, name: str) -> bool: ...

    async def delete(self, kind: str, name: str, stored: float | None = None) -> None:
        """Also if there is none; not if it was stored or read again after `stored`."""

    async def names(self, kind: str) -> list[tuple[str, int, float]]:
        """(name, bytes, seconds since 1970 when it was stored or last asked for)."""

    async def clear(self, kind: str, is_old: Callable[[str], bool]) -> None:
        """Delete what is no blob: pieces of those that were deleted, and of others that `is_old` says to be old."""


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while data := file.read(READ_BYTES):
            digest.update(data)
    return digest.hexdigest()


def checked(path: Path, sha256: str, size: int) -> Path:
    """`path`, if it holds what it should.

    Raises:
        Broken: it does not.
    """
    _check_size(path.stat().st_size, size)
    if (found := sha256_of(path)) != sha256:
        raise Broken(f"its SHA-256 is {found}, expected {sha256}")
    return path


class Scratch:
    """A folder of this process's own for what is unfinished.

    What processes left that are gone, goes: at once where process numbers are those of here, else, of other machines
    and containers that share the disk, once nothing of it has changed for a day.

    Args:
        parent: on the disk where finished files are to be, so that they can be moved.
    """

    def __init__(self, parent: Path):
        self._path = parent / "scratch" / f"{_place()}.{os.getpid()}"
        self.sweep()

    @property
    def folder(self) -> Path:
        """There, and in use: who was idle for a day may have been taken to be gone."""
        self._path.mkdir(parents=True, exist_ok=True)
        os.utime(self._path)
        return self._path

    def sweep(self) -> None:
        now = self.folder.stat().st_mtime  # by the clock that all the others are by
        with contextlib.suppress(OSError):
            for each in self._path.parent.iterdir():
                place, _, pid = each.name.rpartition(".")
                if place == _place() and pid.isdigit():
                    is_left = not psutil.pid_exists(int(pid))
                else:
                    is_left = now - _changed(each) > LEFT_SECONDS
                if is_left:
                    shutil.rmtree(each, ignore_errors=True)

    def remove(self) -> None:
        shutil.rmtree(self._path, ignore_errors=True)


class Folder:
    """A folder on this machine, or on a share that all machines see.

    It is asked on other threads than the event loop's: a share may hang.
    """

    def __init__(self, root: Path):
        self.root = Path(root)
        for kind in KINDS:
            (self.root / kind).mkdir(parents=True, exist_ok=True)

    async def put(self, kind: str, name: str | None, path: Path, copy: Path | None = None) -> str:
        writing = asyncio.to_thread(_written, path, copy)
        if name is None:
            name, _ = await asyncio.gather(asyncio.to_thread(sha256_of, path), writing)
        else:
            await writing
        await asyncio.to_thread(self._put, self._path(kind, name), copy or path)
        return name

    def _put(self, target: Path, path: Path) -> None:
        if target.exists():
            with contextlib.suppress(OSError):
                os.utime(target)
            path.unlink()
        else:
            os.replace(path, target)

    async def get(self, kind: str, name: str, size: int, into: Path) -> Path:
        return await asyncio.to_thread(self._get, kind, name, size)

    def _get(self, kind: str, name: str, size: int) -> Path:
        path = self._path(kind, name)
        if not path.is_file():
            raise Missing(f"there is no {name} among the {kind}")
        _check_size(path.stat().st_size, size)
        with contextlib.suppress(OSError):
            os.utime(path)
        return path

    async def has(self, kind: str, name: str) -> bool:
        return await asyncio.to_thread(self._has, self._path(kind, name))

    def _has(self, path: Path) -> bool:
        with contextlib.suppress(OSError):
            os.utime(path)  # who asks is about to need it
        return path.is_file()

    async def delete(self, kind: str, name: str, stored: float | None = None) -> None:
        await asyncio.to_thread(self._delete, self._path(kind, name), stored)

    def _delete(self, path: Path, stored: float | None) -> None:
        with contextlib.suppress(OSError):  # it is gone, or open on Windows; then it is swept later
            if stored is None or path.stat().st_mtime <= stored:
                path.unlink()

    async def names(self, kind: str) -> list[tuple[str, int, float]]:
        return await asyncio.to_thread(self._names, kind)

    def _names(self, kind: str) -> list[tuple[str, int, float]]:
        found = []
        for path in filter(lambda path: _NAME.match(path.name), (self.root / kind).iterdir()):
            with contextlib.suppress(OSError):
                found.append((path.name, path.stat().st_size, path.stat().st_mtime))
        return found

    async def clear(self, kind: str, is_old: Callable[[str], bool]) -> None:
        pass  # what is unfinished is in a `Scratch`

    def _path(self, kind: str, name: str) -> Path:
        return self.root / kind / _checked_name(kind, name)


class Objects:
    """The broker's own store, as the standard clients of NATS lay it out: chunks, then an entry that names them.

    Read by direct gets, for which nobody needs the right to make consumers, many chunks at a time; nats-py's `get` took
    4.2 s for 200 MB, and 330 s in memory (nats.py#703). Deleted by an entry that says so, which whoever stores may
    write; the chunks go with the next `clear`, as do those of who was killed before the entry.
    """

    def __init__(self, jetstream):
        self._js = jetstream

    @staticmethod
    async def prepare(jetstream) -> None:
        for kind in KINDS:
            await jetstream.create_object_store(kind)

    async def put(self, kind: str, name: str | None, path: Path, copy: Path | None = None) -> str:
        if name is None or not await self.has(kind, name):
            piece, digest, chunks, size = uuid.uuid4().hex, hashlib.sha256(), 0, 0
            with open(path, "rb") as file:
                while data := await asyncio.to_thread(file.read, CHUNK_BYTES):
                    # With its number: one that is sent again, since the answer was lost, is stored once.
                    sending = self._publish(f"$O.{kind}.C.{piece}", data, {"Nats-Msg-Id": f"{piece}.{chunks}"})
                    await asyncio.gather(sending, asyncio.to_thread(digest.update, data))
                    chunks, size = chunks + 1, size + len(data)
            name = name or digest.hexdigest()
            text = base64.urlsafe_b64encode(digest.digest()).decode()
            info = {"name": name, "bucket": kind, "nuid": piece, "size": size, "chunks": chunks}
            info |= {"digest": f"SHA-256={text}", "options": {"max_chunk_size": CHUNK_BYTES}}
            await self._publish(_entry_subject(kind, name), json.dumps(info).encode(), {"Nats-Rollup": "sub"})
        if copy is None:
            path.unlink()
        return name

    async def get(self, kind: str, name: str, size: int, into: Path) -> Path:
        entry = await self._entry(kind, name)
        if entry is None:
            raise Missing(f"there is no {name} among the {kind}")
        _check_size(entry.info["size"], size)
        left = size
        with open(into, "wb") as file:
            async for data in self._chunks(kind, entry.info):
                left -= len(data)
                if left < 0:
                    raise Broken(f"more than the {size} bytes are there that were expected")
                await asyncio.to_thread(file.write, data)
        return into

    async def has(self, kind: str, name: str) -> bool:
        entry = await self._entry(kind, name)
        while entry is not None and not await self._replace(kind, entry, entry.info):  # the same, newly stored
            entry = await self._entry(kind, name)
        return entry is not None

    async def delete(self, kind: str, name: str, stored: float | None = None) -> None:
        entry = await self._entry(kind, name)
        if entry is not None and (stored is None or entry.stored <= stored):
            await self._replace(kind, entry, {**entry.info, "deleted": True})

    async def names(self, kind: str) -> list[tuple[str, int, float]]:
        entries = [each async for each in self._entries(kind)]
        return [(each.info["name"], each.info["size"], each.stored) for each in entries if not each.is_deleted]

    async def clear(self, kind: str, is_old: Callable[[str], bool]) -> None:
        stream, entries = f"OBJ_{kind}", [each async for each in self._entries(kind)]
        named = {each.info["nuid"] for each in entries if not each.is_deleted}
        deleted = {each.info["nuid"] for each in entries if each.is_deleted} - named
        subjects = (await self._js.stream_info(stream, subjects_filter=f"$O.{kind}.C.>")).state.subjects or {}
        for piece in {subject.rpartition(".")[2] for subject in subjects} - named:
            if piece in deleted or is_old(f"{kind}.{piece}"):
                await self._js.purge_stream(stream, subject=f"$O.{kind}.C.{piece}")
        for each in entries:
            if each.is_deleted:  # up to it: one that was stored since stays
                await self._js.purge_stream(stream, each.sequence + 1, _entry_subject(kind, each.info["name"]))

    async def _entry(self, kind: str, name: str) -> _Entry | None:
        subject = f"$JS.API.DIRECT.GET.OBJ_{kind}.{_entry_subject(kind, name)}"
        message = await patiently(lambda: self._js._nc.request(subject, timeout=ANSWER_SECONDS))
        entry = _Entry.of(kind, message)
        return None if entry is None or entry.is_deleted else entry

    async def _entries(self, kind: str) -> AsyncIterator[_Entry]:
        async for message in self._all(kind, f"$O.{kind}.M.>", 256):
            if (entry := _Entry.of(kind, message)) is not None:
                yield entry

    async def _chunks(self, kind: str, info: dict) -> AsyncIterator[bytes]:
        left = info["chunks"]
        async for message in self._all(kind, f"$O.{kind}.C.{info['nuid']}", 16):
            left -= 1
            yield message.data
            if not left:
                return
        if left:
            raise Missing(f"{info['name']} among the {kind} was deleted while it was read")

    async def _all(self, kind: str, subject: str, at_a_time: int) -> AsyncIterator:
        """The messages of a subject, in their order."""
        after, more = 0, True

        def ask():
            request = {"seq": after + 1, "next_by_subj": subject, "batch": at_a_time}
            return self._batch(kind, json.dumps(request).encode())

        while more:
            found, more = await patiently(ask)
            for message in found:
                after = int(message.headers["Nats-Sequence"])
                yield message

    async def _batch(self, kind: str, request: bytes) -> tuple[list, bool]:
        """Messages, and whether there are more."""
        found, inbox = [], self._js._nc.new_inbox()
        subscription = await self._js._nc.subscribe(inbox)
        try:
            await self._js._nc.publish(f"$JS.API.DIRECT.GET.OBJ_{kind}", request, reply=inbox)
            while True:
                message = await subscription.next_msg(timeout=BATCH_SECONDS)
                if "Status" in (message.headers or {}):  # of the end; or that there is none
                    return found, bool(found) and int(message.headers.get("Nats-Num-Pending", 0)) > 0
                found.append(message)
        finally:
            with contextlib.suppress(Exception):
                await subscription.unsubscribe()

    async def _replace(self, kind: str, entry: _Entry, info: dict) -> bool:
        """Whether the entry was still the one that is known."""
        headers = {"Nats-Rollup": "sub", "Nats-Expected-Last-Subject-Sequence": str(entry.sequence)}
        try:
            await self._publish(_entry_subject(kind, entry.info["name"]), json.dumps(info).encode(), headers)
        except nats.js.errors.APIError as error:
            if error.err_code not in WRONG_SEQUENCE:
                raise
            return False
        return True

    async def _publish(self, subject: str, data: bytes, headers: dict) -> None:
        await patiently(lambda: self._js.publish(subject, data, headers=headers))


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the broker says of an object."""

    info: dict
    sequence: int
    stored: float

    @property
    def is_deleted(self) -> bool:
        return bool(self.info.get("deleted"))

    @classmethod
    def of(cls, kind: str, message) -> _Entry | None:
        """None where there is none, or what is there was not written by this."""
        if "Status" in message.headers:
            return None
        try:
            info = json.loads(message.data)
            is_ours = (
                _entry_subject(kind, info["name"]) == message.headers["Nats-Subject"]
                and _PIECE.match(info["nuid"])
                and all(type(info[key]) is int and info[key] >= 0 for key in ("size", "chunks"))
            )
        except (ValueError, KeyError, TypeError, RecursionError):  # Missing is a ValueError
            is_ours = False
        if not is_ours:
            return None
        return cls(info, int(message.headers["Nats-Sequence"]), to_seconds(message.headers["Nats-Time-Stamp"]))


def _entry_subject(kind: str, name: str) -> str:
    return f"$O.{kind}.M.{base64.urlsafe_b64encode(_checked_name(kind, name).encode()).decode()}"


def _written(path: Path, copy: Path | None) -> None:
    """On the disk: a record that is safe must not name a file that is not."""
    if copy is not None:
        shutil.copyfile(path, copy)
    with open(copy or path, "rb+") as file:
        os.fsync(file.fileno())


def _check_size(there: int, expected: int) -> None:
    if there != expected:
        raise Broken(f"{there} bytes are there, expected {expected}")


def _checked_name(kind: str, name: str) -> str:
    assert kind in KINDS, kind
    if not _NAME.match(name):
        raise Missing(f"{name[:80]!r} is no name of a blob")
    return name


def _changed(folder: Path) -> float:
    """When anything in it was, the last time."""
    times = [folder.stat().st_mtime]
    for each in folder.iterdir():
        with contextlib.suppress(OSError):  # it is done
            times.append(each.stat().st_mtime)
    return max(times)


def _place() -> str:
    """Where a number is one process: this machine since it was booted, and in it this container."""
    name = re.sub(r"[^A-Za-z0-9_-]", "_", socket.gethostname())[:40] or "machine"
    with contextlib.suppress(OSError):  # Linux
        told = Path("/proc/sys/kernel/random/boot_id").read_text() + os.readlink("/proc/self/ns/pid")
        name += f"-{hashlib.sha256(told.encode()).hexdigest()[:8]}"
    return name
