"""One worker: takes a job that fits, decodes it, stores the video, commits.

    receive   an id out of the queue, leased
    claim     compare-and-set: this attempt is the one that counts
    fetch     latent and VAE, checked against their hashes
    decode    on a thread of its own; the lease is renewed only while frames advance
    store     the whole video, under the name of this attempt                      } R2: the result first,
    commit    compare-and-set: the record names it                                 }     the commit second
    ack       only now is the id out of the queue

While one is decoded the next is leased, and its data are fetched and checked (`Ahead`). It is not claimed: whatever
happens before its turn, nothing counts against it. It is given back if somebody has nothing to do, and waits for those
of a higher priority that come meanwhile.

Note [The rules of a worker]; tests/farm/test_kills.py breaks in at each of the moments above.
    R1  An attempt that was fenced off never acks: the id belongs to the newer attempt, which may be killed next. It
        acks only where the record says that the job has ended.
    R2  The result is stored before the commit that names it: a record that is completed has its file.
    R3  The answer to one's own compare-and-set may be lost with the broker: contents are compared before it counts as
        a fence (`Broker.replace`).
    R4  A job that ended `most_tries` workers has failed, with the reason; its latents stay. A full disk is not the
        job's fault and does not count; a decoder that fails may not be either, so it is not used again. From the second
        attempt on a job runs alone, with nothing ahead, and on a larger card where there is one.
    R5  A cancel is a compare-and-set; a worker sees it between chunks, one that waits is acked when it is received.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import errno
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .blobs import AUDIO, LATENTS, RESULTS, VAES, Blobs, Scratch, checked, sha256_of
from .broker import Broker, Fenced, Full, Receipt
from .messages import (
    CANCELLED,
    CLASSES,
    COMPLETED,
    ENDED,
    FAILED,
    IN_PROGRESS,
    PRIORITIES,
    QUEUED,
    WAITS,
    InvalidJob,
    Record,
    Result,
)
from .models import Models
from .settings import Settings
from .work import Decode, OutOfMemory, Work

# Of the memory: beyond that, somebody else needs what is left.
MOST_USED = 0.95
# How often one that has nothing to do asks, beside being told: for jobs that come back from others.
ASK_SECONDS = 0.5
# After what may pass.
AGAIN_SECONDS = 2.0
# For so long nothing is taken after the disk was full; with more room than this left, the video was too large for it.
FULL_SECONDS, FULL_BYTES = 30.0, 1 << 30
FULL = (errno.ENOSPC, errno.EDQUOT)
# A record says how far it is this often at most.
TELL_SECONDS = 0.5
# One that has nothing to do says so each ASK_SECONDS, unless so many who can do all that it can did; who did not for so
# long has something, or is gone. All hear it, so if each said it, that would be as many times as there are pairs.
IDLE_SECONDS, SPEAKERS = 2 * ASK_SECONDS, 4
# How long a job is left to others who have nothing to do and would be done with it sooner.
AFFINITY_SECONDS = 0.2
# How long workers have to say what card they have.
ANSWER_SECONDS = 0.3
# Where workers tell each other that they have nothing to do, or gave a job back.
TELL = "workers.tell"
# Exit statuses; the supervisor starts another one, later each time. No frame came, or the decoder failed.
HUNG, BROKEN = 75, 76
log = logging.getLogger("async-frame-pipeline.farm")


class Stopped(RuntimeError):
    """This attempt is to end: fenced off, cancelled, or the worker is told to stop."""


@dataclass
class Attempt:
    """The job under way.

    Attributes:
        stop: why the decode is to end, once it is.
        advanced: when the last frame was made, or the decode begun, of the monotonic clock; None while the decoder does
            nothing: files come and go as slowly as they like, and no question to the broker goes unanswered for ever.
        is_alone: nothing is to be taken ahead beside it.
        first: how many frames were there after the first step, and when: before that kernels are compiled.
    """

    receipt: Receipt
    record: Record
    stop: str = ""
    advanced: float | None = None
    frames: int = 0
    total: int = 0
    is_alone: bool = False
    first: tuple[int, float] | None = None

    def check(self) -> None:
        if self.stop:
            raise Stopped(self.stop)

    def progress(self, frames: int, total: int) -> None:
        self.frames, self.total, self.advanced = frames, total, time.monotonic()
        self.first = self.first or (frames, self.advanced)

    @property
    def seconds_left(self) -> float | None:
        """By the pace since the first step; None before there is one."""
        if self.first is None or self.frames <= self.first[0] or self.advanced is None:
            return None
        pace = (self.advanced - self.first[1]) / (self.frames - self.first[0])
        return round(max(0.0, pace * (self.total - self.frames) - (time.monotonic() - self.advanced)), 1)


@dataclass
class Ready:
    """A job's data on this machine.

    Attributes:
        vae: None where the decoder has it.
        prepared: what the decoder made of them.
        error: why nobody can decode them.
    """

    latent: Path | None = None
    audio: Path | None = None
    vae: Path | None = None
    prepared: object = None
    error: InvalidJob | None = None


@dataclass
class Idle:
    """A worker that has nothing to do.

    Attributes:
        told: when it said so, of the monotonic clock.
        classes: that fit there.
        warm, decoders, patience: of its decoder, see `Decode`.
    """

    told: float
    classes: list[str]
    warm: list[str]
    decoders: list[str]
    patience: float

    def can_all(self, other: Idle) -> bool:
        return (
            all(each in self.classes for each in other.classes)
            and all(each in self.warm for each in other.warm)
            and all(each in self.decoders for each in other.decoders)
            and self.patience <= other.patience
        )

    def promise(self, vae: str) -> tuple[float, bool, bool]:
        """More is a video that is there sooner: on a GPU, by the fast decoder, with the VAE there already."""
        return -self.patience, "fast" in self.decoders, vae in self.warm


@dataclass
class Ahead:
    """The job that is next: leased, not claimed."""

    receipt: Receipt
    record: Record
    ready: asyncio.Task[Ready]


class Worker:
    """One at a time, in one process, over one device.

    Args:
        name: for people, and for records; unique in a farm.
        decode: called on a thread that is always the same.
        models: VAEs on this machine; None for those alone that come over the network.
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
        models: Models | None = None,
        at: Callable[[str], None] = lambda moment: None,
    ):
        self._broker, self._settings, self._blobs, self._scratch = broker, settings, blobs, scratch
        self._name, self._decode, self._at = name, decode, at
        self._models = models or Models([], scratch.folder)
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "decode")
        self._attempt: Attempt | None = None
        self._ahead: Ahead | None = None
        self._fits: list[str] = []  # what did before this decode took its memory
        self._passed_on = ""  # the last job that was left to somebody else
        self._is_broken = False  # the decoder failed in a way that may be the device's
        self._rest = 0.0  # for how many seconds to take nothing
        self._stopping = asyncio.Event()
        self._idle: dict[str, Idle] = {}  # others, by name; those that said so long ago have something to do
        # Since it was started; see metrics.py.
        self._counts = {"completed": 0, "failed": 0, "fenced": 0, "retried": 0, "warm_hits": 0, "seconds": 0.0}

    def stop(self) -> None:
        """End after what is under way was given back."""
        self._stopping.set()
        if self._attempt is not None:
            self._attempt.stop = "stopping"

    async def run(self) -> int:
        """Until `stop`, or until the decoder is not to be trusted any more: then in a new process it may be.

        Returns:
            The exit status: 0 or BROKEN.
        """
        listening = [
            await self._broker.hear("workers.ask", self._tell_state),
            await self._broker.hear(TELL, self._hear_others),
        ]
        while not self._stopping.is_set() and not self._is_broken:
            await self._turn()
            if self._rest:
                await self._give_back_ahead()
                await self._pause(self._rest)
                self._rest = 0.0
        await self._give_back_ahead()
        for each in listening:
            await each.unsubscribe()
        self._thread.shutdown(wait=False)
        return BROKEN if self._is_broken else 0

    async def _turn(self) -> None:
        """One job: of a higher priority than the one that is ahead, else that one, else any."""
        classes, ahead = self._classes(), self._ahead
        self._fits = classes
        if ahead is not None and ahead.record.memory_class not in classes:
            await self._give_back_ahead()
        elif ahead is not None:
            higher = PRIORITIES[: PRIORITIES.index(ahead.record.job.priority)]
            receipt = await self._broker.next(classes, 0, higher, is_idle=False) if higher else None
            if receipt is not None:
                await self._handle(receipt)
            elif self._ahead is ahead:  # still: meanwhile it may have been given back
                self._ahead = None
                await self._handle(ahead.receipt, ahead)
        elif (receipt := await self._broker.next(classes, ASK_SECONDS)) is not None:
            await self._handle(receipt)
        elif classes:
            mine = self._as_idle(classes)
            if sum(each.can_all(mine) for each in self._idle_others()) < SPEAKERS:
                has = {name: getattr(mine, name) for name in ("classes", "warm", "decoders", "patience")}
                await self._broker.tell(TELL, {"name": self._name, **has})

    def _classes(self) -> list[str]:
        """Those that fit into the memory that is free, the largest first."""
        free_mb, all_mb = self._decode.memory_mb()
        if free_mb < (1 - MOST_USED) * all_mb:
            return []
        return [name for name, needed_mb in reversed(CLASSES.items()) if needed_mb <= free_mb]

    # -- one job ----------------------------------------------------------------------------------

    async def _handle(self, receipt: Receipt, ahead: Ahead | None = None) -> None:
        """Whatever comes of it; an error of one job never ends the worker."""
        self._at("received")
        try:
            record = await self._claimed(receipt, ahead)
            if record is None:
                return
            self._at("claimed")
            self._counts["retried"] += record.attempt > 1
            self._attempt = Attempt(receipt, record)
            if self._stopping.is_set():
                self._attempt.stop = "stopping"
            self._attempt.is_alone = record.tries > 1  # it may be what ends workers
            watch = asyncio.ensure_future(self._watch(self._attempt))
            looking = asyncio.ensure_future(self._look_ahead(self._attempt))
            try:
                await self._work(self._attempt, ahead)
            finally:
                self._attempt.is_alone = True
                self._broker.wake()
                await asyncio.gather(looking, return_exceptions=True)
                watch.cancel()
                self._attempt = None
        except Exception:
            # The lease runs out, and another one tries.
            log.exception("%s: unexpected, with the job %s", self._name, receipt.id)
        finally:
            if ahead is not None:
                await self._drop(ahead)

    async def _claimed(self, receipt: Receipt, ahead: Ahead | None) -> Record | None:
        """The record, with this worker's attempt in it; None where there is nothing to do, or somebody else does it."""
        try:
            record = await self._broker.record(receipt.id)
        except InvalidJob as error:
            log.warning("the record of job %s cannot be read: %s", receipt.id, error)
            await receipt.ack()
            return None
        if record is not None and record.state not in ENDED and record.round == receipt.round:
            if ahead is not None and record.revision != ahead.record.revision:
                return None  # its lease ran out while it waited here, and it is theirs (R1)
            if ahead is None and await self._passed(receipt, record):
                return None
            if record.state == IN_PROGRESS and record.message == receipt.message:
                larger = await self._larger_elsewhere(record)
                if larger is not None:
                    with contextlib.suppress(Fenced):
                        await self._enlarge(receipt, record, larger, f"its worker ended: {record.worker}")
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
                    reason="" if record.reason.startswith(WAITS) else record.reason,
                    started=now,
                )
            except Fenced as fenced:
                record = fenced.record
                if record is not None and record.state == IN_PROGRESS:
                    return None  # another one claimed it in this moment: it is theirs (R1)

    async def _work(self, attempt: Attempt, ahead: Ahead | None) -> None:
        record = attempt.record
        target = self._scratch.folder / f"{record.id}.{record.attempt}.{record.job.params.output_type}"
        try:
            result = await self._result(attempt, ahead, target)
            self._at("stored")
            await self._broker.replace(
                record, state=COMPLETED, result=result, reason="", ended=time.time(), worker=self._name
            )
        except Fenced as fenced:
            await self._fenced(attempt, fenced.record)
        except Stopped:
            await self._stopped(attempt)
        except InvalidJob as error:
            await self._failed(attempt, str(error))
        except Exception as error:
            await self._again(attempt, error)
        else:
            await self._completed(attempt, result)
        finally:
            self._clear(record.id)

    async def _completed(self, attempt: Attempt, result: Result) -> None:
        """The record names its video: from here on nothing that goes wrong may touch that."""
        self._at("committed")
        self._counts["completed"] += 1
        self._counts["seconds"] += result.seconds
        self._said(attempt.record, "completed", _told(result))
        await attempt.receipt.ack()
        self._at("acked")
        await self._delete_earlier(attempt.record)

    async def _result(self, attempt: Attempt, ahead: Ahead | None, target: Path) -> Result:
        """The video, stored whole under this attempt's name."""
        job, loop = attempt.record.job, asyncio.get_running_loop()
        is_warm = job.vae.sha256 in self._decode.warm
        ready = await (ahead.ready if ahead is not None else self._ready(attempt.record))
        if ready.error is None and ready.vae is None and job.vae.sha256 not in self._decode.warm:
            ready = await self._ready(attempt.record)  # since then others took the VAE's place
        self._at("fetched")
        if ready.error is not None:
            raise ready.error
        self._counts["warm_hits"] += is_warm
        attempt.check()

        def progress(frames: int, total: int) -> None:
            attempt.progress(frames, total)
            self._at("decoding")

        work = Work(job, ready.latent, lambda: ready.vae, ready.audio, target, attempt.check, progress, ready.prepared)
        attempt.advanced = time.monotonic()
        try:
            with self._trusted():
                made = await loop.run_in_executor(self._thread, self._decode, work)
        finally:
            attempt.advanced = None
        attempt.check()
        self._at("encoded")
        sha256, size = await asyncio.to_thread(sha256_of, target), target.stat().st_size
        name = attempt.record.result_name(attempt.record.attempt)
        await self._blobs.put(RESULTS, name, target)
        return Result(name, sha256, size, made.frames, made.width, made.height, round(made.seconds, 3), made.how)

    async def _ready(self, record: Record) -> Ready:
        """Fetched, checked against their hashes, and prepared."""
        job, ready = record.job, Ready()
        try:
            ready.latent = await self._fetched(record, LATENTS, job.latent.sha256, job.latent.bytes)
            if job.audio is not None:
                ready.audio = await self._fetched(record, AUDIO, job.audio.sha256, job.audio.bytes)
            if job.vae.sha256 not in self._decode.warm:
                ready.vae = await asyncio.to_thread(self._models, job.vae.sha256, job.vae.bytes)
                ready.vae = ready.vae or await self._fetched(record, VAES, job.vae.sha256, job.vae.bytes)
            with self._trusted():
                prepare, files = self._decode.prepare, (ready.latent, ready.vae, ready.audio)
                ready.prepared = await asyncio.to_thread(prepare, job, *files)
        except InvalidJob as error:
            ready.error = error
        return ready

    @contextlib.contextmanager
    def _trusted(self) -> Iterator[None]:
        """Around the decoder. An error that is neither the job's nor a disk's may be of a GPU in a bad state, which
        would fail every other job too: this process takes none, and the supervisor paces those after it.
        """
        try:
            yield
        except (InvalidJob, OutOfMemory, Stopped, OSError, MemoryError):
            raise
        except Exception as error:
            self._is_broken = self._is_broken or not _is_full(error)
            raise

    async def _fetched(self, record: Record, kind: str, name: str, size: int) -> Path:
        into = self._scratch.folder / f"{record.id}.{kind}"
        try:
            path = await asyncio.to_thread(checked, await self._blobs.get(kind, name, size, into), name, size)
        except InvalidJob as error:
            raise type(error)(f"the {kind}: {error}") from error
        # What came over the network is kept; what is in a folder of this machine's is there already.
        return await asyncio.to_thread(self._models.keep, name, path) if kind == VAES and path == into else path

    def _clear(self, job_id: str) -> None:
        """What is unfinished of a job, and what came over the network for it."""
        for path in self._scratch.folder.glob(f"{job_id}.*"):
            with contextlib.suppress(OSError):  # Windows deletes nothing that is mapped; it goes with the folder
                path.unlink()

    async def _delete_earlier(self, record: Record) -> None:
        """What attempts before this one stored and could not commit."""
        with contextlib.suppress(Exception):  # it is swept later
            for attempt in range(1, record.attempt):
                await self._blobs.delete(RESULTS, record.result_name(attempt))

    # -- how an attempt ends other than well ------------------------------------------------------

    async def _fenced(self, attempt: Attempt, now: Record | None) -> None:
        """Somebody else has it (R1), or it was committed and the answer was lost."""
        name = attempt.record.result_name(attempt.record.attempt)
        if now is not None and now.result is not None and now.result.name == name:
            await self._completed(attempt, now.result)
            return
        self._counts["fenced"] += 1
        self._said(attempt.record, "fenced", "another attempt has it" if now else "its record is gone")
        await self._blobs.delete(RESULTS, name)
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
            await self._give_back(attempt.receipt)
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
        larger = _larger(record.memory_class) if isinstance(error, OutOfMemory) else None
        self._clear(record.id)
        is_full = _is_full(error) and shutil.disk_usage(self._scratch.folder).free < FULL_BYTES
        if is_full:
            self._rest = FULL_SECONDS
        elif larger is None and record.tries >= self._settings.most_tries:
            await self._failed(attempt, reason)
            return
        log.warning("%s: job %s, attempt %d: %s", self._name, record.id, record.attempt, reason)
        try:
            if larger is None:
                await self._broker.replace(record, state=QUEUED, reason=reason, tries=record.tries - is_full)
                await attempt.receipt.give_back(AGAIN_SECONDS)
                return
            # It ended no worker, so it does not count.
            await self._enlarge(attempt.receipt, record, larger, reason, tries=record.tries - 1)
        except Fenced as fenced:
            await self._fenced(attempt, fenced.record)

    async def _enlarge(self, receipt: Receipt, record: Record, larger: str, reason: str, **more: object) -> None:
        """Queue it for cards of a larger class.

        Raises:
            Fenced: somebody else has it.
        """
        record = await self._broker.replace(
            record, state=QUEUED, reason=reason, memory_class=larger, round=record.round + 1, **more
        )
        with contextlib.suppress(Full):  # then it is put there when there is room, by the sweep
            await self._broker.enqueue(record)
        await receipt.ack()

    async def _larger_elsewhere(self, record: Record) -> str | None:
        """The class for a job that ended a worker, where others are there that can take that much and this one cannot:
        what ended it may have been its memory, whatever the client reckoned.
        """
        larger = _larger(record.memory_class)
        if larger is None or record.memory_class != record.job.memory_class or larger in self._classes():
            return None
        for each in await self._broker.ask_all("workers.ask", ANSWER_SECONDS):
            room_mb = MOST_USED * each["all_mb"] if each["job"] else each["free_mb"]
            if each["name"] != self._name and room_mb >= CLASSES[larger]:
                return larger
        return None

    # -- the next job -----------------------------------------------------------------------------

    async def _look_ahead(self, attempt: Attempt) -> None:
        """Lease the next job, once this one makes frames, and get it ready: one at most, that nobody else would begin.

        Ends soon after the attempt; it is not cancelled, since a job that is on its way here would be leased to nobody.
        """
        receipt = None
        while receipt is None:
            if attempt.is_alone:
                return
            classes = [each for each in self._fits if not any(each in other.classes for other in self._idle_others())]
            if attempt.total and self._ahead is None and classes:
                receipt = await self._broker.next(classes, ASK_SECONDS, is_idle=False)
            else:
                await asyncio.sleep(ASK_SECONDS / 10)
        record = None
        with contextlib.suppress(InvalidJob):
            record = await self._broker.record(receipt.id)
        is_first = record is not None and record.state == QUEUED and not record.tries and record.round == receipt.round
        # Leased so often, it may kill whoever makes it ready, which counts only once it was begun (R4).
        is_first = is_first and receipt.deliveries <= self._settings.most_tries
        if not is_first or not self._can(record) or self._stopping.is_set():  # all else is for its own turn
            await self._give_back(receipt)
            return
        self._ahead = Ahead(receipt, record, asyncio.ensure_future(self._ready(record)))
        self._ahead.ready.add_done_callback(lambda ready: ready.cancelled() or self._at("ahead"))

    async def _give_back_ahead(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return
        await self._drop(ahead)
        record = await self._broker.record(ahead.record.id)
        # The broker would take it back from whoever has it by now, too.
        if record is not None and record.revision == ahead.record.revision:
            await self._give_back(ahead.receipt)

    async def _drop(self, ahead: Ahead) -> None:
        """What was made ready."""
        ahead.ready.cancel()
        await asyncio.gather(ahead.ready, return_exceptions=True)
        self._clear(ahead.record.id)

    async def _give_back(self, receipt: Receipt) -> None:
        await receipt.give_back()
        await self._broker.tell(TELL, {"name": self._name, "back": True})

    async def _passed(self, receipt: Receipt, record: Record) -> bool:
        """Whether the job was left to others: this one lacks its decoder, or somebody who would be done with it sooner
        has nothing to do. That somebody may still not take it, so a job is passed on so once.
        """
        vae, can, again = record.job.vae.sha256, self._can(record), receipt.id == self._passed_on
        own = self._as_idle(self._fits).promise(vae)
        others = [
            other
            for other in self._idle_others()
            if record.memory_class in other.classes and record.job.is_for(other.decoders)
        ]
        if can and (again or not any(other.promise(vae) > own for other in others)):
            return False
        if others and not again:
            self._passed_on = receipt.id
            await self._give_back(receipt)
            await self._pause(AFFINITY_SECONDS)
            return True
        await receipt.give_back(AGAIN_SECONDS)  # aside, so that what is behind it comes
        return True

    def _can(self, record: Record) -> bool:
        return record.job.is_for(self._decode.decoders)

    def _as_idle(self, classes: list[str]) -> Idle:
        decode = self._decode
        return Idle(time.monotonic(), classes, list(decode.warm), list(decode.decoders), decode.patience)

    def _idle_others(self) -> list[Idle]:
        since = time.monotonic() - IDLE_SECONDS
        return [each for each in self._idle.values() if each.told > since]

    async def _hear_others(self, values: dict) -> None:
        name = str(values.get("name"))
        if name == self._name:
            return
        if values.get("back"):
            self._broker.wake()
            return
        has = [values.get(key) for key in ("classes", "warm", "decoders")]
        patience = values.get("patience")
        # A client can have the broker bring anything here.
        if not all(isinstance(each, list) for each in has) or not isinstance(patience, (int, float)):
            return
        now = time.monotonic()
        self._idle = {other: each for other, each in self._idle.items() if each.told > now - IDLE_SECONDS}
        self._idle[name] = Idle(now, *has, patience)
        if self._ahead is not None and self._ahead.record.memory_class in self._idle[name].classes:
            if self._attempt is not None:
                self._attempt.is_alone = True
            await self._give_back_ahead()

    # -- beside the decode ------------------------------------------------------------------------

    async def _watch(self, attempt: Attempt) -> None:
        """Renew the lease while frames advance, tell how far it is, and see what became of the record."""
        every = self._settings.lease_seconds / 4
        told = renewed = time.monotonic()
        while True:
            await asyncio.sleep(min(every, TELL_SECONDS))
            now = time.monotonic()
            # The first takes longer, since kernels are compiled, and so does the end, where a file may be written anew.
            is_within = 0 < attempt.frames < attempt.total
            patience = self._settings.frame_seconds if is_within else self._settings.first_frame_seconds
            patience *= self._decode.patience
            if attempt.advanced is not None and now - attempt.advanced > patience:
                log.error("%s: no frame for %.0f s, with job %s", self._name, patience, attempt.record.id)
                os._exit(HUNG)  # a GPU that hangs ends no thread; the lease runs out
            if now - told >= TELL_SECONDS:
                told = now
                await self._broker.tell(f"progress.{attempt.record.id}", self._progress(attempt))
            if now - renewed >= every:
                renewed = now
                await attempt.receipt.renew()
                if self._ahead is not None:
                    await self._ahead.receipt.renew()
                with contextlib.suppress(Exception):  # the next time
                    record = await self._broker.record(attempt.record.id)
                    if record is None or record.revision != attempt.record.revision:
                        attempt.stop = "fenced"

    def _progress(self, attempt: Attempt) -> dict:
        return {
            "id": attempt.record.id,
            "attempt": attempt.record.attempt,
            "worker": self._name,
            "frames": attempt.frames,
            "total": attempt.total,
            "seconds_left": attempt.seconds_left,
        }

    async def _tell_state(self, _: dict) -> dict:
        free_mb, all_mb = self._decode.memory_mb()
        return {
            "name": self._name,
            "device": self._decode.name,
            "free_mb": free_mb,
            "all_mb": all_mb,
            "warm": list(self._decode.warm),
            "decoders": list(self._decode.decoders),
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


def _is_full(error: BaseException | None) -> bool:
    """Whether it is of a disk that is full, or came of that."""
    while error is not None:
        if getattr(error, "errno", None) in FULL:
            return True
        error = error.__cause__
    return False


def _larger(memory_class: str) -> str | None:
    names = list(CLASSES)
    return names[names.index(memory_class) + 1] if memory_class != names[-1] else None
