"""What the dead left: ids that never came into the queue, and blobs that belong to nobody; and what is too old or too
much.

What belongs to nobody goes when this process has seen so for long enough, by a clock that is never set: a file may be
about to be named by its record, and a jump of the time of day must not take it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable

from .blobs import AUDIO, KINDS, LATENTS, RESULTS, VAES, Blobs
from .broker import Broker, Fenced, Full
from .messages import (
    CANCELLED,
    CLASSES,
    COMPLETED,
    ENDED,
    FAILED,
    IN_PROGRESS,
    NO_CARD,
    QUEUED,
    WAITS,
    Record,
    is_card_for,
)
from .settings import Settings

# In which workers say what they have.
ANSWER_SECONDS = 0.5
# For which a job may be with nobody: another worker should have it after one.
LEASES = 6
# That deleted records leave, before they are cleared away: it takes a look at all.
MOST_MARKS = 1000
log = logging.getLogger("async-frame-pipeline.farm")


class Sweep:
    """What one process saw of a farm; harmless beside others.

    Args:
        clock: seconds, of any beginning.
    """

    def __init__(self, broker: Broker, blobs: Blobs, settings: Settings, clock: Callable[[], float] = time.monotonic):
        self._broker, self._blobs, self._settings, self._clock = broker, blobs, settings, clock
        self._queued: set[str] = set()
        # In progress, with no worker that says so: since when, by the clock.
        self._nobodys: dict[str, float] = {}
        # Waiting for what no worker has: since when, by the clock.
        self._missing: dict[str, float] = {}
        self._unqueued: set[str] = set()
        # Ended: since when, by the clock.
        self._ended: dict[str, float] = {}
        # Since when, by the clock.
        self._unnamed: dict[str, float] = {}
        self._seen: dict[str, tuple[int, Record]] = {}

    async def once(self) -> None:
        found = await self._broker.each_record(lambda record: record, self._seen)
        records = {record.id: record for record in sorted(found, key=lambda record: record.job.created)}
        workers = []
        if any(record.state not in ENDED for record in records.values()):
            workers = await self._broker.ask_all("workers.ask", ANSWER_SECONDS)
        await self._queue(records)
        await self._queue_again(records, workers)
        if workers:  # where nobody is there, nobody knows
            await self._say_what_is_missing(records, workers)
        await self._forget(records)
        unnamed: dict[str, float] = {}
        await self._sweep_results(records, unnamed)
        await self._sweep_inputs(records, unnamed)
        for kind in KINDS:
            await self._blobs.clear(kind, lambda piece: self._is_old(piece, unnamed))
        self._unnamed = unnamed

    async def _queue(self, records: dict[str, Record]) -> None:
        """Those that are in no queue, for all we know, at the second sight: at the first, clients may be at it."""
        waiting = {record.message_id: record for record in records.values() if record.state == QUEUED}
        self._queued &= waiting.keys()
        unqueued = waiting.keys() - self._queued
        for message_id in unqueued & self._unqueued:
            with contextlib.suppress(Full):
                await self._broker.enqueue(waiting[message_id])  # where it is already, this changes nothing
                self._queued.add(message_id)
        self._unqueued = unqueued

    async def _queue_again(self, records: dict[str, Record], workers: list[dict]) -> None:
        """Those whose worker is gone and whose lease does not end: the broker's clock was set back, or it lost them."""
        begun = {record.message_id: record for record in records.values() if record.state == IN_PROGRESS}
        nobodys, now = {}, self._clock()
        held = {str(each.get("job", {}).get("id")) for each in workers if isinstance(each.get("job"), dict)}
        for message_id, record in begun.items():
            key = f"{message_id}.{record.attempt}"
            if record.id not in held:
                nobodys[key] = self._nobodys.get(key, now)
                if now - nobodys[key] > LEASES * self._settings.lease_seconds:
                    with contextlib.suppress(Fenced, Full):
                        # The old id is acked by who receives it: it is of another round.
                        again = await self._broker.replace(record, state=QUEUED, round=record.round + 1)
                        await self._broker.enqueue(again)
                        log.warning("job %s was in progress, and with nobody: queued again", record.id)
        self._nobodys = nobodys

    async def _say_what_is_missing(self, records: dict[str, Record], workers: list[dict]) -> None:
        """Of those that wait for what no worker has, at the second sight: one may be on its way up. They fail when they
        have waited so until their deadline, or for as long as a video is kept.
        """
        missing, now = {}, self._clock()
        for record in list(records.values()):
            if record.state != QUEUED:
                continue
            changes, reason = {}, _waits_for(record, workers)
            if not reason:
                if record.reason.startswith(WAITS):
                    changes = {"reason": ""}
            else:
                key = record.message_id
                missing[key] = self._missing.get(key, now)
                patience, deadline = self._settings.kept_seconds, record.job.deadline
                if deadline is not None:
                    patience = min(patience, deadline - record.queued)  # both by the client's clock
                if now - missing[key] >= patience:
                    changes = {"state": FAILED, "reason": reason, "ended": time.time()}
                    log.warning("job %s failed: %s", record.id, reason)
                elif key in self._missing and record.reason != reason:
                    changes = {"reason": reason}
            if changes:
                with contextlib.suppress(Fenced):
                    records[record.id] = await self._broker.replace(record, **changes)
        self._missing = missing

    async def _forget(self, records: dict[str, Record]) -> None:
        """Records that ended long ago, and of too many those that were fetched, then the oldest.

        How long ago is by the broker's clock, not by that of who ended it; and this has seen it for a while, lest a
        jump of the broker's own takes it at once.
        """
        now, clock = time.time(), self._clock()
        ended = sorted((each for each in records.values() if each.state in ENDED), key=_keeps)
        self._ended = {each.id: self._ended.get(each.id, clock) for each in ended}
        too_many = len(ended) - self._settings.kept_jobs
        for place, record in enumerate(ended):
            is_old = now - record.stored > self._settings.kept_seconds
            is_seen = clock - self._ended[record.id] > self._settings.orphan_seconds
            if place < too_many or (is_old and is_seen):
                await self._broker.forget(record)
                if record.result is not None:
                    await self._blobs.delete(RESULTS, record.result.name)
                del records[record.id]
        if await self._broker.marks(len(records)) > MOST_MARKS:
            await self._broker.clear_marks()

    async def _sweep_results(self, records: dict[str, Record], unnamed: dict[str, float]) -> None:
        """Those that no record names, and the oldest of those that were fetched, or of all, if they are too many."""
        kept: list[tuple[tuple[bool, float], str, int]] = []
        for name, size, stored in await self._blobs.names(RESULTS):
            job_id = name.partition(".")[0]
            record = records.get(job_id)
            if record is None or record.result is None or record.result.name != name:
                record = await self._broker.record(job_id)  # it may have come since
            if record is not None and record.result is not None and record.result.name == name:
                kept.append((_keeps(record), name, size))
            # A worker may be about to commit it, unless the job has ended without.
            elif (record is not None and record.state in ENDED) or self._is_old(f"{RESULTS}.{name}.{stored}", unnamed):
                await self._blobs.delete(RESULTS, name, stored)
                log.info("swept the video %s, which belongs to no job", name)
        kept.sort()
        too_many = sum(size for *_, size in kept) - self._settings.kept_bytes
        for _, name, size in kept:
            if too_many <= 0:
                break
            await self._blobs.delete(RESULTS, name)
            log.info("swept the video %s: they are more than %d MB", name, self._settings.kept_bytes // 10**6)
            too_many -= size

    async def _sweep_inputs(self, records: dict[str, Record], unnamed: dict[str, float]) -> None:
        """Latents and sound that no job will need again: those of a failed one stay, to be resumed from."""
        needed = set()
        for record in records.values():
            if record.state not in (COMPLETED, CANCELLED):
                needed |= {record.job.latent.sha256, record.job.vae.sha256}
                needed |= {record.job.audio.sha256} if record.job.audio else set()
        now = time.time()
        for kind in (LATENTS, AUDIO, VAES):
            for name, _, stored in await self._blobs.names(kind):
                if name in needed:
                    continue
                is_old = self._is_old(f"{kind}.{name}.{stored}", unnamed)  # from the start where it is asked for
                if is_old and (kind != VAES or now - stored > self._settings.kept_seconds):
                    await self._blobs.delete(kind, name, stored)

    def _is_old(self, what: str, unnamed: dict[str, float]) -> bool:
        """Whether it has belonged to nobody for long enough; notes that it does not now."""
        now = self._clock()
        unnamed[what] = self._unnamed.get(what, now)
        return now - unnamed[what] > self._settings.orphan_seconds


def _waits_for(record: Record, workers: list[dict]) -> str:
    """What none of these workers has that a job needs; "" where one could do it, if it is busy now or not."""
    decoders = [each.get("decoders") for each in workers]
    able = [each for each, has in zip(workers, decoders) if record.job.is_for(has if isinstance(has, list) else ())]
    if not able:
        how = "with --comfyui" if record.job.decoder == "exact" else "without --comfyui"
        return f"{WAITS} a worker that decodes {record.job.decoder}: one that was started {how}"
    if not is_card_for(record.memory_class, able):
        return f"{WAITS} a card of {CLASSES[record.memory_class] // 1000} GB: {NO_CARD}"
    return ""


def _keeps(record: Record) -> tuple[bool, float]:
    """What goes first is the least: what was fetched, then what was stored first, by the broker's clock."""
    return not record.delivered, record.stored or math.inf  # that was read alone has come in this moment


async def keep_sweeping(broker: Broker, blobs: Blobs, settings: Settings, every_seconds: float) -> None:
    """For ever; what fails is tried again the next time."""
    each = Sweep(broker, blobs, settings)
    while True:
        await asyncio.sleep(every_seconds)
        try:
            await each.once()
        except Exception as error:
            log.warning("sweeping: %s: %s", type(error).__name__, error)
