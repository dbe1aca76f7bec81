"""The kill matrix: whoever dies, whenever: one result, whole, no twin, nothing left behind, nothing lost.

Each cell, and where it is; `more` is test_more_kills.py, `jobs` test_jobs.py. How long a lease lasts is for the farm to
say, so times are in leases, and a lease is short here.

    worker killed (-9)        received, claimed, fetched (loading the VAE), decoding,  test_a_worker_is_killed
                              encoded, stored, committed, acked
    worker stopped, goes on   each of them                       test_a_worker_is_stopped_past_its_lease_and_goes_on
                              and the newer attempt is killed next   test_a_fenced_attempt_leaves_the_job_to_...
    worker hangs              in mid-decode                          test_a_worker_that_hangs_loses_its_job
    worker told to stop       in mid-decode                          test_a_worker_that_is_told_to_stop_...
    server killed             idle, queued, in flight                test_the_server_is_killed
                              between the record and the queue       more: test_the_server_is_killed_between_...
    client killed             uploading, before the queue,           more: test_a_client_is_killed_and_comes_back,
                              downloading; folder and network
                              before the queue, and it never comes   test_a_client_dies_between_...
    supervisor killed         a job waits, a worker is being started test_up.py: test_up_killed_up_again_and_down
    whole machine killed      stored, decoding, queued               more: test_the_whole_machine_is_killed
    network cut               0.3 leases and 2.5 (5 and 30 s of 10)  test_the_network_is_cut
                              of a client that waits                 more: test_the_network_of_a_client_is_cut_...
    poison                    kills its worker                       test_poison_fails_after_three_workers_...
                              out of memory, here and everywhere     jobs: test_out_of_memory_goes_to_a_larger_card,
                                                                     more: test_what_no_card_can_hold_...
                              wrong hash, wrong size, gone           jobs: test_data_that_are_not_what_...
                              wrong shape, NaN, truncated, forged    test_decode.py, test_hostile.py
    GPU in a bad state                                               test_a_worker_whose_decoder_fails_ends_...
    disk full                 a worker's, as its decoder sees it     test_a_worker_whose_disk_is_full_...
                              the farm's folder; files too large     more: test_the_folder_of_a_farm_is_full,
                                                                     test_files_may_not_become_that_large
                              the server's store; its whole disk     more: test_the_servers_store_is_full,
                                                                     test_the_servers_disk_is_filled_by_somebody_else
                              the client's                           more: test_the_clients_own_disk_is_full
    clock set                 of who sweeps, of a worker: a day      more: test_the_clock_of_the_sweep_is_set,
                              ahead and back                         test_the_clock_of_a_worker_is_wrong
                              of the server, by what it leads to:    more: test_the_clock_of_the_server_is_set_ahead_,
                              two ids, leases that do not end        ..._is_set_back_...
    memory 95 % used          one takes nothing, another does        jobs: test_a_card_that_is_full_takes_nothing_...
    pro among others                                                 jobs: test_pro_starts_in_the_next_free_slot
    cancelled                 queued, under way                      jobs: test_cancelled_before_..., ..._under_way_...
    all at random             20 seeds                               test_chaos
"""

import asyncio
import contextlib
import dataclasses
import random
import signal
import time

import pytest

from ...farm.messages import Job, Record
from ...farm.settings import Settings
from ...farm.sweep import Sweep
from ...farm.worker import BROKEN, HUNG
from .conftest import in_a_loop
from .ground import ended, stopped, until

MOMENTS = ("received", "claimed", "fetched", "decoding", "encoded", "stored", "committed", "acked")


async def each_on_its_own_ground(make_ground, test, cells):
    """At the same time, since most of it is waiting for leases to end."""
    grounds = [make_ground() for _ in cells]
    ended_how = await asyncio.gather(*map(test, grounds, cells), return_exceptions=True)
    for cell, error in zip(cells, ended_how):
        if error is not None:
            raise AssertionError(f"{cell}: {error!r}") from error


@pytest.mark.parametrize("moments", [MOMENTS[:4], MOMENTS[4:]], ids=" ".join)
@in_a_loop
async def test_a_worker_is_killed(make_ground, moments):
    await each_on_its_own_ground(make_ground, a_worker_is_killed, moments)


async def a_worker_is_killed(ground, moment):
    await ground.prepare()
    async with ground.client() as client:
        job = await ground.submit(client)
        assert await ended(ground.worker("a", "--at", moment, "--do", "kill")) == -signal.SIGKILL
        ground.worker("b")
        record = await ground.whole(client, job.id)
        assert record.attempt == (1 if moment in ("received", "committed", "acked") else 2)
        assert record.worker == ("a" if moment in ("committed", "acked") else "b")
        await ground.nothing_is_left(client)


@pytest.mark.parametrize("moments", [MOMENTS[:4], MOMENTS[4:]], ids=" ".join)
@in_a_loop
async def test_a_worker_is_stopped_past_its_lease_and_goes_on(make_ground, moments):
    await each_on_its_own_ground(make_ground, a_worker_is_stopped, moments)


async def a_worker_is_stopped(ground, moment):
    await ground.prepare()
    async with ground.client() as client:
        job = await ground.submit(client)
        stale = ground.worker("a", "--at", moment, "--do", "stop")
        await stopped(stale)
        ground.worker("b")
        before = await ground.whole(client, job.id)
        stale.send_signal(signal.SIGCONT)
        stale.terminate()  # it ends when it is done with what it thinks it has
        assert await ended(stale) == 0
        after = await client.broker.record(job.id)
        assert (after.state, after.result, after.attempt) == ("completed", before.result, before.attempt)
        await ground.whole(client, job.id)
        await ground.nothing_is_left(client)


@in_a_loop
async def test_a_fenced_attempt_leaves_the_job_to_the_newer_one_that_is_killed_next(ground):
    """R1: had the stale one acked, nobody would have the job."""
    await ground.prepare()
    async with ground.client() as client:
        job = await ground.submit(client)
        stale = ground.worker("a", "--at", "encoded", "--do", "stop")
        await stopped(stale)
        # It keeps its lease for as long as this takes.
        newer = ground.worker("b", "--endless")
        await until(lambda: has(client, job.id, "b"))
        stale.send_signal(signal.SIGCONT)
        stale.terminate()
        assert await ended(stale) == 0
        assert await has(client, job.id, "b")
        newer.kill()
        ground.worker("c")
        assert (await ground.whole(client, job.id)).worker == "c"
        await ground.nothing_is_left(client)


@in_a_loop
async def test_a_fenced_attempt_of_a_job_that_was_deleted_and_came_again_touches_nothing_of_the_new_one(ground):
    """Cancelled, deleted and submitted again under the same id, with other latents, before its worker saw any of it."""
    await ground.prepare()
    async with ground.client() as client:
        job = await ground.submit(client)
        stale = ground.worker("a", "--at", "stored", "--do", "stop")
        await stopped(stale)
        await client.broker.forget(await client.broker.cancel(job.id))
        await ground.submit(client, number=1, job_id=job.id)
        ground.worker("b")
        record = await ground.whole(client, job.id)
        stale.send_signal(signal.SIGCONT)
        stale.terminate()
        assert await ended(stale) == 0
        assert await ground.whole(client, job.id) == await client.broker.record(job.id)
        assert (record.worker, record.attempt) == ("b", 1)
        await ground.nothing_is_left(client)


@in_a_loop
async def test_a_worker_that_hangs_loses_its_job(ground):
    await ground.prepare()
    async with ground.client() as client:
        job = await ground.submit(client)
        assert await ended(ground.worker("a", "--hang")) == HUNG
        ground.worker("b")
        assert (await ground.whole(client, job.id)).worker == "b"
        await ground.nothing_is_left(client)


@pytest.mark.parametrize(
    "arguments, what", [(["--carry", 1.3], "video"), (["--patience", 60], "slow")], ids=["files", "a CPU"]
)
@in_a_loop
async def test_a_worker_that_is_only_slow_does_not_hang(make_ground, arguments, what):
    """Files come and go as slowly as they like, and who is slower by nature has longer for each frame."""
    patience = 1.0 if what == "video" else 0.3
    settings = Settings(lease_seconds=1.0, first_frame_seconds=patience, frame_seconds=patience)
    ground = make_ground(settings=settings)
    await ground.prepare()
    async with ground.client() as client:
        job = await ground.submit(client, what)
        worker = ground.worker("a", *arguments)

        async def is_over():
            return worker.poll() is not None or await in_state(client, job.id, "completed")

        await until(is_over)
        assert worker.poll() is None
        assert (await ground.whole(client, job.id)).attempt == 1
        await ground.nothing_is_left(client)


@in_a_loop
async def test_a_worker_that_is_told_to_stop_gives_its_job_back_uncounted(ground):
    await ground.prepare()
    async with ground.client() as client:
        job = await ground.submit(client, "endless")
        first = ground.worker("a")
        await until(lambda: in_state(client, job.id, "in_progress"))
        first.terminate()
        assert await ended(first) == 0
        record = await client.broker.record(job.id)
        assert (record.state, record.attempt, record.tries) == ("queued", 1, 0)
        second = ground.worker("b")  # at once, with no lease to wait for
        await until(lambda: in_state(client, job.id, "in_progress"))
        await client.broker.cancel(job.id)
        await ground.nothing_is_left(client)
        assert second.poll() is None


@in_a_loop
async def test_the_server_is_killed(make_ground):
    await each_on_its_own_ground(make_ground, the_server_is_killed, ["idle", "queued", "in flight"])


async def the_server_is_killed(ground, when):
    await ground.prepare()
    async with ground.client() as client:
        if when == "idle":
            ground.worker("a")
            await until(lambda: works(client))
            ground.kill_server()
            ground.server.start()
        jobs = [await ground.submit(client, "slow" if n == 0 and when == "in flight" else "video", n) for n in range(2)]
        if when == "queued":
            ground.kill_server()
            ground.server.start()
            ground.worker("a")
        elif when == "in flight":
            ground.worker("a")
            await until(lambda: in_state(client, jobs[0].id, "in_progress"))
            ground.kill_server()
            ground.server.start()
        for job in jobs:
            await ground.whole(client, job.id)
        await ground.nothing_is_left(client)


@in_a_loop
async def test_the_network_is_cut(make_ground):
    """For less than a lease, and for more."""
    await each_on_its_own_ground(make_ground, the_network_is_cut, [0.3, 2.5])


async def the_network_is_cut(ground, seconds):
    await ground.prepare()
    async with ground.client() as client, Proxy(ground.server.listen.port) as proxy:
        job = await ground.submit(client, "slow")
        ground.worker("far", port=proxy.port)
        await until(lambda: in_state(client, job.id, "in_progress"))
        proxy.cut()
        if seconds > ground.settings.lease_seconds:
            ground.worker("near")
        await asyncio.sleep(seconds)
        await proxy.mend()
        await ground.whole(client, job.id)
        other = await ground.submit(client, number=1)
        await ground.whole(client, other.id)
        await ground.nothing_is_left(client)


class Proxy:
    """Stands between a worker and the server."""

    def __init__(self, port: int):
        self._to, self.port, self._writers, self._server = port, 0, set(), None

    async def __aenter__(self):
        await self.mend()
        return self

    async def __aexit__(self, *_):
        self.cut()

    async def mend(self):
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self):
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _carry(self, reader, writer):
        try:
            there, to = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, to}
        await asyncio.gather(self._copy(reader, to), self._copy(there, writer))

    async def _copy(self, reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()


@pytest.mark.parametrize("who", ["its client", "the sweep"])
@in_a_loop
async def test_a_client_dies_between_the_record_and_the_queue(ground, who):
    await ground.prepare()
    async with ground.client() as client:
        dead = await ground.submit(client, number=1)  # stores what is needed; this one is another job
        await client.broker.cancel(dead.id)
        job = Record(Job.of({**dataclasses.asdict(dead.job), "id": "f" * 32}), queued=time.time())
        await (await client.broker._bucket("jobs")).create(job.id, job.to_json())
        ground.worker("a")
        if who == "its client":
            await client.broker.submit(job.job)
        else:
            sweep = Sweep(client.broker, client._blobs, ground.settings)
            for _ in range(3):
                await sweep.once()
        record = await ground.whole(client, job.id)
        assert record.attempt == 1
        await ground.nothing_is_left(client)


@in_a_loop
async def test_poison_fails_after_three_workers_and_the_queue_goes_on(ground):
    await ground.prepare()
    async with ground.client() as client:
        poison = await ground.submit(client, "poison")
        good = await ground.submit(client, number=1)
        for name in "abc":
            worker = ground.worker(name)
            assert await ended(worker) == -signal.SIGKILL
        ground.worker("d")
        await ground.whole(client, good.id)
        await until(lambda: in_state(client, poison.id, "failed"))
        record = await client.broker.record(poison.id)
        assert record.attempt == 3 and "3 workers" in record.reason and record.worker == "c"
        kept = await client.latent(poison.id, ground.folder / "kept.latent")
        assert kept.read_bytes() == (ground.folder / "0.latent").read_bytes()
        await ground.nothing_is_left(client)


@in_a_loop
async def test_a_worker_whose_decoder_fails_ends_and_costs_no_other_job_a_try(ground):
    """A GPU in a bad state would fail them all, one after another."""
    await ground.prepare()
    async with ground.client() as client:
        bad, good = await ground.submit(client, "bad"), await ground.submit(client, number=1)
        assert await ended(ground.worker("a")) == BROKEN
        record = await client.broker.record(bad.id)
        assert (record.state, record.tries) == ("queued", 1) and "illegal memory access" in record.reason
        for name in "bcd":
            ground.worker(name)
        assert (await ground.whole(client, good.id)).attempt == 1
        await until(lambda: in_state(client, bad.id, "failed"))
        assert (await client.broker.record(bad.id)).tries == 3
        await ground.nothing_is_left(client)


@in_a_loop
async def test_a_worker_whose_disk_is_full_fails_no_job(ground):
    await ground.prepare()
    async with ground.client() as client:
        jobs = [await ground.submit(client, number=n) for n in range(3)]
        worker = ground.worker("a", "--full")
        await until(lambda: was_tried_four_times(client, jobs[0].id))
        records = [await client.broker.record(job.id) for job in jobs]
        assert all(each.state in ("queued", "in_progress") and each.tries <= 1 for each in records)
        assert "no space is left" in records[0].reason
        worker.terminate()
        assert await ended(worker) == 0
        ground.worker("b")
        for job in jobs:
            await ground.whole(client, job.id)
        await ground.nothing_is_left(client)


async def was_tried_four_times(client, job_id: str) -> bool:
    record = await client.broker.record(job_id)
    return record.attempt > 3 or record.state == "failed"


@pytest.mark.parametrize("seeds", [range(10), range(10, 20)], ids=str)
@in_a_loop
async def test_chaos(make_ground, seeds):
    """Workers and the server are killed at random while jobs are done."""
    settings = Settings(lease_seconds=1.0, most_tries=100)
    await each_on_its_own_ground(lambda: make_ground(settings=settings), chaos, seeds)


async def chaos(ground, seed):
    await ground.prepare()
    chance, log = random.Random(seed), ground.folder / "commits"
    workers, kills = {}, 0
    async with ground.client() as client:
        jobs = [await ground.submit(client, number=n, priority=chance.choice(["pro", "std"])) for n in range(20)]
        for turn in range(16):
            for name in "abc":
                if name not in workers or workers[name].poll() is not None:
                    workers[name] = ground.worker(name, "--log", log)
            await asyncio.sleep(chance.uniform(0.1, 0.5))
            victim = workers[chance.choice("abc")]
            kills += victim.poll() is None
            victim.kill()
            if turn == 8:
                ground.kill_server()
                ground.server.start()
        ground.worker("d", "--log", log)
        for job in jobs:
            await ground.whole(client, job.id)
        await ground.nothing_is_left(client)
        assert kills > 8
    commits = log.read_text().split()
    assert len(commits) == len(set(commits)), "a job was committed twice"


async def has(client, job_id: str, worker: str) -> bool:
    return (await client.broker.record(job_id)).worker == worker


async def in_state(client, job_id: str, state: str) -> bool:
    return (await client.broker.record(job_id)).state == state


async def works(client) -> bool:
    return bool(await client.broker.ask_all("workers.ask", 0.1))
