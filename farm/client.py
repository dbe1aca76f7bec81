"""Submit latents and fetch videos: what a node, a script or a gateway does.

async with farm() as client:
    job = await client.submit("some.latent", "wan_2.1_vae.safetensors", params={"fps": "16"})
    path = await client.fetch(job.id, Path("some.mp4"))
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import glob
import os
import shutil
import tempfile
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil

from .blobs import AUDIO, LATENTS, RESULTS, VAES, Blobs, Folder, Missing, Objects, Scratch, checked, sha256_of
from .broker import Broker
from .header import DTYPES, header_of
from .messages import CANCELLED, COMPLETED, ENDED, FAILED, Blob, InvalidJob, Job, Params, Record, Vae
from .settings import NoFarm, Settings, address

LATENT_TENSOR = "latent_tensor"
# Files whose hashes are remembered, those used last.
MOST_HASHED = 100


class JobFailed(RuntimeError):
    """A job ended without a video.

    Attributes:
        record: with the reason.
    """

    def __init__(self, record: Record):
        super().__init__(f"the job {record.id} {record.state}" + (f": {record.reason}" if record.reason else ""))
        self.record = record


@contextlib.asynccontextmanager
async def farm(server: str | None = None, patience: float = 5.0) -> AsyncIterator[Client]:
    """A client of the farm at `server`, see `settings.address`.

    Raises:
        NoFarm: there is none, or it does not answer within `patience` seconds.
    """
    async with Broker.connect(address(server), name="client", patience=patience) as broker:
        settings = await broker.settings()
        scratch = Scratch(scratch_parent(settings))
        try:
            yield Client(broker, blobs_of(settings, broker), scratch)
        finally:
            scratch.remove()


class Client:
    """Made by `farm`."""

    def __init__(self, broker: Broker, blobs: Blobs, scratch: Scratch):
        self.broker, self._blobs, self._scratch = broker, blobs, scratch
        self._hashed: OrderedDict[tuple[str, int, int], Blob] = OrderedDict()

    @property
    def scratch(self) -> Path:
        """A folder for what is unfinished, which goes with this process."""
        return self._scratch.folder

    async def submit(
        self,
        latent: Path | str,
        vae: Path | str,
        *,
        family: str = "Wan 2.1",
        verdict: float | None = None,
        audio: Path | str | None = None,
        job_id: str | None = None,
        params: dict | None = None,
        **of_the_job: object,
    ) -> Record:
        """Store what is needed and queue a job.

        Args:
            latent: a .latent or safetensors file with a `latent_tensor`, as ComfyUI saves it.
            vae: a safetensors file; stored once, whatever its name.
            audio: a FLAC file.
            job_id: see `messages.job_id`; None for a new one.
            params: those of `Params` besides the shape and the dtype, which the latent tells.
            of_the_job: those of `Job`: priority, user, need_mb, client and so on.
        Returns:
            The record; of a job that was submitted before, as it is by now.
        Raises:
            InvalidJob: it cannot be decoded by anybody.
            broker.Full: this user has too many jobs open.
        """
        shape, dtype = shape_of(Path(latent))
        # Checked before anything leaves; what is the job's own is hashed on its way.
        job = Job(
            id=job_id or uuid.uuid4().hex,
            vae=Vae(**dataclasses.asdict(await self._named(vae)), family=family, verdict=verdict),
            latent=_unnamed(latent),
            audio=None if audio is None else _unnamed(audio),
            params=Params(shape=shape, dtype=dtype, **(params or {})),
            **of_the_job,
        )
        await self._stored(VAES, vae)
        stored = {"latent": await self._stored(LATENTS, latent)}
        if audio is not None:
            stored["audio"] = await self._stored(AUDIO, audio)
        return await self.broker.submit(dataclasses.replace(job, **stored))

    async def wait(self, job_id: str) -> Record:
        """Until the job has ended.

        Raises:
            JobFailed: without a video.
        """
        async for record in self.broker.watch(job_id):
            if record.state == COMPLETED:
                return record
            if record.state in ENDED:
                raise JobFailed(record)
        raise AssertionError("a watch does not end")

    async def fetch(self, job_id: str, target: Path, wait: bool = True) -> Path:
        """The video as a file, which has its name only when it is whole.

        Args:
            target: replaced if it exists.
            wait: until the job has ended.
        Raises:
            JobFailed: it ended without a video.
            Broken: what is there is not what was stored.
        """
        record = await self.wait(job_id) if wait else await self.broker.record(job_id)
        if record is None or record.result is None:
            raise KeyError(f"there is no video of a job {job_id}")
        await self.copy(record, target)
        await self.delivered(job_id)
        return target

    async def copy(self, record: Record, target: Path) -> None:
        """The video of a completed job as a file, whole or not at all.

        Raises:
            Broken: what is there is not what was stored.
        """
        result = record.result
        await self._fetched(RESULTS, result.name, Blob(result.sha256, result.bytes), target)

    async def delivered(self, job_id: str) -> None:
        """Note that its client has what became of a job, unless it was queued again since."""

        def note(now: Record) -> dict | None:
            return {"delivered": time.time()} if now.state in ENDED and not now.delivered else None

        await self.broker.change(job_id, note)

    async def retry(self, job_id: str) -> Record | None:
        """Queue a job once more that failed or was cancelled; None where it is not known any more.

        Raises:
            Missing: so are its latents, which those of a cancelled job are after an hour.
            broker.Full: this user has too many jobs open.
        """
        record = await self.broker.record(job_id)
        if record is not None and record.state in (FAILED, CANCELLED):
            job = record.job
            for kind, blob in ((LATENTS, job.latent), (VAES, job.vae), (AUDIO, job.audio)):
                if blob is not None and not await self._blobs.has(kind, blob.sha256):
                    raise Missing(f"it cannot be decoded again: it is gone from the {kind}")
        return await self.broker.retry(job_id)

    async def latent(self, job_id: str, target: Path) -> Path:
        """The job's latents as a .latent file, of a job that failed above all."""
        record = await self.broker.record(job_id)
        if record is None:
            raise KeyError(f"there is no job {job_id}")
        await self._fetched(LATENTS, record.job.latent.sha256, record.job.latent, target)
        return target

    async def _fetched(self, kind: str, name: str, blob: Blob, target: Path) -> None:
        """As a file of its own, whole or not at all; what comes over the network is written once."""
        part = target.with_name(f".{target.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.part")
        _remove_left_parts(target)
        with _removed(part):
            there = await self._blobs.get(kind, name, blob.bytes, part)
            if there != part:
                await asyncio.to_thread(shutil.copyfile, there, part)
            await asyncio.to_thread(checked, part, blob.sha256, blob.bytes)
            os.replace(part, target)

    async def _named(self, path: Path | str) -> Blob:
        """Hashed once: a VAE is sent with many jobs."""
        key = _key(path)
        if key not in self._hashed:
            self._note(key, await asyncio.to_thread(sha256_of, Path(path)))
        return self._hashed[key]

    async def _stored(self, kind: str, path: Path | str) -> Blob:
        """Hashed while it is stored; what was hashed before is stored only if it is not there."""
        key = _key(path)
        name = self._hashed[key].sha256 if key in self._hashed else None
        if name is None or not await self._blobs.has(kind, name):
            # Several may store the same at once.
            with _removed(self._scratch.folder / f"{kind}.{uuid.uuid4().hex}") as copy:
                name = await self._blobs.put(kind, name, Path(path), copy)
        self._note(key, name)
        return self._hashed[key]

    def _note(self, key: tuple[str, int, int], sha256: str) -> None:
        self._hashed[key] = Blob(sha256, key[1])
        self._hashed.move_to_end(key)
        if len(self._hashed) > MOST_HASHED:
            self._hashed.popitem(last=False)


def _key(path: Path | str) -> tuple[str, int, int]:
    """By which a file is known again: path, bytes, when it was changed."""
    status = Path(path).stat()
    return str(path), status.st_size, status.st_mtime_ns


def _unnamed(path: Path | str) -> Blob:
    """Of a file that is not hashed yet."""
    return Blob("0" * 64, Path(path).stat().st_size)


@contextlib.contextmanager
def _removed(path: Path) -> Iterator[Path]:
    """Whatever is there after the block goes."""
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _remove_left_parts(target: Path) -> None:
    """Of processes that were killed in mid-copy; a number that is in use again keeps one a little longer."""
    for path in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
        pid = path.name.split(".")[-3]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            path.unlink(missing_ok=True)


def blobs_of(settings: Settings, broker: Broker) -> Blobs:
    """Where this farm keeps its files.

    Raises:
        NoFarm: in a folder that this machine does not see.
    """
    if not settings.folder:
        return Objects(broker.jetstream)
    if not Path(settings.folder).is_dir():
        raise NoFarm(
            f"this farm keeps its files in {settings.folder}, which is not to be seen here: mount it, or start the "
            "farm with --network"
        )
    return Folder(Path(settings.folder))


def scratch_parent(settings: Settings) -> Path:
    """On the disk where finished files are to be, if that is a folder."""
    return Path(settings.folder) if settings.folder else Path(tempfile.gettempdir()) / "async-frame-pipeline-farm"


def shape_of(path: Path) -> tuple[tuple[int, ...], str]:
    """Shape and dtype of the latent in a safetensors file, by its header alone.

    Raises:
        InvalidJob: it is none.
    """
    try:
        entry = header_of(path)[LATENT_TENSOR]
        names = {there: name for name, there in DTYPES.items()}
        return tuple(entry["shape"]), names[entry["dtype"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidJob(f"{path.name} holds no latent: {type(error).__name__}: {error}") from error
