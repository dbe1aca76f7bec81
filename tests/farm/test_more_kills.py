"""More of the kill matrix: clients, whole machines, full disks, clocks that are set."""

import asyncio
import contextlib
import dataclasses
import json
import resource
import signal
import time

import pytest

from ...farm import broker, supervisor
from ...farm.blobs import KINDS
from ...farm.broker import Full
from ...farm.client import JobFailed, farm
from ...farm.messages import job_id
from ...farm.roles import ADMIN, CLIENT
from ...farm.settings import NoFarm, Settings
from ...farm.sweep import Sweep
from ..small_disk import small_disk
from .conftest import in_a_loop
from .ground import ended, stopped, until
from .test_kills import Proxy, in_state

DAY, MEGABYTE = 86400.0, 1 << 20


@pytest.mark.parametrize("network", [False, True], ids=["folder", "network"])
@pytest.mark.parametrize("moment", ["upload", "submit", "download"])
@in_a_loop
async def test_a_client_is_killed_and_comes_back(make_ground, moment, network):
    """Its own next run of the same node finds the job, or makes it; the file is there once, and whole."""
    ground = make_ground(network=network)
    await ground.prepare()
    ground.worker("a")
    wanted = job_id("prompt", "7")
    assert await ended(ground.killed_client(wanted, moment)) == -signal.SIGKILL
    assert not (ground.folder / f"{wanted}.mp4").exists()
    async with ground.client() as client:
        before = await client.broker.record(wanted)
        assert (before is None) == (moment == "upload")
        job = await ground.submit(client, job_id=wanted)
        assert (await ground.whole(client, job.id)).attempt == 1
        await ground.nothing_is_left(client)


@in_a_loop
async def test_the_server_is_killed_between_the_record_and_the_queue(ground):
    await ground.prepare()
    async with ground.client() as client:
        enqueue = client.broker.enqueue

        async def killed_first(record):
            client.broker.enqueue = enqueue
            ground.kill_server()
            ground.server.start()
            await enqueue(record)

        client.broker.enqueue = killed_first
        job = await ground.submit(client)
        ground.worker("a")
        assert (await ground.whole(client, job.id)).attempt == 1
        await ground.nothing_is_left(client)


@in_a_loop
async def test_the_whole_machine_is_killed(ground):
    """What was acknowledged is there when it is up again, whatever was under way."""
    await ground.prepare()
    workers = [
        ground.worker("a", "--at", "stored", "--do", "stop"),
        ground.worker("b", "--at", "decoding", "--do", "stop"),
    ]
    async with ground.client() as client:
        jobs = [await ground.submit(client, number=number) for number in range(4)]
        for each in workers:
            await stopped(each)
    ground.kill_server()
    for each in workers:
        each.kill()
        await ended(each)
    ground.server.start()
    ground.worker("c")
    async with ground.client() as client:
        for job in jobs:
            await ground.whole(client, job.id)
        await ground.nothing_is_left(client)


@pytest.mark.parametrize("moment, how", [("committed", "deaf"), ("stored", "mute")])
@in_a_loop
async def test_a_worker_hears_no_answer_to_its_commit_or_ack(ground, moment, how):
    """The video that the record names stays, whatever the worker thinks of it."""
    await ground.prepare()
    async with ground.client() as client:
        job = await ground.submit(client)
        ground.worker("a", "--at", moment, "--do", how)
        await until(lambda: in_state(client, job.id, "completed"))
        await ground.idle("a")
        ground.worker("b")
        record = await ground.whole(client, job.id)
        assert (record.worker, record.attempt) == ("a", 1)
        await ground.nothing_is_left(client)


@in_a_loop
async def test_the_network_of_a_client_is_cut_while_it_waits(ground):
    await ground.prepare()
    async with Proxy(ground.server.listen.port) as proxy, farm(ground.given(CLIENT, proxy.port)) as far:
        job = await ground.submit(far)
        waiting = asyncio.ensure_future(far.wait(job.id))
        await far.broker.settings()  # the watch has begun
        proxy.cut()
        async with ground.client() as near:
            ground.worker("a")
            await ground.whole(near, job.id)
        await proxy.mend()
        assert (await waiting).state == "completed"
        await ground.whole(far, job.id)
        await ground.nothing_is_left(far)


@in_a_loop
async def test_what_no_card_can_hold_fails_after_three_attempts(ground):
    await ground.prepare()
    async with ground.client() as client:
        job = await ground.submit(client, "huge", need_mb=20_000)
        ground.worker("a")
        with pytest.raises(JobFailed, match="does not fit"):
            await client.wait(job.id)
        assert (await client.broker.record(job.id)).attempt == 3
        await ground.nothing_is_left(client)


# -- full disks ------------------------------------------------------------------------------------


def fill(folder):
    """Take what is left of a disk; the file that did."""
    path = folder / "filler"
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(65536)):
            pass
    return path


@in_a_loop
async def test_the_folder_of_a_farm_is_full(ground):
    with small_disk(ground.files, MEGABYTE):
        await ground.prepare()
        async with ground.client() as client:
            job = await ground.submit(client)
            filler = fill(ground.files)
            with pytest.raises(OSError, match="No space left"):
                await ground.submit(client, number=1, job_id="e" * 32)
            assert await client.broker.record("e" * 32) is None
            ground.worker("a")
            await until(lambda: has_no_space(client, job.id))
            filler.unlink()
            await ground.whole(client, job.id)
            await ground.whole(client, (await ground.submit(client, number=1, job_id="e" * 32)).id)
            await ground.nothing_is_left(client)


async def has_no_space(client, job_id: str) -> bool:
    record = await client.broker.record(job_id)
    return record.attempt > 3 and "No space left" in record.reason and record.state != "failed"


@in_a_loop
async def test_files_may_not_become_that_large(ground):
    """The same where nothing can be mounted."""
    await ground.prepare()
    async with ground.client() as client:
        worker = ground.worker("a")
        resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
        job = await ground.submit(client)
        with pytest.raises(JobFailed, match="File too large"):
            await client.wait(job.id)
        resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await client.broker.retry(job.id)
        await ground.whole(client, job.id)
        await ground.nothing_is_left(client)


@in_a_loop
async def test_the_clients_own_disk_is_full(ground, tmp_path):
    await ground.prepare()
    async with ground.client() as client:
        ground.worker("a")
        job = await ground.submit(client)
        await client.wait(job.id)
        with small_disk(tmp_path / "small", MEGABYTE):
            fill(tmp_path / "small")
            with pytest.raises(OSError, match="No space left"):
                await client.fetch(job.id, tmp_path / "small" / "a.mp4")
            assert [path.name for path in (tmp_path / "small").iterdir()] == ["filler"]
            assert not (await client.broker.record(job.id)).delivered
        await ground.whole(client, job.id)


@in_a_loop
async def test_the_servers_store_is_full(make_ground):
    """Who submits is told so at once, what waits goes on when there is room."""
    ground = make_ground(network=True)
    ground.server.stop()
    with small_disk(ground.folder / "server" / "jetstream", 16 * MEGABYTE):
        ground.server.start()
        await ground.prepare()
        async with ground.client(ADMIN) as client:
            job = await ground.submit(client)
            ground.vae.write_bytes(bytes(20 << 20))
            with pytest.raises(Full, match="insufficient"):
                await ground.submit(client, number=1)
            ground.worker("a")
            await until(lambda: in_state(client, job.id, "queued"))
            await client._blobs.clear("vaes", lambda piece: True)
            await ground.whole(client, job.id)
        ground.server.stop()


@in_a_loop
async def test_the_servers_disk_is_filled_by_somebody_else(make_ground, monkeypatch):
    """Its streams then take nothing any more, whatever room there is; what `farm up` keeps is started again."""
    ground = make_ground(network=True)
    ground.server.stop()
    folder = ground.folder / "server" / "jetstream"
    with small_disk(folder, 16 * MEGABYTE):
        ground.server.start()
        await ground.prepare()
        async with ground.client() as client, ground.client(ADMIN) as admin:
            job = await ground.submit(client)
            filler = fill(folder)
            with monkeypatch.context() as patched:
                patched.setattr(broker, "PATIENCE_SECONDS", 0.1)
                with pytest.raises(NoFarm, match="did not answer"):
                    for number in range(1, 20):
                        await ground.submit(client, number=number)
            filler.unlink()
            stopping = asyncio.Event()
            keeping = asyncio.gather(supervisor.keep([supervisor.KeptServer(ground.server)], stopping))
            probing = asyncio.ensure_future(supervisor.keep_probing(admin.broker, ground.server, KINDS, 0.05))
            ground.worker("a")
            await ground.whole(client, job.id)
            await ground.whole(client, (await ground.submit(client, number=50)).id)
            probing.cancel()
            stopping.set()
            await keeping
        ground.server.stop()


# -- clocks that are set ---------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [DAY, 8 * DAY, -DAY], ids=["a day ahead", "longer than files are kept", "a day back"])
@in_a_loop
async def test_the_clock_of_the_sweep_is_set(ground, monkeypatch, jump):
    """What is about to be named by a record stays, and so does what was not fetched."""
    await ground.prepare()
    async with ground.client() as client:
        done, waits = await ground.submit(client), await ground.submit(client, number=1, user="other")
        ground.worker("a")
        await ground.whole(client, done.id)
        await ground.whole(client, waits.id)
        (ground.files / "results" / f"{'a' * 32}.7.1").write_bytes(b"stored, and not committed yet")
        (ground.files / "latents" / ("b" * 64)).write_bytes(b"stored, and not submitted yet")
        before = {path for path in ground.files.rglob("*") if path.is_file()}
        sweep = Sweep(client.broker, client._blobs, ground.settings)
        await sweep.once()
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + jump)
        for _ in range(3):
            await sweep.once()
        assert {path for path in ground.files.rglob("*") if path.is_file()} == before
        assert len(await client.broker.records()) == 2


@pytest.mark.parametrize("clock", [DAY, -DAY], ids=["a day ahead", "a day back"])
@in_a_loop
async def test_the_clock_of_a_worker_is_wrong(ground, clock):
    await ground.prepare()
    async with ground.client() as client:
        ground.worker("a", "--clock", clock)
        in_time = await ground.submit(client, deadline=time.time() + 3600)
        late = await ground.submit(client, number=1, deadline=time.time() - 3600)
        await ground.whole(client, in_time.id)
        with pytest.raises(JobFailed, match="deadline"):
            await client.wait(late.id)
        await ground.nothing_is_left(client)


@in_a_loop
async def test_the_clock_of_the_server_is_set_ahead_and_it_forgets_what_it_has(ground):
    """Two ids of one job are then in the queue: had both counted, each attempt would fence off the other."""
    await ground.prepare()
    async with ground.client() as client:
        job = await ground.submit(client, "slow")
        again = json.dumps({"id": job.id, "round": job.round}).encode()
        await client.broker.jetstream.publish(job.subject, again)
        ground.worker("a")
        ground.worker("b")
        record = await ground.whole(client, job.id)
        assert (record.attempt, record.tries) == (1, 1)
        await ground.nothing_is_left(client)


@in_a_loop
async def test_the_clock_of_the_server_is_set_back_and_leases_do_not_end(make_ground):
    ground = make_ground(settings=Settings(lease_seconds=DAY))
    await ground.prepare()
    async with ground.client() as client, ground.client(ADMIN) as admin:
        job = await ground.submit(client)
        assert await ended(ground.worker("a", "--at", "decoding", "--do", "kill")) == -signal.SIGKILL
        ground.worker("b")
        other = await ground.submit(client, "endless", number=1)
        await until(lambda: in_state(client, other.id, "in_progress"))
        clock = [0.0]
        settings = dataclasses.replace(ground.settings, lease_seconds=1.0)
        sweep = Sweep(admin.broker, admin._blobs, settings, lambda: clock[0])
        for clock[0] in (0.0, 5.0, 7.0):
            assert await in_state(client, job.id, "in_progress")
            await sweep.once()
        assert await in_state(client, job.id, "queued")
        assert await in_state(client, other.id, "in_progress"), "somebody has it"
        ground.worker("c")
        assert (await ground.whole(client, job.id)).round == 2
