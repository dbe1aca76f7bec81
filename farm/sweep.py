"""What the dead left: ids that never came into the queue, and blobs that belong to nobody."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from .blobs import AUDIO, LATENTS, RESULTS, VAES, Blobs
from .broker import Broker, Full
from .messages import CANCELLED, COMPLETED, ENDED, QUEUED, Record
from .settings import Settings

# Sooner it may be about to be queued by its client.
QUEUED_SECONDS = 5.0
log = logging.getLogger("async-frame-pipeline.farm")


async def sweep(broker: Broker, blobs: Blobs, settings: Settings, seen: set[str] | None = None) -> None:
    """Once; harmless at any time, and by several at once.

    Args:
        seen: message ids that an earlier sweep knows to have come into the queue, which keeps them.
    """
    now, seen = time.time(), set() if seen is None else seen
    records = {record.id: record for record in await broker.records()}
    for record in records.values():
        if record.state == QUEUED and now - record.queued > QUEUED_SECONDS and record.message_id not in seen:
            with contextlib.suppress(Full):
                await broker.enqueue(record)  # where it is already, this changes nothing
                seen.add(record.message_id)
        elif record.state in ENDED and now - record.ended > settings.kept_seconds:
            await broker.forget(record)
            if record.result is not None:
                await blobs.delete(RESULTS, record.result.name)
    await _sweep_results(broker, blobs, settings, now)
    await _sweep_inputs(blobs, settings, records, now)


async def _sweep_results(broker: Broker, blobs: Blobs, settings: Settings, now: float) -> None:
    """Those that no record names, and the oldest of those that were fetched, or of all, if they are too many."""
    kept: list[tuple[bool, float, str, int]] = []
    for name, size, stored in await blobs.names(RESULTS):
        record = await broker.record(name.partition(".")[0])
        if record is not None and record.result is not None and record.result.name == name:
            kept.append((not record.delivered, record.ended, name, size))
            continue
        # A worker may be about to commit it, unless the job has ended without.
        if (record is not None and record.state in ENDED) or now - stored > settings.orphan_seconds:
            await blobs.delete(RESULTS, name)
            log.info("swept the video %s, which belongs to no job", name)
    kept.sort()
    too_many = sum(size for *_, size in kept) - settings.kept_bytes
    for _, _, name, size in kept:
        if too_many <= 0:
            break
        await blobs.delete(RESULTS, name)
        too_many -= size


async def _sweep_inputs(blobs: Blobs, settings: Settings, records: dict[str, Record], now: float) -> None:
    """Latents and sound that no job will need again: those of a failed one stay, to be resumed from."""
    needed = set()
    for record in records.values():
        if record.state not in (COMPLETED, CANCELLED):
            needed |= {record.job.latent.sha256, record.job.vae.sha256}
            needed |= {record.job.audio.sha256} if record.job.audio else set()
    for kind in (LATENTS, AUDIO, VAES):
        after = settings.kept_seconds if kind == VAES else settings.orphan_seconds
        for name, _, stored in await blobs.names(kind):
            if name not in needed and now - stored > after:
                await blobs.delete(kind, name)


async def keep_sweeping(broker: Broker, blobs: Blobs, settings: Settings, every_seconds: float) -> None:
    """For ever; what fails is tried again the next time."""
    seen: set[str] = set()
    while True:
        await asyncio.sleep(every_seconds)
        try:
            await sweep(broker, blobs, settings, seen)
        except Exception as error:
            log.warning("sweeping: %s: %s", type(error).__name__, error)
