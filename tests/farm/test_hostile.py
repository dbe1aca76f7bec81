"""What strangers may send: refused or bounded, before memory is taken, and nothing of it becomes a path."""

import dataclasses
import json
import struct

import nats.js.errors
import psutil
import pytest

from ...farm import messages
from ...farm.broker import STREAM, Full
from ...farm.client import JobFailed, shape_of
from ...farm.messages import InvalidJob, Job, Params, Record
from ...farm.roles import ADMIN
from ...farm.settings import Settings
from ...farm.sweep import Sweep
from .conftest import in_a_loop
from .test_messages import GOOD, with_value

PATHS = ["../../../../tmp/x", "/etc/passwd", "C:\\Windows\\x", "a\0b", "..", "\\\\server\\share", "~/x", "$(id)"]


def texts(values: dict, before: str = "") -> list[str]:
    """Names of all fields that hold a text."""
    found = []
    for key, value in values.items():
        if isinstance(value, dict):
            found += texts(value, f"{before}{key}.")
        elif isinstance(value, str):
            found.append(f"{before}{key}")
    return found


def test_every_field_that_holds_a_text_is_refused_or_is_never_a_path():
    """Those that take a path for a text are told to whom they came from, and to people."""
    job = json.loads(Record(Job.of(GOOD)).to_json())["job"]
    taken = set()
    for name in texts(job):
        for path in PATHS:
            try:
                Job.of(with_value(name, path))
                taken.add(name)
            except InvalidJob:
                pass
    assert taken == {"vae.family", "client.id", "client.prompt_id", "client.node_id", "name_prefix"}
    for path in PATHS[:6]:
        with pytest.raises(InvalidJob):
            Job.of(with_value("name_prefix", path))


@in_a_loop
async def test_texts_that_look_like_paths_make_no_files(ground):
    await ground.prepare()
    before = {path.name for path in ground.folder.iterdir()}
    client_of = messages.Client("../../up", "/etc/passwd", "C:\\x")
    async with ground.client() as client:
        job = await ground.submit(client, "~/$(id)", client=client_of, family="../../../x")
        ground.worker("a", "--decoders", "exact")
        await ground.whole(client, job.id)
        await ground.nothing_is_left(client)
        record = await client.broker.record(job.id)
        names = {path.name for kind in ("latents", "vaes", "results") for path in (ground.files / kind).iterdir()}
        assert names == {job.job.latent.sha256, job.job.vae.sha256, record.result.name}
    assert {path.name for path in ground.folder.iterdir()} == before | {"0.latent", f"{job.id}.mp4"}


@pytest.mark.parametrize(
    "shape",
    [(1, 16, 25_001, 90, 160), (1, 16, 5_000, 512, 512), (1, 256, 1, 1 << 13, 1 << 13), (1, 16, 1, 1 << 40, 1)],
    ids=["100,000 frames", "20,000 of 4096x4096", "65536x65536", "one that is endless"],
)
@in_a_loop
async def test_a_job_that_is_absurd_is_refused_before_anything_is_stored(ground, shape):
    """A few bytes that promise so much: the header alone is read."""
    await ground.prepare()
    header = json.dumps({"latent_tensor": {"dtype": "F16", "shape": shape, "data_offsets": [0, 1 << 60]}}).encode()
    latent = ground.folder / "absurd.latent"
    latent.write_bytes(struct.pack("<Q", len(header)) + header)
    async with ground.client() as client:
        with pytest.raises(InvalidJob):
            await client.submit(latent, ground.vae)
        assert await client.broker.records() == [] and not list((ground.files / "latents").iterdir())


HEADERS = {
    "longer than the file": struct.pack("<Q", 1 << 62),
    "longer than may be": struct.pack("<Q", messages.HEADER_BYTES + 1) + b" " * (messages.HEADER_BYTES + 1),
    "no JSON": struct.pack("<Q", 8) + b"\xff" * 8,
    "nested": struct.pack("<Q", 100_000) + b"[" * 100_000,
    "no tensor": struct.pack("<Q", 2) + b"{}",
    "no shape": struct.pack("<Q", 20) + b'{"latent_tensor": 1 }',
    "a shape of texts": struct.pack("<Q", 58) + b'{"latent_tensor":{"dtype":"F32","shape":["1","2","3","4"]}}',
    "a dtype that is code": struct.pack("<Q", 53) + b'{"latent_tensor":{"dtype":"os.system","shape":[1,2,3]}}',
}


@pytest.mark.parametrize("data", HEADERS.values(), ids=HEADERS)
def test_a_forged_header_is_refused(tmp_path, data):
    path = tmp_path / "forged.latent"
    path.write_bytes(data)
    with pytest.raises(InvalidJob):
        Params(*shape_of(path))


@in_a_loop
async def test_an_object_that_was_forged_is_never_read_beyond_its_size(make_ground):
    """Who has a client's token writes entries and chunks of his own: of other sizes, under other names."""
    ground = make_ground(network=True)
    await ground.prepare()
    async with ground.client() as client:
        job = await ground.submit(client)
        [(name, size, _)] = await client._blobs.names("vaes")
        js, subject = client.broker.jetstream, _entry_of("vaes", name)
        good = {"name": name, "bucket": "vaes", "nuid": "f" * 32, "size": size, "chunks": 50}
        for _ in range(50):
            await js.publish(f"$O.vaes.C.{'f' * 32}", bytes(100_000))
        for forged in (
            good,
            {**good, "chunks": -1},
            {**good, "size": 1 << 60},
            {**good, "nuid": ">"},
            {**good, "name": "../../up"},
            [],
        ):
            await js.publish(subject, json.dumps(forged).encode(), headers={"Nats-Rollup": "sub"})
            into = ground.folder / "into"
            with pytest.raises(InvalidJob):
                await client._blobs.get("vaes", name, size, into)
            assert not into.exists() or into.stat().st_size <= 200_000
        ground.worker("a")
        with pytest.raises(JobFailed, match="vaes"):
            await client.wait(job.id)
        # The sweep of `farm up` goes on, with what is no entry in its way.
        async with ground.client(ADMIN) as admin:
            await Sweep(admin.broker, admin._blobs, ground.settings).once()


@in_a_loop
async def test_records_and_ids_that_are_too_long_are_not_stored(ground):
    """So that a list of them fits into memory."""
    await ground.prepare()
    async with ground.client() as client:
        for subject, most in ((f"$KV.jobs.{'a' * 32}", messages.MOST_BYTES), ("job.s.std.x", 1024)):
            with pytest.raises(nats.js.errors.APIError, match="exceeds maximum"):
                await client.broker.jetstream.publish(subject, b" " * (most + 1))
        assert await client.broker.records() == []


def _entry_of(kind: str, name: str) -> str:
    from ...farm.blobs import _entry_subject

    return _entry_subject(kind, name)


MANY = 10_000


@in_a_loop
async def test_ten_thousand_jobs(make_ground):
    """Listed and swept with a few questions, however many there are; counted, not timed."""
    ground = make_ground(settings=Settings(lease_seconds=1.0, cap=1000, most_open=MANY))
    await ground.prepare()
    async with ground.client(ADMIN) as client:
        first = await ground.submit(client, user="u0")
        jobs = [dataclasses.replace(first.job, id=f"{n:032x}", user=f"u{n // 1000}") for n in range(1, MANY)]
        await all_at_once(client, jobs)
        state = (await client.broker.jetstream.stream_info(STREAM)).state
        assert state.messages == MANY
        # A user has a cap, and so have all of them together.
        for user in ("u0", "another"):
            with pytest.raises(Full):
                await client.broker.submit(dataclasses.replace(first.job, id="e" * 32, user=user))
        assert await client.broker.record("e" * 32) is None

        before, memory = client.broker._nc.stats["out_msgs"], psutil.Process().memory_info().rss
        records = await client.broker.records()
        assert len(records) == MANY and client.broker._nc.stats["out_msgs"] - before < 50
        assert (await client.broker.jetstream.consumer_info(STREAM, "s-std")).num_pending == MANY
        sweep = Sweep(client.broker, client._blobs, dataclasses.replace(ground.settings, kept_jobs=10))
        sweep._queued = {record.message_id for record in records}
        before = client.broker._nc.stats["out_msgs"]
        await sweep.once()
        assert client.broker._nc.stats["out_msgs"] - before < 50
        assert psutil.Process().memory_info().rss - memory < 300 << 20
        server = psutil.Process(ground.server.pid).memory_info().rss
        assert server < 300 << 20
        # The next free slot is still the next job's.
        ground.worker("a")
        await ground.whole(client, first.id)


async def all_at_once(client, jobs):
    """Submit; as `Broker.submit` does, but with many questions under way."""
    js = client.broker.jetstream
    for start in range(0, len(jobs), 500):
        records = [Record(job, queued=1.0) for job in jobs[start : start + 500]]
        sent = [await js.publish_async(f"$KV.jobs.{record.id}", record.to_json()) for record in records]
        for record in records:
            data = json.dumps({"id": record.id, "round": record.round}).encode()
            sent.append(await js.publish_async(record.subject, data, headers={"Nats-Msg-Id": record.message_id}))
        for each in sent:
            await each
