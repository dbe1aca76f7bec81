"""What users are promised of jobs: ids, priorities, caps, cancels, memory; and what is refused."""

import argparse
import dataclasses
import hashlib
import os
import re
import shutil
import socket
import struct
import time

import pytest

from ...farm import client as client_module
from ...farm import commands
from ...farm.blobs import Scratch, sha256_of
from ...farm.broker import RECORDS, Broker, Fenced, Full
from ...farm.client import JobFailed, farm
from ...farm.messages import InvalidJob, job_id
from ...farm.roles import CLIENT
from ...farm.settings import NoFarm, Settings
from .conftest import in_a_loop
from .ground import ended, until
from .test_kills import in_state


@in_a_loop
async def test_the_same_run_is_one_job_and_other_runs_are_others(ground):
    await ground.prepare()
    async with ground.client() as client:
        first = await ground.submit(client, job_id=job_id("prompt", "7"))
        ground.worker("a")
        await ground.whole(client, first.id)
        again = await ground.submit(client, job_id=job_id("prompt", "7"))
        assert again.id == first.id and again.state == "completed"
        assert len({job_id("prompt", "7"), job_id("prompt", "7", 1), job_id("prompt", "8"), job_id("p", "rompt7")}) == 4
        await ground.nothing_is_left(client)


@in_a_loop
async def test_a_job_that_was_deleted_is_another_one_when_it_comes_again(ground):
    await ground.prepare()
    async with ground.client() as client:
        ground.worker("a")
        for _ in range(2):
            record = await ground.whole(client, (await ground.submit(client, job_id="a" * 32)).id)
            assert (record.round, record.attempt) == (1, 1)
            await client.broker.forget(record)
        # One whose record goes while it waits.
        await ground.submit(client, "endless", number=1)
        for _ in range(2):
            record = await client.broker.cancel((await ground.submit(client, number=2, job_id="b" * 32)).id)
            await client.broker.forget(record)
        await ground.submit(client, number=2, job_id="b" * 32)
        ground.worker("b")
        assert (await ground.whole(client, "b" * 32)).attempt == 1


@in_a_loop
async def test_a_look_that_saw_nothing_looks_again(ground, monkeypatch):
    """Under load the broker's answer that all was told overtakes what it told."""
    await ground.prepare()
    entries, looks = Broker._entries, []

    async def overtaken(self, key, end_with_now, **more):
        looks.append(key)
        if len(looks) > 1:
            async for entry in entries(self, key, end_with_now, **more):
                yield entry

    monkeypatch.setattr(Broker, "_entries", overtaken)
    async with ground.client() as client:
        assert await client.broker.records() == [] and len(looks) == 1
        looks.clear()
        job = await ground.submit(client)
        assert [record.id for record in await client.broker.records()] == [job.id]


@in_a_loop
async def test_who_watches_hears_of_what_is_deleted(ground):
    await ground.prepare()
    gone = []
    async with ground.client() as client:
        record, watching = await ground.submit(client), client.broker.watch(">", gone=gone.append)
        assert (await anext(watching)).id == record.id
        await client.broker.forget(record)
        other = await ground.submit(client, number=1)
        assert (await anext(watching)).id == other.id and gone == [record.id]
        await watching.aclose()


@in_a_loop
async def test_a_client_that_lives_long_remembers_few_hashes(ground, monkeypatch):
    hashed = []
    monkeypatch.setattr(client_module, "sha256_of", lambda path: hashed.append(path) or sha256_of(path))
    monkeypatch.setattr(client_module, "MOST_HASHED", 3)
    await ground.prepare()
    async with ground.client() as client:
        for number in range(5):
            await ground.submit(client, number=number)
        assert len(client._hashed) == 3 and hashed == [ground.vae]  # latents are hashed on their way


@in_a_loop
async def test_pro_starts_in_the_next_free_slot(ground):
    await ground.prepare()
    async with ground.client() as client:
        waiting = [await ground.submit(client, number=n) for n in range(6)]
        pro = await ground.submit(client, number=6, priority="pro")
        ground.worker("a")
        for job in (*waiting, pro):
            await ground.whole(client, job.id)
        started = {record.id: record.started for record in await client.broker.records()}
        assert started[pro.id] == min(started.values())
        assert sorted(started, key=started.get)[1:] == [job.id for job in waiting], "the others in their order"


@in_a_loop
async def test_a_user_has_so_many_jobs_open_and_no_more(make_ground):
    ground = make_ground(settings=Settings(lease_seconds=1.0, cap=3))
    await ground.prepare()
    async with ground.client() as client:
        jobs = [await ground.submit(client, number=n) for n in range(3)]
        with pytest.raises(Full):
            await ground.submit(client, number=3, job_id="e" * 32)
        assert await client.broker.record("e" * 32) is None
        other = await ground.submit(client, number=4, user="other")
        ground.worker("a")
        for job in (*jobs, other):
            await ground.whole(client, job.id)
        await ground.whole(client, (await ground.submit(client, number=3, job_id="e" * 32)).id)


@in_a_loop
async def test_cancelled_before_it_began_it_never_begins(ground):
    await ground.prepare()
    async with ground.client() as client:
        job, other = await ground.submit(client), await ground.submit(client, number=1)
        await client.broker.cancel(job.id)
        with pytest.raises(JobFailed, match="cancelled"):
            await client.wait(job.id)
        ground.worker("a")
        await ground.whole(client, other.id)
        assert (await client.broker.record(job.id)).attempt == 0
        await ground.nothing_is_left(client)


@in_a_loop
async def test_cancelled_under_way_it_stops_and_leaves_no_file(ground):
    await ground.prepare()
    async with ground.client() as client:
        job, other = await ground.submit(client, "endless"), await ground.submit(client, number=1)
        ground.worker("a")
        await until(lambda: in_state(client, job.id, "in_progress"))
        await client.broker.cancel(job.id)
        await ground.whole(client, other.id)
        assert (await client.broker.record(job.id)).state == "cancelled"
        await ground.nothing_is_left(client)


@in_a_loop
async def test_retried_it_is_done(ground):
    await ground.prepare()
    async with ground.client() as client:
        job = await ground.submit(client)
        await client.broker.cancel(job.id)
        ground.worker("a")
        await ground.nothing_is_left(client)
        await client.broker.retry(job.id)
        assert (await ground.whole(client, job.id)).round == 2
        await ground.nothing_is_left(client)


@in_a_loop
async def test_retried_it_starts_anew(ground):
    """Smaller cards get it again, and its client has not had it yet. Attempts are never used twice."""
    await ground.prepare()
    async with ground.client() as client:
        job = await ground.submit(client)
        ended = {"worker": "z", "reason": "it ended 3 workers", "started": 1.0, "ended": 2.0, "delivered": 3.0}
        await client.broker.replace(job, state="failed", attempt=3, tries=3, memory_class="xl", **ended)
        again = await client.broker.retry(job.id)
        assert again == dataclasses.replace(job, round=2, attempt=3, queued=again.queued) and again.queued > job.queued
        await client.delivered(job.id)  # of the failure, too late
        ground.worker("a", "--free", 5000)
        assert (await client.wait(job.id)).delivered == 0
        record = await ground.whole(client, job.id)
        assert record.result.name.endswith(".4") and record.delivered
        await ground.nothing_is_left(client)


@in_a_loop
async def test_the_commands_say_what_cannot_be_changed(make_ground, monkeypatch, capsys):
    ground = make_ground(settings=Settings(lease_seconds=1.0, cap=1))
    await ground.prepare()
    async with ground.client() as client:
        first = await ground.submit(client)
        cancelled = await client.broker.cancel(first.id)
        worker = ground.worker("a")
        await ground.nothing_is_left(client)
        worker.kill()
        waits = await ground.submit(client, number=1)
        given = argparse.Namespace(server=ground.given(CLIENT), ids=[first.id])
        # There is no room: it stays as it was.
        assert await commands.retry(given) == 1 and "takes no more" in capsys.readouterr().err
        now = await client.broker.record(first.id)
        assert dataclasses.replace(now, round=cancelled.round) == cancelled
        # Its latents were swept meanwhile.
        (ground.files / "latents" / first.job.latent.sha256).unlink()
        assert await commands.retry(given) == 1 and "gone from the latents" in capsys.readouterr().err
        # It is forgotten between the list and the change.
        records = await client.broker.records()
        for record in records:
            await client.broker.forget(record)

        async def those(_) -> list:
            return records

        monkeypatch.setattr(Broker, "records", those)
        given.ids = [first.id, waits.id]
        assert await commands.cancel(given) == 0 and capsys.readouterr().out.count("is gone") == 2


@in_a_loop
async def test_after_its_deadline_it_is_not_begun(ground):
    await ground.prepare()
    async with ground.client() as client:
        job = await ground.submit(client, deadline=1.0)
        ground.worker("a")
        with pytest.raises(JobFailed, match="deadline"):
            await client.wait(job.id)


@in_a_loop
async def test_a_card_that_is_full_takes_nothing_and_another_one_does(ground):
    await ground.prepare()
    async with ground.client() as client:
        full, small = ground.worker("full", "--free", 1000), ground.worker("small", "--free", 5000)
        needs_more = await ground.submit(client, need_mb=6000)
        job = await ground.submit(client, number=1)
        assert (await ground.whole(client, job.id)).worker == "small"
        assert await in_state(client, needs_more.id, "queued")
        ground.worker("large")
        assert (await ground.whole(client, needs_more.id)).worker == "large"
        assert full.poll() is None and small.poll() is None


@in_a_loop
async def test_out_of_memory_goes_to_a_larger_card(ground):
    await ground.prepare()
    async with ground.client() as client:
        job = await ground.submit(client, "large")
        ground.worker("small", "--free", 5000)
        await until(lambda: waits_as(client, job.id, "m"))
        ground.worker("large")
        record = await ground.whole(client, job.id)
        assert (record.worker, record.round) == ("large", 2)
        await ground.nothing_is_left(client)


@in_a_loop
async def test_however_often_it_did_not_fit_it_reaches_the_largest_card(ground):
    """It ended no worker, so none of it counts as a try."""
    await ground.prepare()
    async with ground.client() as client:
        job = await ground.submit(client, "large")
        ground.worker("small", "--free", 17_000)
        await until(lambda: waits_as(client, job.id, "xl"))
        ground.worker("large")
        record = await ground.whole(client, job.id)
        assert (record.worker, record.attempt, record.tries) == ("large", 4, 1)
        await ground.nothing_is_left(client)


@in_a_loop
async def test_the_second_attempt_is_for_a_larger_card_where_there_is_one(ground):
    await ground.prepare()
    async with ground.client() as client:
        alone = await ground.submit(client)
        await ended(ground.worker("a", "--free", 5000, "--at", "decoding"))
        small = ground.worker("small", "--free", 5000)
        record = await ground.whole(client, alone.id)
        assert (record.worker, record.attempt, record.memory_class) == ("small", 2, "s")
        endless = await ground.submit(client, "endless", need_mb=6000)
        ground.worker("large")
        await until(lambda: in_state(client, endless.id, "in_progress"))
        poison = await ground.submit(client, "poison", number=1)
        await ended(small)
        ground.worker("another", "--free", 5000)
        await until(lambda: waits_as(client, poison.id, "m"))
        assert (await client.broker.record(poison.id)).attempt == 1


@in_a_loop
async def test_a_job_goes_to_who_has_its_vae_if_that_one_has_nothing_to_do(ground):
    await ground.prepare()
    async with ground.client() as client:
        ground.worker("without")
        ground.worker("with", "--warm", sha256_of(ground.vae))
        for number in range(4):
            await ground.idle("with", "without")
            assert (await ground.whole(client, (await ground.submit(client, number=number)).id)).worker == "with"
        await ground.nothing_is_left(client)


@in_a_loop
async def test_a_job_goes_to_who_is_quicker_with_it_if_that_one_has_nothing_to_do(ground):
    """A GPU before a CPU, and of those who are alike the fast decoder: also where the other has the VAE already."""
    await ground.prepare()
    async with ground.client() as client:
        warm = ("--warm", sha256_of(ground.vae))
        ground.worker("cpu", "--patience", 60, *warm)
        ground.worker("exact", "--decoders", "exact", *warm)
        await ground.idle("cpu", "exact")
        assert (await ground.whole(client, (await ground.submit(client)).id)).worker == "exact"
        ground.worker("fast")
        for number in (1, 2):
            await ground.idle("cpu", "exact", "fast")
            assert (await ground.whole(client, (await ground.submit(client, number=number)).id)).worker == "fast"
        await ground.idle("cpu", "exact", "fast")
        endless = await ground.submit(client, "endless", number=5)
        await until(lambda: in_state(client, endless.id, "in_progress"))
        assert (await client.broker.record(endless.id)).worker == "fast"
        # It is busy, so the others have what is next.
        assert (await ground.whole(client, (await ground.submit(client, number=6)).id)).worker in ("exact", "cpu")
        await client.broker.cancel(endless.id)
        await ground.nothing_is_left(client)


@pytest.mark.parametrize(
    ("kind", "damage", "said"),
    [
        ("latents", lambda data: data[:-1] + b"!", "SHA-256"),
        ("vaes", lambda data: data[:-1] + b"!", "SHA-256"),
        ("latents", lambda data: data[:-1], "bytes are there"),
        ("latents", lambda data: data * 1000, "bytes are there"),
        ("vaes", lambda data: None, "there is no"),
    ],
    ids=["latent", "vae", "truncated", "too long", "gone"],
)
@in_a_loop
async def test_data_that_are_not_what_their_name_says_fail_at_once(ground, kind, damage, said):
    await ground.prepare()
    async with ground.client() as client:
        job = await ground.submit(client)
        [blob] = (ground.files / kind).iterdir()
        data = damage(blob.read_bytes())
        blob.unlink()
        if data is not None:
            blob.write_bytes(data)
        ground.worker("a")
        with pytest.raises(JobFailed, match=said):
            await client.wait(job.id)
        assert (await client.broker.record(job.id)).attempt == 1
        await ground.nothing_is_left(client)


@in_a_loop
async def test_over_the_network(make_ground):
    """Files in the broker, in pieces; a worker is killed between storing and committing."""
    ground = make_ground(network=True)
    ground.vae.write_bytes(b"weights" * 300_000)
    await ground.prepare()
    async with ground.client() as client:
        job = await ground.submit(client)
        assert await ended(ground.worker("a", "--at", "stored")) < 0
        worker = ground.worker("b")
        record = await ground.whole(client, job.id)
        [scratch] = client._scratch.folder.parent.glob(f"*.{worker.pid}")
        await until(lambda: only_a_vae_is_kept(scratch, job))
        assert record.result.name.endswith(".2")
        await ground.nothing_is_left(client)
        vae = await client._blobs.get("vaes", job.job.vae.sha256, 2_100_000, ground.folder / "vae")
        assert hashlib.sha256(vae.read_bytes()).hexdigest() == job.job.vae.sha256


@in_a_loop
async def test_over_the_network_a_client_copies_nothing_and_sends_nothing_twice(make_ground, monkeypatch):
    """Latents come from their own file, and the video goes to its own."""
    ground = make_ground(network=True)
    await ground.prepare()
    monkeypatch.setattr(shutil, "copyfile", lambda *paths: pytest.fail(f"copied: {paths}"))
    async with ground.client() as client:
        job = await ground.submit(client)
        latent = ground.folder / "0.latent"
        stored = await client._blobs.names("latents")
        await client.submit(latent, ground.vae, job_id=job.id)
        state = (await client.broker.jetstream.stream_info("OBJ_latents")).state
        assert latent.exists() and stored[0][0] == sha256_of(latent) and state.messages == 2  # a piece and its entry
        ground.worker("a")
        await ground.whole(client, job.id)


@in_a_loop
async def test_a_record_changes_by_compare_and_set_alone(ground):
    await ground.prepare()
    async with ground.client() as client:
        record = await ground.submit(client)
        changed = await client.broker.replace(record, worker="a")
        with pytest.raises(Fenced) as fenced:
            await client.broker.replace(record, worker="b")
        assert fenced.value.record.worker == "a"
        # R3: the same again is one's own, whose answer was lost.
        assert (await client.broker.replace(record, worker="a")).revision == changed.revision


@in_a_loop
async def test_what_no_worker_could_read_does_not_stay_in_the_queue(ground):
    await ground.prepare()
    async with ground.client() as client:
        js = client.broker.jetstream
        await js.publish("job.s.std.x", b"no JSON")
        await js.publish("job.s.std.x", b'{"id": "../../etc", "round": 1}')
        await js.publish("job.s.std.x", b'{"id": "%s", "round": 1}' % (b"0" * 32))
        await (await client.broker._bucket("jobs")).put("1" * 32, b'{"job": {"v": 2}}')
        await js.publish("job.s.std.x", b'{"id": "%s", "round": 1}' % (b"1" * 32))
        ground.worker("a")
        await ground.whole(client, (await ground.submit(client)).id)
        await ground.nothing_is_left(client)


@in_a_loop
async def test_where_nobody_answers_it_says_so(ground):
    ground.server.stop()
    with pytest.raises(NoFarm, match="nobody answers"):
        async with farm(ground.given(CLIENT), patience=0.3):
            pass


@in_a_loop
async def test_a_file_that_is_no_latent_is_not_submitted(ground):
    await ground.prepare()
    path = ground.folder / "no.latent"
    async with ground.client() as client:
        for data in (
            b"",
            b"abc",
            struct.pack("<Q", 1 << 60),
            struct.pack("<Q", 2) + b"{}",
            struct.pack("<Q", 2) + b"[]",
        ):
            path.write_bytes(data)
            with pytest.raises(InvalidJob):
                await client.submit(path, ground.vae)
        assert await client.broker.records() == []


async def waits_as(client, job_id: str, memory_class: str) -> bool:
    record = await client.broker.record(job_id)
    return record.state == "queued" and record.memory_class == memory_class


async def only_a_vae_is_kept(scratch, job) -> bool:
    return [path.name for path in scratch.rglob("*")] == ["vaes", job.job.vae.sha256]


@in_a_loop
async def test_looks_at_all_jobs_do_not_fill_the_server(ground):
    await ground.prepare()
    async with ground.client() as client, Broker.connect(ground.address, name="admin") as admin:
        for _ in range(3):
            await client.broker.records()
        left = await admin.jetstream.consumers_info(f"KV_{RECORDS}")
        assert all(each.config.inactive_threshold <= 5 for each in left), "each is gone after seconds"


def test_scratch_of_other_places_goes_by_its_age(tmp_path):
    """Their process numbers say nothing here: not of a machine that is gone, nor of a container of this hostname."""
    host, nobody = re.sub(r"[^A-Za-z0-9_-]", "_", socket.gethostname())[:40], 1 << 30
    gone, writes, new = (tmp_path / "scratch" / f"{name}.{nobody}" for name in ("elsewhere", "other", host))
    for folder, age in ((gone, 2 * 86400), (writes, 2 * 86400), (new, 0)):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"")
        for path in (folder / "file", folder):
            os.utime(path, (0, time.time() - age))
    (writes / "file").write_bytes(b"more")
    own = Scratch(tmp_path)
    assert set((tmp_path / "scratch").iterdir()) == {writes, new, own.folder}
    # Idle for so long, it was swept by somebody else.
    own.remove()
    assert own.folder.is_dir()
