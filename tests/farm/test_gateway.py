"""The farm over HTTP: what diffusers sends, jobs as in /v1/videos, and who and what is not let in."""

import asyncio
import base64
import contextlib
import dataclasses
import errno
import gzip
import json
import logging
import os
import ssl
import struct
import subprocess
import sys

import aiohttp
import pytest
import torch
from multidict import MultiDict

from ...farm import gateway
from ...farm.blobs import Scratch
from ...farm.broker import Broker, Full
from ...farm.client import blobs_of, scratch_parent
from ...farm.decode import Decoder, denormalised
from ...farm.gateway import Gateway, serving
from ...farm.gateway_door import Door, Refused
from ...farm.gateway_tensor import Asked
from ...farm.messages import InvalidJob
from ...farm.roles import CLIENT
from ...farm.server import Listen
from ...farm.settings import NoFarm, Settings
from ...farm.worker import Worker
from ..conftest import ROOT
from .conftest import in_a_loop
from .ground import SHAPE, ended, until
from .test_decode import VAE, bunny, decoded_here, pictures

# As `requests` encodes what remote_decode gives it: huggingface/diffusers@05b39ab2 src/diffusers/utils/remote_utils.py,
# `prepare`. Booleans are Python's.
DIFFUSERS = [("image_format", "jpg"), ("output_type", "mp4"), ("partial_postprocess", "False")]


def query(shape=SHAPE, dtype="float32", **more):
    return [*DIFFUSERS, *(("shape", str(size)) for size in shape), ("dtype", dtype), *more.items()]


def tensor(shape=SHAPE, item_bytes=4):
    count = item_bytes
    for size in shape:
        count *= size
    return bytes(count)


def vae_file(path, channels):
    """Of which only the header is true; the stand-in for a decoder reads no more."""
    header = json.dumps({"conv2.weight": {"dtype": "F16", "shape": [channels, channels, 1, 1, 1]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    return path


@contextlib.asynccontextmanager
async def served(ground, vaes=None, token="", listen=Listen()):  # noqa: B008
    """(a session that knows the URL, the farm's client)"""
    await ground.prepare()
    vaes = [vae_file(ground.folder / "wan21.safetensors", 16)] if vaes is None else vaes
    async with (
        ground.client() as client,
        serving(client, Door(listen, token), vaes) as url,
        aiohttp.ClientSession(url) as session,
    ):
        yield session, client


async def answer(request):
    """(status, what came)"""
    async with request as response:
        is_json = response.content_type == "application/json"
        return response.status, await response.json() if is_json else await response.read()


def video_of(record):
    """What the stand-in writes."""
    return b"".join(f"{record.job.latent.sha256} {frame}\n".encode() * 100 for frame in range(5))


# -- what is asked for --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"shape": []}, "shape"),
        ({"shape": [16, 2, 3, 4]}, "shape"),
        ({"shape": [2, 16, 2, 3, 4]}, "shape's B"),
        ({"shape": [1, 16, 0, 3, 4]}, "shape's T"),
        ({"shape": [1, 16, 100_000, 3, 4]}, "shape's T"),
        ({"shape": [1, 16, 2, 8000, 8000]}, "h \\* w"),
        ({"shape": [1, 16, 2, -3, 4]}, "whole number"),
        ({"shape": ["1", "16", "2", "3", "1e9"]}, "whole number"),
        ({"shape": ["1", "16", "2", "3", "9" * 5000]}, "whole number"),
        ({"shape": ["1", "16", "2", "3", "٣"]}, "whole number"),
        ({"shape": [1, 17, 2, 3, 4]}, "17 channels"),
        ({"shape": [1, 48, 5000, 512, 512]}, "bytes"),
        ({"dtype": ["uint8"]}, "dtype"),
        ({"dtype": ["../etc"]}, "dtype"),
        ({"dtype": []}, None),
        ({"output_type": ["pil"]}, "return_type='mp4'"),
        ({"output_type": ["pt"]}, "return_type='mp4'"),
        ({"scaling_factor": ["0.18"]}, "scaling_factor"),
        ({"shift_factor": ["0.1"]}, "shift_factor"),
        ({"do_scaling": ["yes"]}, "do_scaling"),
        ({"fps": ["0"]}, "fps"),
        ({"fps": ["16/0"]}, "fps"),
        ({"fps": ["nan"]}, "fps"),
        ({"format": ["../../x"]}, "format"),
        ({"quality": ["$(x)"]}, "quality"),
        ({"bit_depth": ["9"]}, "bit_depth"),
        ({"priority": ["vip"]}, "priority"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_what_a_query_may_ask(changes, says):
    asked = MultiDict(query())
    for name, values in changes.items():
        asked.popall(name, None)
        asked.extend((name, str(value)) for value in values)
    if says is None:
        assert Asked.of(asked).params.dtype == "float32"
        return
    with pytest.raises(InvalidJob, match=says):
        Asked.of(asked)


def test_what_diffusers_asks():
    asked = Asked.of(MultiDict(query((1, 48, 21, 44, 80), "bfloat16", do_scaling="True")))
    assert asked.params.do_scaling and asked.params.dtype == "bfloat16" and asked.params.fps == "24"
    assert asked.family.name == "Wan 2.2" and asked.priority == "std"
    plain = Asked.of(MultiDict(query()))
    assert not plain.params.do_scaling and plain.params.fps == "16" and plain.family.name == "Wan 2.1"


# -- who is let in --------------------------------------------------------------------------------------

HERE = {"Host": "127.0.0.1:8288"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (HERE, None),
        ({"Host": "localhost:8288"}, None),
        ({"Host": "[::1]:8288"}, None),
        ({"Host": "evil.example:8288"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "[::1"}, 403),
        ({}, 403),
        ({**HERE, "Origin": "http://127.0.0.1:8288"}, None),
        ({**HERE, "Origin": "http://127.0.0.1:8188"}, 403),
        ({**HERE, "Origin": "https://evil.example"}, 403),
        ({**HERE, "Origin": "null"}, 403),
        ({**HERE, "Origin": "http://[::1"}, 403),
        ({**HERE, "Sec-Fetch-Site": "cross-site"}, 403),
        ({**HERE, "Sec-Fetch-Site": "same-site"}, 403),
        ({**HERE, "Sec-Fetch-Site": "none"}, None),
    ],
)
def test_other_pages_are_not_let_in(headers, status):
    door = Door(Listen())
    if status is None:
        door.check(headers)
        return
    with pytest.raises(Refused) as refused:
        door.check(headers)
    assert refused.value.status == status


@pytest.mark.parametrize(
    ("given", "is_let_in"),
    [
        ("Bearer secret", True),
        ("bearer secret", True),
        ("Basic " + base64.b64encode(b"anybody:secret").decode(), True),
        ("", False),
        ("Bearer", False),
        ("Bearer secret2", False),
        ("Bearer sécret", False),
        ("Basic " + base64.b64encode(b"secret").decode(), False),
        ("Basic \xff\xff", False),
        ("Basic " + base64.b64encode(b"\xff:\xff").decode(), False),
        ("Bearer \udcff", False),
        ("Digest secret", False),
    ],
)
def test_only_with_the_token(given, is_let_in):
    door = Door(Listen(), "secret")
    if is_let_in:
        door.check({**HERE, "Authorization": given})
        return
    with pytest.raises(Refused) as refused:
        door.check({**HERE, "Authorization": given})
    assert refused.value.status == 401


def test_other_machines_need_tls_and_a_token(tmp_path):
    with pytest.raises(NoFarm, match="tls-cert"):
        Door(Listen("0.0.0.0"), "secret")
    (tmp_path / "pem").touch()
    tls = Listen("0.0.0.0", tls_cert=str(tmp_path / "pem"), tls_key=str(tmp_path / "pem"))
    with pytest.raises(NoFarm, match="TOKEN"):
        Door(tls)
    Door(tls, "secret").check({"Host": "farm.example", "Authorization": "Bearer secret"})


# -- over the wire --------------------------------------------------------------------------------------


@in_a_loop
async def test_what_is_refused_leaves_nothing(ground):
    async def halves():
        for half in (tensor()[:100], tensor()[100:] + b"more"):
            yield half

    async with served(ground, token="secret") as (session, client):
        token = {"Authorization": "Bearer secret"}

        async def post(status, data=b"", params=None, headers=token, path="/"):
            got = await answer(
                session.post(path, params=query() if params is None else params, data=data, headers=headers)
            )
            assert got[0] == status and got[1]["error"]["message"], got
            return got[1]["error"]["message"]

        assert "token" in await post(401, tensor(), headers={})
        assert "not where" in await post(403, tensor(), headers={**token, "Host": "evil.example"})
        assert "pages" in await post(403, tensor(), headers={**token, "Origin": "https://evil.example"})
        for path in ("/", "/decode", "/v1/videos"):
            assert "1536" in await post(400, tensor()[:-1], path=path)
        assert "more bytes" in await post(400, halves())
        assert "100 bytes" in await post(400, (half async for half in _one(tensor()[:100])))
        assert "Wan 2.2" in await post(400, tensor(), query((1, 48, 1, 2, 4)))
        assert "packed" in await post(415, gzip.compress(tensor()), headers={**token, "Content-Encoding": "gzip"})
        # Of a body of 3 GB that is promised, nothing is waited for.
        assert "bytes" in await post(400, tensor(), query((1, 16, 5000, 180, 320)))
        for path in ("/v1/videos/nothing", f"/v1/videos/{'0' * 32}", "/v1/videos/..%2f..%2fetc", "/other"):
            assert (await answer(session.get(path, headers=token)))[0] == 404
        for limit in ("0", "-1", "x", "9" * 5000):
            assert (await answer(session.get(f"/v1/videos?limit={limit}", headers=token)))[0] in (400, 414)
        assert await client.broker.records() == []
        assert list(client.scratch.iterdir()) == []


async def _one(data):
    yield data


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Full("the farm takes no more"), 429),
        (OSError(errno.ENOSPC, "no space is left"), 507),
        (asyncio.TimeoutError(), 503),
        (NoFarm("the broker did not answer"), 503),
        (RuntimeError("a secret of the server's"), 500),
    ],
    ids=repr,
)
@in_a_loop
async def test_what_goes_wrong_here_is_said(ground, monkeypatch, error, status):
    async with served(ground) as (session, client):

        async def submit(*_, **__):
            raise error

        monkeypatch.setattr(client, "submit", submit)
        got, said = await answer(session.post("/v1/videos", params=query(), data=tensor()))
        assert got == status and said["error"]["message"] and "secret" not in said["error"]["message"]
        assert list(client.scratch.iterdir()) == []


@in_a_loop
async def test_so_many_tensors_at_once_and_none_that_never_comes(ground, monkeypatch):
    arrived = asyncio.Event()

    async def half():
        yield tensor()[:100]
        await arrived.wait()
        yield tensor()[100:]

    async with served(ground) as (session, client):
        asked = [
            asyncio.ensure_future(answer(session.post("/v1/videos", params=query(), data=half()))) for _ in range(8)
        ]
        await until(lambda: has_so_many(client.scratch, 8))
        assert (await answer(session.post("/v1/videos", params=query(), data=tensor())))[0] == 503
        arrived.set()
        assert {status for status, _ in await asyncio.gather(*asked)} == {200}
        arrived.clear()
        monkeypatch.setattr(gateway, "BODY_SECONDS", 0.05)
        assert (await answer(session.post("/v1/videos", params=query(), data=half())))[0] == 408
        assert list(client.scratch.iterdir()) == [] and len(await client.broker.records()) == 8


@in_a_loop
async def test_with_tls(ground, certificate):
    files = {name: str(certificate / f"{name}.pem") for name in ("cert", "key")}
    listen = Listen(tls_cert=files["cert"], tls_key=files["key"])
    trusted = ssl.create_default_context(cafile=files["cert"])
    async with served(ground, token="secret", listen=listen) as (session, _):
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await answer(session.get("/v1/videos"))
        assert (await answer(session.get("/v1/videos", ssl=trusted)))[0] == 401
        # As `requests` sends what stands in a URL.
        password = {"Authorization": "Basic " + base64.b64encode(b"any:secret").decode()}
        assert (await answer(session.get("/v1/videos", ssl=trusted, headers=password)))[1]["data"] == []


@in_a_loop
async def test_the_bytes_of_the_video(ground):
    async with served(ground) as (session, client):
        ground.worker("w")
        for path in ("/", "/decode?fps=24000/1001&priority=pro"):
            async with session.post(path, params=query(do_scaling="True"), data=tensor()) as response:
                assert (response.status, response.content_type) == (200, "video/mp4")
                record = await client.broker.record(response.headers["X-Job-Id"])
                assert await response.read() == video_of(record)
        assert record.job.params.do_scaling and record.job.params.fps == "24000/1001"
        assert (record.job.priority, record.job.user, record.job.vae.family) == ("pro", "http", "Wan 2.1")
        await until(lambda: has(client.scratch, False))


@in_a_loop
async def test_a_job_from_queued_to_deleted(ground):
    async with served(ground) as (session, client):
        others = await ground.submit(client, number=7)
        status, made = await answer(session.post("/v1/videos", params=query(), data=tensor()))
        assert status == 200
        assert {name: made[name] for name in ("object", "status", "progress", "model", "size", "seconds", "error")} == {
            "object": "video",
            "status": "queued",
            "progress": 0,
            "model": "Wan 2.1",
            "size": "32x24",
            "seconds": "0.31",
            "error": None,
        }
        there = f"/v1/videos/{made['id']}"
        assert await answer(session.get(there)) == (200, made)
        assert (await answer(session.get(f"{there}/content")))[0] == 409
        # As a worker does.
        record = await client.broker.record(made["id"])
        record = await client.broker.replace(record, state="in_progress")
        async with Broker.connect(ground.address) as worker:
            await worker.tell(f"progress.{made['id']}", {"id": made["id"], "frames": 3, "total": 5})

        async def is_told():
            return (await answer(session.get(there)))[1]["progress"] == 60

        await until(is_told)
        await client.broker.replace(record, state="queued", queued=0.0)
        ground.worker("w")
        await client.wait(made["id"])
        status, done = await answer(session.get(there))
        assert (done["status"], done["progress"]) == ("completed", 100)
        assert done["created_at"] <= done["completed_at"] < done["expires_at"]
        assert await answer(session.get(f"{there}/content")) == (200, video_of(await client.broker.record(made["id"])))

        status, second = await answer(session.post("/v1/videos", params=query(), data=tensor()))
        page = (await answer(session.get("/v1/videos?limit=1")))[1]
        assert [each["id"] for each in page["data"]] == [second["id"]] and page["has_more"]
        page = (await answer(session.get(f"/v1/videos?after={page['last_id']}")))[1]
        assert [each["id"] for each in page["data"]] == [made["id"]] and not page["has_more"]

        assert (await answer(session.delete(there)))[1] == {
            "id": made["id"],
            "object": "video.deleted",
            "deleted": True,
        }
        for asked in (session.get(there), session.get(f"{there}/content"), session.delete(there)):
            assert (await answer(asked))[0] == 404
        # Another client's job is none of theirs.
        for asked in (session.get(f"/v1/videos/{others.id}"), session.delete(f"/v1/videos/{others.id}")):
            assert (await answer(asked))[0] == 404
        await client.wait(second["id"])
        await client.wait(others.id)


@in_a_loop
async def test_what_workers_tell_is_bounded():
    each = Gateway(None, Settings(), {})
    for told in ({}, {"id": "x", "frames": 1, "total": 2}, {"id": "0" * 32, "frames": "1", "total": 2}):
        await each.progressed(told)
    assert len(each._frames) == 0
    for number in range(1500):
        await each.progressed({"id": f"{number:032x}", "frames": 1, "total": 2})
    assert len(each._frames) == 1000 and f"{1499:032x}" in each._frames


@in_a_loop
async def test_delete_cancels_what_has_not_ended(ground):
    async with served(ground) as (session, client):
        _, made = await answer(session.post("/v1/videos", params=query(), data=tensor()))
        status, cancelled = await answer(session.delete(f"/v1/videos/{made['id']}"))
        assert (status, cancelled["status"], cancelled["id"]) == (200, "cancelled", made["id"])
        assert (await answer(session.delete(f"/v1/videos/{made['id']}")))[1]["deleted"]
        assert await client.broker.records() == []
        # Also of a client of the farm that calls itself so, and sends what is served to nobody.
        job = (await ground.submit(client, user="http")).job
        strange = dataclasses.replace(job, id="0" * 32, params=dataclasses.replace(job.params, shape=(1, 4, 8, 3, 4)))
        await client.broker.submit(strange)
        for asked in (session.get(f"/v1/videos/{strange.id}"), session.delete(f"/v1/videos/{strange.id}")):
            assert (await answer(asked))[1]["size"] is None
        assert len((await answer(session.get("/v1/videos?order=asc")))[1]["data"]) == 2


@in_a_loop
async def test_what_fails_says_why(ground):
    async with served(ground) as (session, client):
        asking = asyncio.ensure_future(answer(session.post("/", params=query(), data=tensor())))
        job_id = await queued(client)
        record = await client.broker.record(job_id)
        await client.broker.replace(record, state="failed", reason="it ended 3 workers", ended=1.0)
        status, said = await asking
        assert status == 500 and "it ended 3 workers" in said["error"]["message"]
        said = (await answer(session.get(f"/v1/videos/{job_id}")))[1]
        assert said["error"] == {"code": "failed", "message": "it ended 3 workers"}


@in_a_loop
async def test_who_goes_leaves_no_job(ground):
    """Neither one who waits for the video, nor one who is still sending."""
    async with served(ground) as (session, client):
        asking = asyncio.ensure_future(answer(session.post("/", params=query(), data=tensor())))
        job_id = await queued(client)
        asking.cancel()

        async def is_cancelled():
            return (await client.broker.record(job_id)).state == "cancelled"

        await until(is_cancelled)

        going = asyncio.Event()

        async def half():
            yield tensor()[:100]
            await going.wait()

        asking = asyncio.ensure_future(answer(session.post("/", params=query(), data=half())))
        await until(lambda: has(client.scratch, True))
        asking.cancel()
        await until(lambda: has(client.scratch, False))
        assert [record.id for record in await client.broker.records()] == [job_id]


@in_a_loop
async def test_the_command_and_what_it_leaves_when_it_ends(ground):
    """Jobs of /v1/videos go on; nobody gets the video that a request waited for."""
    vae = vae_file(ground.folder / "wan21.safetensors", 16)
    await ground.prepare()
    path = filter(None, map(os.environ.get, ("PYTHONPATH", "AFP_TEST_PACKAGES")))
    env = {**os.environ, "AFP_FARM": ground.given(CLIENT), "PYTHONPATH": os.pathsep.join(path)}
    command = [sys.executable, "-m", "farm", "serve", "--http", "--port", "0", "--vae", vae]
    process = subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
    try:
        url = (await asyncio.to_thread(process.stderr.readline)).split()[-1]
        async with ground.client() as client, aiohttp.ClientSession() as session:
            asking = asyncio.ensure_future(answer(session.post(url, params=query(), data=tensor())))
            waited_for = await queued(client)
            _, made = await answer(session.post(f"{url}/v1/videos", params=query(), data=tensor()))
            process.terminate()
            assert await ended(process) == 0
            with pytest.raises(aiohttp.ClientError):
                await asking
            states = {record.id: record.state for record in await client.broker.records()}
            assert states == {waited_for: "cancelled", made["id"]: "queued"}
    finally:
        process.kill()
        process.communicate()


async def queued(client):
    found = []

    async def is_there():
        found[:] = [record.id for record in await client.broker.records()]
        return bool(found)

    await until(is_there)
    return found[0]


async def has(folder, something):
    return any(folder.iterdir()) == something


async def has_so_many(folder, count):
    return len(list(folder.iterdir())) == count


@pytest.mark.parametrize("network", [False, True], ids=["folder", "network"])
@in_a_loop
async def test_many_at_once(make_ground, network):
    """They store the same VAE and the same latent, and fetch the same video."""
    ground = make_ground(network=network)
    async with served(ground) as (session, client):
        ground.worker("w")
        asked = [answer(session.post("/", params=query(), data=tensor())) for _ in range(8)]
        got = await asyncio.gather(*asked)
        records = await client.broker.records()
        assert got == [(200, video_of(records[0]))] * 8 and len(records) == 8
        there = f"/v1/videos/{records[0].id}/content"
        assert await asyncio.gather(*(answer(session.get(there)) for _ in range(8))) == got
        await ground.nothing_is_left(client)


@in_a_loop
async def test_so_many_videos_are_copied_at_once_and_none_that_is_only_asked_about(ground, monkeypatch):
    running, most = 0, 0
    async with served(ground) as (session, client):
        ground.worker("w")
        _, made = await answer(session.post("/v1/videos", params=query(), data=tensor()))
        record, there, fetch = await client.wait(made["id"]), f"/v1/videos/{made['id']}/content", client.fetch

        async def counted(*arguments, **more):
            nonlocal running, most
            running, most = running + 1, max(most, running + 1)
            try:
                await asyncio.sleep(0.02)  # so that all are there
                return await fetch(*arguments, **more)
            finally:
                running -= 1

        monkeypatch.setattr(client, "fetch", counted)
        async with session.head(there) as response:
            assert (response.status, response.content_length) == (200, record.result.bytes)
            assert (response.content_type, most) == ("video/mp4", 0)
        got = await asyncio.gather(*(answer(session.get(there)) for _ in range(20)))
        assert got == [(200, video_of(record))] * 20 and most == 8


@in_a_loop
async def test_a_real_video_of_normalised_latents(make_ground, caplog):
    """As diffusers has them; and the worker says in one line what it did."""
    ground = make_ground(settings=Settings())  # whose worker is in this process, and would end it
    caplog.set_level(logging.INFO, "async-frame-pipeline.farm")
    normalised = bunny().to(torch.bfloat16)
    async with served(ground, [VAE]) as (session, client), Broker.connect(ground.address) as broker:
        settings = await broker.settings()
        blobs, scratch = blobs_of(settings, broker), Scratch(scratch_parent(settings))
        worker = Worker(broker, settings, blobs, scratch, "w", Decoder("cpu"))
        running = asyncio.ensure_future(worker.run())
        params = query(tuple(normalised.shape), "bfloat16", do_scaling="True")
        data = normalised.view(torch.uint8).numpy().tobytes()
        status, video = await answer(session.post("/", params=params, data=data))
        assert status == 200
        worker.stop()
        await running
        (record,) = await client.broker.records()
    (ground.folder / "there.mp4").write_bytes(video)
    here = decoded_here(ground.folder / "here.mp4", denormalised(normalised, "Wan 2.1"))
    assert (pictures(ground.folder / "there.mp4") == pictures(here)).all()
    (line,) = [line for line in caplog.messages if record.id in line]
    for told in (record.id, "attempt 1", "on w", "completed", "5 frames of 128x96", "MB", " s (", record.result.how):
        assert told in line


@pytest.mark.parametrize("data", [b"", b"weights", struct.pack("<Q", 1 << 60), struct.pack("<Q", 2) + b"{}"])
@in_a_loop
async def test_what_is_no_vae(ground, data):
    ground.vae.write_bytes(data)
    with pytest.raises(NoFarm, match="no VAE"):
        async with served(ground, [ground.vae]):
            pass


@in_a_loop
async def test_one_vae_a_family(ground):
    with pytest.raises(NoFarm, match="both"):
        async with served(ground, [VAE, vae_file(ground.folder / "other.safetensors", 16)]):
            pass
