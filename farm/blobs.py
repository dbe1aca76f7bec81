"""Where latents, VAEs, sound and finished videos are: a folder that all see, or the broker.

A blob is whole or it is not there. What is named by its SHA-256 is checked against it by who reads it.
Names are made here of digits; nothing that a client wrote becomes a path.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import shutil
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import psutil

from .messages import InvalidJob

LATENTS, VAES, AUDIO, RESULTS = "latents", "vaes", "audio", "results"
KINDS = (LATENTS, VAES, AUDIO, RESULTS)
_NAME = re.compile(r"[0-9a-f]{32,64}(\.[0-9]{1,6})?\Z")
# Of one message of the broker, whose limit is 1 MB.
CHUNK_BYTES = 512 * 1024
READ_BYTES = 1 << 20


class Missing(InvalidJob):
    """A blob that a job needs is not there."""


class Broken(InvalidJob):
    """A blob is not what its name or its record says."""


class Blobs(Protocol):
    """A store."""

    async def put(self, kind: str, name: str, path: Path) -> None:
        """Store a file, which is used up; it is on the same disk, in a `Scratch`. What is there already stays."""

    async def get(self, kind: str, name: str, size: int, into: Path) -> Path:
        """The blob of so many bytes as a file to read: `into`, or where it is.

        Raises:
            Missing: there is none.
            Broken: it is of another size; nothing was read.
        """

    async def has(self, kind: str, name: str) -> bool: ...

    async def delete(self, kind: str, name: str) -> None:
        """Also if there is none."""

    async def names(self, kind: str) -> list[tuple[str, int, float]]:
        """(name, bytes, seconds since 1970 when it was stored or last read)."""


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
    """A folder of this process's own for what is unfinished; what processes of this machine left that are gone, goes.

    Args:
        parent: on the disk where finished files are to be, so that they can be moved.
    """

    def __init__(self, parent: Path):
        self.folder = parent / "scratch" / f"{_machine()}.{os.getpid()}"
        self.sweep()
        self.folder.mkdir(parents=True, exist_ok=True)

    def sweep(self) -> None:
        with contextlib.suppress(OSError):
            for each in self.folder.parent.iterdir():
                machine, _, pid = each.name.rpartition(".")
                if machine == _machine() and pid.isdigit() and not psutil.pid_exists(int(pid)):
                    shutil.rmtree(each, ignore_errors=True)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class Folder:
    """A folder on this machine, or on a share that all machines see."""

    def __init__(self, root: Path):
        self.root = Path(root)
        for kind in KINDS:
            (self.root / kind).mkdir(parents=True, exist_ok=True)

    async def put(self, kind: str, name: str, path: Path) -> None:
        await asyncio.to_thread(self._put, self._path(kind, name), path)

    def _put(self, target: Path, path: Path) -> None:
        if target.exists():
            os.utime(target)
            path.unlink()
            return
        with open(path, "rb+") as file:
            os.fsync(file.fileno())  # a record that is safe must not name a file that is not
        os.replace(path, target)

    async def get(self, kind: str, name: str, size: int, into: Path) -> Path:
        path = self._path(kind, name)
        if not path.is_file():
            raise Missing(f"there is no {name} among the {kind}")
        _check_size(path.stat().st_size, size)
        with contextlib.suppress(OSError):
            os.utime(path)
        return path

    async def has(self, kind: str, name: str) -> bool:
        path = self._path(kind, name)
        with contextlib.suppress(OSError):
            os.utime(path)  # who asks is about to need it
        return path.is_file()

    async def delete(self, kind: str, name: str) -> None:
        self._path(kind, name).unlink(missing_ok=True)

    async def names(self, kind: str) -> list[tuple[str, int, float]]:
        found = []
        for path in filter(lambda path: _NAME.match(path.name), (self.root / kind).iterdir()):
            with contextlib.suppress(OSError):
                found.append((path.name, path.stat().st_size, path.stat().st_mtime))
        return found

    def _path(self, kind: str, name: str) -> Path:
        return self.root / kind / _checked_name(kind, name)


class Objects:
    """The broker's own store, as the standard clients of NATS lay it out: chunks, then an entry that names them.

    Read by a pull consumer: nats-py's `get` took 4.2 s for 200 MB, and 330 s in memory (nats.py#703); this one 1.6 s.
    """

    def __init__(self, jetstream):
        self._js = jetstream

    @staticmethod
    async def prepare(jetstream, kept_seconds: float) -> None:
        from nats.js.api import ObjectStoreConfig

        for kind in KINDS:
            await jetstream.create_object_store(kind, ObjectStoreConfig(bucket=kind, ttl=kept_seconds))

    async def put(self, kind: str, name: str, path: Path) -> None:
        from nats.js.api import ObjectMeta, ObjectMetaOptions

        if not await self.has(kind, name):
            store = await self._js.object_store(kind)
            meta = ObjectMeta(name=name, options=ObjectMetaOptions(max_chunk_size=CHUNK_BYTES))
            with open(path, "rb") as file:
                await store.put(_checked_name(kind, name), file, meta)
        path.unlink()

    async def get(self, kind: str, name: str, size: int, into: Path) -> Path:
        info = await self._info(kind, name)
        if info is None:
            raise Missing(f"there is no {name} among the {kind}")
        _check_size(info.size, size)
        with open(into, "wb") as file:
            async for data in self._chunks(kind, info):
                await asyncio.to_thread(file.write, data)
        return into

    async def has(self, kind: str, name: str) -> bool:
        return await self._info(kind, name) is not None

    async def delete(self, kind: str, name: str) -> None:
        if await self.has(kind, name):
            store = await self._js.object_store(kind)
            await store.delete(_checked_name(kind, name))

    async def names(self, kind: str) -> list[tuple[str, int, float]]:
        from nats.js.errors import NotFoundError

        store = await self._js.object_store(kind)
        try:
            infos = await store.list()
        except NotFoundError:  # what it says of an empty one
            return []
        now = time.time()
        return [(each.name, each.size or 0, now) for each in infos if not each.deleted]

    async def _info(self, kind: str, name: str):
        from nats.js.errors import NotFoundError

        store = await self._js.object_store(kind)
        try:
            return await store.get_info(_checked_name(kind, name))
        except NotFoundError:
            return None

    async def _chunks(self, kind: str, info) -> AsyncIterator[bytes]:
        from nats.js.api import AckPolicy, ConsumerConfig

        if not info.chunks:
            return
        stream, subject = f"OBJ_{kind}", f"$O.{kind}.C.{info.nuid}"
        config = ConsumerConfig(
            filter_subject=subject, ack_policy=AckPolicy.NONE, mem_storage=True, inactive_threshold=60.0
        )
        consumer = await self._js.add_consumer(stream, config)
        subscription = await self._js.pull_subscribe_bind(consumer.name, stream)
        try:
            left = info.chunks
            while left:
                for message in await subscription.fetch(min(left, 32), timeout=10):
                    left -= 1
                    yield message.data
        finally:
            with contextlib.suppress(Exception):
                await subscription.unsubscribe()
                await self._js.delete_consumer(stream, consumer.name)


def _check_size(there: int, expected: int) -> None:
    if there != expected:
        raise Broken(f"{there} bytes are there, expected {expected}")


def _checked_name(kind: str, name: str) -> str:
    assert kind in KINDS, kind
    if not _NAME.match(name):
        raise Missing(f"{name[:80]!r} is no name of a blob")
    return name


def _machine() -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", socket.gethostname())[:40] or "machine"
