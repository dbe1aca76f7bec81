"""The job that a worker leases while it decodes another: sooner begun, and otherwise as if it were in the queue."""

import signal

from ...farm.broker import Broker
from ...farm.settings import Settings
from .conftest import in_a_loop
from .ground import PATIENCE_SECONDS, ended, stopped, until
from .test_kills import in_state


@in_a_loop
async def test_a_worker_is_killed_with_a_job_ahead(ground):
    """Neither is lost, and nothing counts against the one that was not begun."""
    await ground.prepare()
    async with ground.client() as client:
        jobs = [await ground.submit(client, "brief", n) for n in range(2)]
        assert await ended(ground.worker("a", "--at", "ahead", "--do", "kill")) == -signal.SIGKILL
        ground.worker("b")
        records = [await ground.whole(client, job.id) for job in jobs]
        assert [(each.attempt, each.worker) for each in records] == [(2, "b"), (1, "b")]
        await ground.nothing_is_left(client)


@in_a_loop
async def test_a_worker_is_stopped_past_its_lease_with_a_job_ahead_and_goes_on(ground):
    """What was ahead is somebody else's by then: it is neither begun again nor acked."""
    await ground.prepare()
    async with ground.client() as client:
        jobs = [await ground.submit(client, "endless", n) for n in range(2)]
        stale = ground.worker("a", "--at", "ahead", "--do", "stop")
        await stopped(stale)
        ground.worker("b")
        ground.worker("c")
        await until(lambda: are_done_by(client, jobs, {"b", "c"}))
        stale.send_signal(signal.SIGCONT)
        await ground.idle("a")
        assert await are_done_by(client, jobs, {"b", "c"})
        for job in jobs:
            await client.broker.cancel(job.id)
        await ground.nothing_is_left(client)


@in_a_loop
async def test_told_to_stop_it_gives_back_what_is_ahead(make_ground):
    ground = make_ground(settings=Settings(lease_seconds=2 * PATIENCE_SECONDS))
    await ground.prepare()
    async with ground.client() as client:
        jobs = [await ground.submit(client, "endless"), await ground.submit(client, number=1)]
        first = ground.worker("a", "--at", "ahead", "--do", "term")
        assert await ended(first) == 0
        records = [await client.broker.record(job.id) for job in jobs]
        assert [(each.state, each.attempt, each.tries) for each in records] == [("queued", 1, 0), ("queued", 0, 0)]
        await client.broker.cancel(jobs[0].id)
        ground.worker("b")  # at once, with no lease to wait for
        await ground.whole(client, jobs[1].id)
        await ground.nothing_is_left(client)


@in_a_loop
async def test_pro_comes_before_what_is_ahead(ground):
    await ground.prepare()
    async with ground.client() as client:
        first, waits = [await ground.submit(client, "brief", n) for n in range(2)]
        worker = ground.worker("a", "--at", "ahead", "--do", "stop")
        await stopped(worker)
        pro = await ground.submit(client, number=2, priority="pro")
        worker.send_signal(signal.SIGCONT)
        started = [(await ground.whole(client, job.id)).started for job in (first, pro, waits)]
        assert started == sorted(started)
        assert (await client.broker.record(waits.id)).attempt == 1
        await ground.nothing_is_left(client)


@in_a_loop
async def test_who_has_nothing_to_do_gets_what_is_ahead_of_somebody_else(ground):
    await ground.prepare()
    async with ground.client() as client:
        endless = await ground.submit(client, "endless")
        waits = await ground.submit(client, number=1)
        worker = ground.worker("a", "--at", "ahead", "--do", "stop")
        await stopped(worker)
        worker.send_signal(signal.SIGCONT)
        ground.worker("b")
        assert (await ground.whole(client, waits.id)).worker == "b"
        await client.broker.cancel(endless.id)
        await ground.nothing_is_left(client)


@in_a_loop
async def test_what_is_ahead_and_was_cancelled_is_never_begun(ground):
    await ground.prepare()
    async with ground.client() as client:
        first, waits = [await ground.submit(client, "brief", n) for n in range(2)]
        worker = ground.worker("a", "--at", "ahead", "--do", "stop")
        await stopped(worker)
        await client.broker.cancel(waits.id)
        worker.send_signal(signal.SIGCONT)
        await ground.whole(client, first.id)
        await ground.nothing_is_left(client)
        record = await client.broker.record(waits.id)
        assert (record.state, record.attempt) == ("cancelled", 0)


@in_a_loop
async def test_what_kills_when_it_is_made_ready_is_begun_when_it_was_leased_too_often(make_ground):
    """Only then does it count, and end. Otherwise it would cost every other job an attempt."""
    ground = make_ground(settings=Settings(lease_seconds=1.0, most_tries=1))
    await ground.prepare()
    async with ground.client() as client:
        trap = await ground.submit(client, "trap")
        async with Broker.connect(ground.address) as other:
            await (await other.next([trap.memory_class], 5.0)).give_back()
        first = await ground.submit(client, "brief", 1, priority="pro")
        assert await ended(ground.worker("a")) == -signal.SIGKILL
        assert (await client.broker.record(first.id)).state == "completed"
        ground.worker("b")
        await until(lambda: in_state(client, trap.id, "failed"))
        await ground.nothing_is_left(client)


@in_a_loop
async def test_damaged_data_ahead_fail_when_it_is_their_turn(ground):
    await ground.prepare()
    async with ground.client() as client:
        first, damaged = await ground.submit(client, "brief"), await ground.submit(client, number=1)
        path = ground.files / "latents" / damaged.job.latent.sha256
        path.write_bytes(path.read_bytes()[:-1] + b"!")
        ground.worker("a")
        await ground.whole(client, first.id)
        await until(lambda: in_state(client, damaged.id, "failed"))
        record = await client.broker.record(damaged.id)
        assert "SHA-256" in record.reason and record.attempt == 1
        await ground.nothing_is_left(client)


async def are_done_by(client, jobs, workers: set) -> bool:
    return {(await client.broker.record(job.id)).worker for job in jobs} == workers
