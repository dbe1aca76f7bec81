"""One worker: takes a job that fits, decodes it, stores the video, commits.

    receive   an id out of the queue, leased
    claim     compare-and-set: this attempt is the one that counts
    fetch     latent and VAE, checked against their hashes
    decode    on a thread of its own; the lease is renewed only while frames advance
    store     the whole video, under the name of this attempt                      } R2: the result first,
    commit    compare-and-set: the record names it                                 }     the commit second
    ack       only now is the id out of the queue

Note [The rules of a worker]; tests/farm/test_kills.py breaks in at each of the moments above.
    R1  An attempt that was fenced off never acks: the id belongs to the newer attempt, which may be killed next. It
        acks only where the record says that the job has ended.
    R2  The result is stored before the commit that names it: a record that is completed has its file.
    R3  The answer to one's own compare-and-set may be lost with the broker: contents are compared before it counts as
        a fence (`Broker.replace`).
    R4  A job that ended `most_tries` workers has failed, with the reason; its latents stay.
    R5  A cancel is a compare-and-set; a worker sees it between chunks, one that waits is acked when it is received.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .blobs import AUDIO, LATENTS, RESULTS, VAES, Blobs, Scratch, checked, sha256_of
from .broker import Broker, Fenced, Full, Receipt
from .messages import CANCELLED, CLASSES, COMPLETED, ENDED, FAILED, IN_PROGRESS, QUEUED, InvalidJob, Record, Result
from .settings import Settings
from .work import Decode, OutOfMemory, Work

# Of the memory: beyond that, somebody else needs what is left.
MOST_USED = 0.95
# How often one that has nothing to do asks, beside being told: for jobs that come back from others.
ASK_SECONDS = 0.5
# After what may pass, such as a full disk.
AGAIN_SECONDS = 2.0
# A record says how far it is this often at most.
TELL_SECONDS = 0.5
# Exit statuses: the supervisor starts another one.
HUNG = 75
log = logging.getLogger("async-frame-pipeline.farm")


class Stopped(RuntimeError):
    """This attempt is to end: fenced off, cancelled, or the worker is told to stop."""


@dataclass
class Attempt:
    """The job under way.

    Attributes:
        stop: why the decode is to end, once it is.
        advanced: when the last frame was made, or the decode begun; of the monotonic clock.
    """

    receipt: Receipt
    record: Record
    stop: str = ""
    began: float = 0.0
    advanced: float = 0.0
    frames: int = 0
    total: int = 0

    def check(self) -> None:
        if self.stop:
            raise Stopped(self.stop)

    def progress(self, frames: int, total: int) -> None:
        self.frames, self.total, self.advanced = frames, total, time.monotonic()


class Worker:
    """One at a time, in one process, over one device.

    Args:
        name: for people, and for records; unique in a farm.
        decode: called on a thread that is always the same.
        models: finds a VAE on this machine by its SHA-256, or None.
        at: called with the name of each moment, for tests.
    """

    def __init__(
        self,
        broker: Broker,
        settings: Settings,
        blobs: Blobs,
        scratch: Scratch,
        name: str,
        decode: Decode,
        models: Callable[[str, int], Path | None] = lambda sha256, size: None,
        at: Callable[[str], None] = lambda moment: None,
    ):
        self._broker, self._settings, self._blobs, self._scratch = broker, settings, blobs, scratch
        self._name, self._decode, self._models, self._at = name, decode, models, at
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "decode")
        self._attempt: Attempt | None = None
        self._stopping = asyncio.Event()
        # Since it was started; see metrics.py.
        self._counts = {"completed": 0, "failed": 0, "fenced": 0, "retried": 0, "warm_hits": 0, "seconds": 0.0}

    def stop(self) -> None:
        """End after what is under way was given back."""
        self._stopping.set()
        if self._attempt is not None:
            self._attempt.stop = "stopping"

    async def run(self) -> None:
        """Until `stop`."""
        listening = await self._broker.hear("workers.ask", self._tell_state)
        while not self._stopping.is_set():
            classes = self._classes()
            if not classes:  # no memory for anything
                await self._pause(ASK_SECONDS)
                continue
            receipt = await self._broker.next(classes, ASK_SECONDS)
            if receipt is not None:
                await self._handle(receipt)
        await listening.unsubscribe()
        self._thread.shutdown(wait=False)

    def _classes(self) -> list[str]:
        """Those that fit into the memory that is free, the largest first."""
        free_mb, all_mb = self._decode.memory_mb()
        if free_mb < (1 - MOST_USED) * all_mb:
            return []
        return [name for name, needed_mb in reversed(CLASSES.items()) if needed_mb <= free_mb]

    # -- one job ----------------------------------------------------------------------------------

    async def _handle(self, receipt: Receipt) -> None:
        """Whatever comes of it; an error of one job never ends the worker."""
        self._at("received")
        try:
            record = await self._claimed(receipt)
            if record is None:
                return
            self._at("claimed")
            self._counts["retried"] += record.attempt > 1
            self._attempt = Attempt(receipt, record, began=time.monotonic(), advanced=time.monotonic())
            if self._stopping.is_set():
                self._attempt.stop = "stopping"
            watch = asyncio.ensure_future(self._watch(self._attempt))
            try:
                await self._work(self._attempt)
            finally:
                watch.cancel()
                self._attempt = None
        except Exception:
            # The lease runs out, and another one tries.
            log.exception("%s: unexpected, with the job %s", self._name, receipt.id)

    async def _claimed(self, receipt: Receipt) -> Record | None:
        """The record, with this worker's attempt in it; None where there is nothing to do, or somebody else does it."""
        try:
            record = await self._broker.record(receipt.id)
        except InvalidJob as error:
            log.warning("the record of job %s cannot be read: %s", receipt.id, error)
            await receipt.ack()
            return None
        while True:
            # Of two messages of the same round, which the broker takes where it forgot the first (its clock was set),
            # the one that was begun counts: each would fence off the other's attempts.
            is_begun_by_another = record.state == IN_PROGRESS and record.message != receipt.message if record else False
            if record is None or record.state in ENDED or record.round != receipt.round or is_begun_by_another:
                await receipt.ack()
                return None
            reason, now = "", time.time()
            if record.tries >= self._settings.most_tries:
                reason = f"it ended {record.tries} workers, the last of them {record.worker}" + (
                    f" ({record.reason})" if record.reason else ""
                )
            elif record.job.deadline is not None and await self._broker.age(receipt) > (
                record.job.deadline - record.queued  # both by the client's clock; this worker's may be another
            ):
                reason = "its deadline has passed"
            try:
                if reason:
                    await self._broker.replace(record, state=FAILED, reason=reason, ended=now)
                    self._said(record, "failed", reason)
                    await receipt.ack()
                    return None
                return await self._broker.replace(
                    record,
                    state=IN_PROGRESS,
                    attempt=record.attempt + 1,
                    tries=record.tries + 1,
                    worker=self._name,
                    message=receipt.message,
                    started=now,
                )
            except Fenced as fenced:
                record = fenced.record
                if record is not None and record.state == IN_PROGRESS:
                    return None  # another one claimed it in this moment: it is theirs (R1)

    async def _work(self, attempt: Attempt) -> None:
        record = attempt.record
        target = self._scratch.folder / f"{record.id}.{record.attempt}.{record.job.params.output_type}"
        try:
            result = await self._result(attempt, target)
            self._at("stored")
            await self._broker.replace(
                record, state=COMPLETED, result=result, reason="", ended=time.time(), worker=self._name
            )
            self._at("committed")
            await attempt.receipt.ack()
            self._at("acked")
            self._counts["completed"] += 1
            self._counts["seconds"] += result.seconds
            self._said(record, "completed", _told(result))
            await self._delete_earlier(record)
        except Fenced as fenced:
            await self._fenced(attempt, fenced.record)
        except Stopped:
            await self._stopped(attempt)
        except InvalidJob as error:
            await self._failed(attempt, str(error))
        except Exception as error:
            await self._again(attempt, error)
        finally:
            target.unlink(missing_ok=True)
            for kind in (LATENTS, AUDIO):  # what came over the network; a VAE stays for the next job
                for path in self._scratch.folder.glob(f"{kind}-*"):
                    path.unlink(missing_ok=True)

    async def _result(self, attempt: Attempt, target: Path) -> Result:
        """The video, stored whole under this attempt's name."""
        job, loop = attempt.record.job, asyncio.get_running_loop()
        latent = await self._fetched(LATENTS, job.latent.sha256, job.latent.bytes)
        self._at("fetched")
        audio = None if job.audio is None else await self._fetched(AUDIO, job.audio.sha256, job.audio.bytes)
        vae = None
        if job.vae.sha256 in self._decode.warm:
            self._counts["warm_hits"] += 1
        else:
            vae = await asyncio.to_thread(self._models, job.vae.sha256, job.vae.bytes)
            vae = vae or await self._fetched(VAES, job.vae.sha256, job.vae.bytes)
        attempt.check()

        def progress(frames: int, total: int) -> None:
            attempt.progress(frames, total)
            self._at("decoding")

        work = Work(job, latent, lambda: vae, audio, target, attempt.check, progress)
        attempt.advanced = time.monotonic()
        made = await loop.run_in_executor(self._thread, self._decode, work)
        attempt.check()
        attempt.advanced = time.monotonic()
        self._at("encoded")
        sha256, size = await asyncio.to_thread(sha256_of, target), target.stat().st_size
        name = f"{job.id}.{attempt.record.attempt}"
        await self._blobs.put(RESULTS, name, target)
        return Result(name, sha256, size, made.frames, made.width, made.height, round(made.seconds, 3), made.how)

    async def _fetched(self, kind: str, name: str, size: int) -> Path:
        into = self._scratch.folder / f"{kind}-{name}"
        if kind == VAES and into.is_file():
            return into
        try:
            path = await self._blobs.get(kind, name, size, into)
            return await asyncio.to_thread(checked, path, name, size)
        except InvalidJob as error:
            into.unlink(missing_ok=True)
            raise type(error)(f"the {kind}: {error}") from error

    async def _delete_earlier(self, record: Record) -> None:
        """What attempts before this one stored and could not commit."""
        with contextlib.suppress(Exception):  # it is swept later
            for attempt in range(1, record.attempt):
                await self._blobs.delete(RESULTS, f"{record.id}.{attempt}")

    # -- how an attempt ends other than well ------------------------------------------------------

    async def _fenced(self, attempt: Attempt, now: Record | None) -> None:
        """Somebody else has it (R1)."""
        self._counts["fenced"] += 1
        self._said(attempt.record, "fenced", "another attempt has it" if now else "its record is gone")
        await self._blobs.delete(RESULTS, f"{attempt.record.id}.{attempt.record.attempt}")
        if now is None or now.state in ENDED:
            await attempt.receipt.ack()

    async def _stopped(self, attempt: Attempt) -> None:
        record = await self._broker.record(attempt.record.id)
        if record is None or record.revision != attempt.record.revision:
            if record is not None and record.state == CANCELLED:
                self._said(attempt.record, "cancelled", "")
                await attempt.receipt.ack()
                return
            await self._fenced(attempt, record)
            return
        # Told to stop: nobody's fault, so it does not count.
        try:
            await self._broker.replace(record, state=QUEUED, tries=record.tries - 1)
            await attempt.receipt.give_back()
        except Fenced as fenced:
            await self._fenced(attempt, fenced.record)

    async def _failed(self, attempt: Attempt, reason: str) -> None:
        """For good."""
        self._counts["failed"] += 1
        try:
            await self._broker.replace(attempt.record, state=FAILED, reason=reason[:2000], ended=time.time())
            self._said(attempt.record, "failed", reason)
            await attempt.receipt.ack()
        except Fenced as fenced:
            await self._fenced(attempt, fenced.record)

    async def _again(self, attempt: Attempt, error: Exception) -> None:
        """Something that may not happen to another one; out of memory, to a larger one."""
        record, reason = attempt.record, f"{type(error).__name__}: {error}"[:2000]
        if record.tries >= self._settings.most_tries:
            await self._failed(attempt, reason)
            return
        log.warning("%s: job %s, attempt %d: %s", self._name, record.id, record.attempt, reason)
        try:
            larger = _larger(record.memory_class) if isinstance(error, OutOfMemory) else None
            if larger is None:
                await self._broker.replace(record, state=QUEUED, reason=reason)
                await attempt.receipt.give_back(AGAIN_SECONDS)
                return
            record = await self._broker.replace(
                record, state=QUEUED, reason=reason, memory_class=larger, round=record.round + 1
            )
            with contextlib.suppress(Full):  # then it is put there when there is room, by the sweep
                await self._broker.enqueue(record)
            await attempt.receipt.ack()
        except Fenced as fenced:
            await self._fenced(attempt, fenced.record)

    # -- beside the decode ------------------------------------------------------------------------

    async def _watch(self, attempt: Attempt) -> None:
        """Renew the lease while frames advance, tell how far it is, and see what became of the record."""
        every = self._settings.lease_seconds / 4
        told = renewed = time.monotonic()
        while True:
            await asyncio.sleep(min(every, TELL_SECONDS))
            now = time.monotonic()
            patience = self._settings.frame_seconds if attempt.frames else self._settings.first_frame_seconds
            if now - attempt.advanced > patience:
                log.error("%s: no frame for %.0f s, with job %s", self._name, patience, attempt.record.id)
                os._exit(HUNG)  # a GPU that hangs ends no thread; the lease runs out
            if now - told >= TELL_SECONDS:
                told = now
                await self._broker.tell(f"progress.{attempt.record.id}", self._progress(attempt))
            if now - renewed >= every:
                renewed = now
                await attempt.receipt.renew()
                with contextlib.suppress(Exception):  # the next time
                    record = await self._broker.record(attempt.record.id)
                    if record is None or record.attempt != attempt.record.attempt or record.state in ENDED:
                        attempt.stop = "fenced"

    def _progress(self, attempt: Attempt) -> dict:
        return {
            "id": attempt.record.id,
            "attempt": attempt.record.attempt,
            "worker": self._name,
            "frames": attempt.frames,
            "total": attempt.total,
            "seconds": round(time.monotonic() - attempt.began, 2),
        }

    async def _tell_state(self, _: dict) -> dict:
        free_mb, all_mb = self._decode.memory_mb()
        return {
            "name": self._name,
            "device": self._decode.name,
            "free_mb": free_mb,
            "all_mb": all_mb,
            "warm": self._decode.warm,
            "job": self._progress(self._attempt) if self._attempt else None,
            **self._counts,
        }

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    def _said(self, record: Record, state: str, more: str) -> None:
        """One line a job."""
        log.info("job %s attempt %d on %s: %s%s", record.id, record.attempt, self._name, state, more and f", {more}")


def _told(result: Result) -> str:
    size = f"{result.width}x{result.height}, {result.bytes / 1e6:.1f} MB"
    return f"{result.frames} frames of {size}, in {result.seconds:.2f} s" + (f" ({result.how})" if result.how else "")


def _larger(memory_class: str) -> str | None:
    names = list(CLASSES)
    return names[names.index(memory_class) + 1] if memory_class != names[-1] else None
