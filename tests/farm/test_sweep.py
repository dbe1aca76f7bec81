"""What `farm up` sweeps, from a folder and from the broker alike; and what it leaves."""

import argparse
import dataclasses
import time

import pytest

from ...farm import commands, sweep
from ...farm.broker import STREAM, Full
from ...farm.messages import FAILED, QUEUED
from ...farm.metrics import state_of, text
from ...farm.roles import ADMIN, CLIENT
from ...farm.settings import Settings
from ...farm.sweep import Sweep
from .conftest import in_a_loop
from .ground import ended, until
from .test_kills import in_state

AT_ONCE = Settings(lease_seconds=1.0, orphan_seconds=-1.0)


@pytest.fixture(params=[False, True], ids=["folder", "network"])
def network(request):
    return request.param


async def stored(client, kind: str) -> set[str]:
    return {name for name, *_ in await client._blobs.names(kind)}


async def store(client, kind: str, name: str, data: bytes = b"of an attempt that was killed"):
    path = client._scratch.folder / name
    path.write_bytes(data)
    await client._blobs.put(kind, name, path)


async def done(ground, client, count: int) -> list:
    jobs = [await ground.submit(client, number=n) for n in range(count)]
    worker = ground.worker("a")
    for job in jobs:
        await client.wait(job.id)
    worker.terminate()
    await ended(worker)
    return [await client.broker.record(job.id) for job in jobs]


@in_a_loop
async def test_what_nobody_needs_is_swept_and_what_somebody_may_need_is_not(make_ground, network):
    ground = make_ground(settings=AT_ONCE, network=network)
    await ground.prepare()
    async with ground.client(ADMIN) as client:
        [first] = await done(ground, client, 1)
        cancelled, waits = [await ground.submit(client, number=n) for n in (1, 2)]
        await client.broker.cancel(cancelled.id)
        for name in (f"{first.id}.7", f"{cancelled.id}.1", f"{'a' * 32}.1"):
            await store(client, "results", name)
        await Sweep(client.broker, client._blobs, ground.settings).once()
        assert await stored(client, "latents") == {waits.job.latent.sha256}
        assert await stored(client, "results") == {first.result.name}
        assert await stored(client, "vaes") == {first.job.vae.sha256}
        assert (await client.broker.record(waits.id)).state == QUEUED


@in_a_loop
async def test_videos_that_nobody_fetches_are_bounded(make_ground, network):
    """In bytes: those that were fetched go first, then the oldest."""
    ground = make_ground(network=network)
    await ground.prepare()
    async with ground.client(ADMIN) as client:
        records = await done(ground, client, 4)
        size = records[0].result.bytes
        await ground.whole(client, records[2].id)
        names = [record.result.name for record in records]
        for room, kept in ((4, {0, 1, 2, 3}), (3, {0, 1, 3}), (1, {3})):
            settings = dataclasses.replace(ground.settings, kept_bytes=room * size + 10)
            await Sweep(client.broker, client._blobs, settings).once()
            assert await stored(client, "results") == {names[each] for each in kept}
        if network:
            state = (await client.broker.jetstream.stream_info("OBJ_results")).state
            assert state.bytes < 2 * size, "the pieces go, too"


@in_a_loop
async def test_what_ended_long_ago_is_forgotten_and_so_is_the_oldest_of_too_many(make_ground, network, monkeypatch):
    ground = make_ground(network=network)
    await ground.prepare()
    async with ground.client(ADMIN) as client:
        records = await done(ground, client, 4)
        await ground.whole(client, records[3].id)
        for kept_jobs, kept in ((3, records[:3]), (2, records[1:3])):  # what was fetched goes first
            settings = dataclasses.replace(ground.settings, kept_jobs=kept_jobs)
            await Sweep(client.broker, client._blobs, settings).once()
            assert {record.id for record in await client.broker.records()} == {record.id for record in kept}
            assert await stored(client, "results") == {record.result.name for record in kept}
        # By the broker's clock, and not at once: those of workers may be wrong, and its own may have been set.
        await client.broker.replace(records[1], ended=time.time() - 8 * 86400)
        clock, now = [0.0], time.time
        sweeping = Sweep(client.broker, client._blobs, ground.settings, lambda: clock[0])
        for clock[0], days, kept in ((0.0, 0, 2), (4000.0, 0, 2), (4000.0, 8, 0)):
            monkeypatch.setattr(time, "time", lambda seconds=86400 * days: now() + seconds)
            await sweeping.once()
            assert len(await stored(client, "results")) == len(await client.broker.records()) == kept


@in_a_loop
async def test_marks_of_what_was_refused_are_cleared_and_what_came_since_stays(make_ground, monkeypatch):
    ground = make_ground(settings=Settings(lease_seconds=1.0, cap=1))
    await ground.prepare()
    async with ground.client(ADMIN) as client:
        first = await ground.submit(client)
        for digit in "abc":
            with pytest.raises(Full):
                await ground.submit(client, number=1, job_id=digit * 32)
        await client.broker.cancel(first.id)
        worker = ground.worker("a")
        await ground.nothing_is_left(client)
        assert await client.broker.marks(1) == 3
        again = await ground.submit(client, number=1, job_id="a" * 32)
        await ground.whole(client, again.id)
        purge, came = client.broker.jetstream.purge_stream, []

        async def purge_when_another_came(*arguments):
            if not came:
                came.append(await ground.submit(client, number=1, job_id="b" * 32))
            await purge(*arguments)

        monkeypatch.setattr(client.broker.jetstream, "purge_stream", purge_when_another_came)
        monkeypatch.setattr(sweep, "MOST_MARKS", 0)
        await sweep.Sweep(client.broker, client._blobs, ground.settings).once()
        assert await client.broker.marks(3) == 0 and len(await client.broker.records()) == 3
        await ground.whole(client, came[0].id)
        worker.kill()


@in_a_loop
async def test_pieces_of_what_was_never_named_go_and_those_of_others_stay(make_ground):
    """Of a client that was killed while it sent a file to the broker."""
    ground = make_ground(network=True)
    await ground.prepare()
    async with ground.client(ADMIN) as client:
        job = await ground.submit(client)
        for _ in range(3):
            await client.broker.jetstream.publish(f"$O.vaes.C.{'e' * 32}", b"piece")
        info = client.broker.jetstream.stream_info
        assert (await info("OBJ_vaes")).state.messages == 5
        clock = [0.0]
        sweeping = Sweep(client.broker, client._blobs, ground.settings, lambda: clock[0])
        for clock[0], messages in ((0.0, 5), (3000.0, 5), (4000.0, 2)):
            await sweeping.once()
            assert (await info("OBJ_vaes")).state.messages == messages
        ground.worker("a")
        await ground.whole(client, job.id)


@in_a_loop
async def test_what_is_asked_for_again_is_as_good_as_new(make_ground, network):
    """A client that finds it there is about to queue a job that needs it."""
    ground = make_ground(network=network)
    await ground.prepare()
    async with ground.client(ADMIN) as client:
        [first] = await done(ground, client, 1)
        name, clock = first.job.latent.sha256, [0.0]
        [(_, _, before)] = await client._blobs.names("latents")
        sweeping = Sweep(client.broker, client._blobs, ground.settings, lambda: clock[0])
        await sweeping.once()
        while (await client._blobs.names("latents"))[0][2] == before:  # to the second, in the broker
            assert await client._blobs.has("latents", name)
        await client._blobs.delete("latents", name, before)
        for clock[0], kept in ((4000.0, {name}), (7000.0, {name}), (8000.0, set())):
            await sweeping.once()
            assert await stored(client, "latents") == kept


@in_a_loop
async def test_what_is_stored_again_after_it_was_deleted_is_there(make_ground, network):
    ground = make_ground(settings=AT_ONCE, network=network)
    await ground.prepare()
    async with ground.client(ADMIN) as client:
        [first] = await done(ground, client, 1)
        sweeping = Sweep(client.broker, client._blobs, ground.settings)
        await sweeping.once()
        assert await stored(client, "latents") == set()
        again = await ground.submit(client, number=0)
        await sweeping.once()
        assert await stored(client, "latents") == {first.job.latent.sha256}
        ground.worker("b")
        await ground.whole(client, again.id)


@in_a_loop
async def test_a_job_says_that_no_worker_has_a_card_that_large_and_fails_in_the_end(ground):
    await ground.prepare()
    async with ground.client(ADMIN) as client:
        fits = await ground.submit(client)
        waits = await ground.submit(client, number=1, need_mb=20_000)
        soon = await ground.submit(client, number=2, need_mb=20_000, deadline=time.time() + 50)
        clock, cards = [0.0], []
        sweep = Sweep(client.broker, client._blobs, ground.settings, lambda: clock[0])

        async def answer(_: dict) -> dict | None:
            return {"name": "w", "all_mb": cards[0], "free_mb": 0, "job": None} if cards else None

        async def after_a_sweep(job, now: float = 0.0) -> tuple[str, str]:
            clock[0] = now
            await sweep.once()
            record = await client.broker.record(job.id)
            return record.state, record.reason

        said = "it waits for a card of 32 GB: no worker has a card that large"
        await client.broker.hear("workers.ask", answer)
        await after_a_sweep(waits)
        assert await after_a_sweep(waits) == (QUEUED, ""), "nobody is there, which says nothing of cards"
        cards[:] = [12_000]
        assert await after_a_sweep(waits) == (QUEUED, ""), "its worker may be about to come back"
        assert await after_a_sweep(waits) == (QUEUED, said)
        assert await after_a_sweep(soon) == (QUEUED, said) and await after_a_sweep(fits) == (QUEUED, "")
        assert await after_a_sweep(soon, 60.0) == (FAILED, said) and await after_a_sweep(waits, 60.0) == (QUEUED, said)
        [told] = [line for line in text(await state_of(client.broker)).splitlines() if line.startswith("waiting")]
        assert told.count("no worker has a card that large") == 1 and told.endswith("large)")
        cards[:] = [40_000]
        assert await after_a_sweep(waits) == (QUEUED, "")
        cards[:] = [12_000]
        for now in (100.0, 200.0, 200.0 + ground.settings.kept_seconds):
            state, _ = await after_a_sweep(waits, now)
        assert state == FAILED and await after_a_sweep(fits) == (QUEUED, "")
        assert waits.job.latent.sha256 in await stored(client, "latents"), "to resume from"


@in_a_loop
async def test_a_job_says_that_no_worker_has_its_decoder_until_one_has(ground, capsys):
    """Also one that is busy, or has too small a card: what is missing is another thing then, or nothing."""
    await ground.prepare()
    async with ground.client(ADMIN) as client:
        job = await ground.submit(client, family="LTX", need_mb=20_000)
        workers = [{"name": "w", "all_mb": 40_000, "decoders": ["fast"]}]
        sweep = Sweep(client.broker, client._blobs, ground.settings)

        async def after_two_sweeps() -> str:
            for _ in range(2):
                await sweep.once()
            await commands.jobs(argparse.Namespace(server=ground.given(CLIENT), json=False))
            return capsys.readouterr().out.splitlines()[1].partition("it waits for ")[2]

        for each in range(3):
            await client.broker.hear("workers.ask", lambda _, each=each: answered(workers, each))
        assert await after_two_sweeps() == "a worker that decodes exact: one that was started with --comfyui"
        workers.append({"name": "small", "all_mb": 12_000, "decoders": ["exact"], "job": {"id": "0" * 32}})
        assert await after_two_sweeps() == "a card of 32 GB: no worker has a card that large"
        workers.append({"name": "large", "all_mb": 40_000, "decoders": ["exact"], "job": {"id": "0" * 32}})
        assert await after_two_sweeps() == ""
        del workers[1:]
        assert await after_two_sweeps() != ""
        # One whose card it did not fit is named, and not why.
        record = await client.broker.record(job.id)
        await client.broker.replace(record, state="in_progress", worker="large", reason="OutOfMemory: it does not fit")
        await commands.jobs(argparse.Namespace(server=ground.given(CLIENT), json=False))
        assert capsys.readouterr().out.splitlines()[1].endswith(" large")


async def answered(workers: list[dict], number: int) -> dict | None:
    return workers[number] if number < len(workers) else None


@in_a_loop
async def test_where_who_can_do_it_is_busy_it_waits_for_nothing_else(ground):
    await ground.prepare()
    async with ground.client(ADMIN) as client:
        ground.worker("exact", "--decoders", "exact")
        busy = await ground.submit(client, "endless", family="LTX")
        await until(lambda: in_state(client, busy.id, "in_progress"))
        ground.worker("fast")
        waits = await ground.submit(client, number=1, family="LTX")

        async def came_to_the_other_often() -> bool:
            return (await client.broker.jetstream.consumer_info(STREAM, "s-std")).delivered.consumer_seq > 5

        await until(came_to_the_other_often)
        record = await client.broker.record(waits.id)
        assert (record.state, record.reason) == (QUEUED, "")


@in_a_loop
async def test_what_it_waited_for_is_no_reason_once_it_is_begun(ground):
    await ground.prepare()
    async with ground.client(ADMIN) as client:
        job = await ground.submit(client, "endless")
        await client.broker.replace(job, reason="it waits for a card of 4 GB: no worker has a card that large")
        ground.worker("a")

        async def is_begun() -> bool:
            record = await client.broker.record(job.id)
            assert record.state == QUEUED or record.reason == ""
            return record.state != QUEUED

        await until(is_begun)
