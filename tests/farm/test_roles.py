"""What a token lets one do, and what it does not; and that nobody listens in on the way."""

import asyncio
import contextlib
import json

import nats
import nats.js.errors
import pytest

from ...farm import supervisor
from ...farm.broker import Broker
from ...farm.client import farm
from ...farm.roles import ADMIN, CLIENT, DOWN, ROLES, WORKER, role_of, token_of
from ...farm.server import Listen, Server, free_port
from ...farm.settings import Address, NoFarm, Unfit, address
from .conftest import in_a_loop
from .ground import SECRET

# What neither a client nor a worker may say; of each, what came of it would be seen.
FOR_NOBODY = [
    "$JS.API.STREAM.DELETE.JOBS",
    "$JS.API.STREAM.PURGE.JOBS",
    "$JS.API.STREAM.PURGE.KV_jobs",
    "$JS.API.STREAM.UPDATE.JOBS",
    "$JS.API.STREAM.CREATE.OTHER",
    "$JS.API.STREAM.MSG.DELETE.JOBS",
    "$JS.API.STREAM.SNAPSHOT.OBJ_results",
    "$JS.API.CONSUMER.DELETE.JOBS.s-std",
    "$JS.API.CONSUMER.CREATE.JOBS.x",
    "$JS.API.CONSUMER.DURABLE.CREATE.JOBS.x",
    "$KV.farm.settings",
    "farm.down",
]
NOT_FOR = {
    CLIENT: [
        "$JS.API.CONSUMER.MSG.NEXT.JOBS.s-std",
        "$JS.ACK.JOBS.s-std.1.1.1.1.0",
        "$O.results.M.x",
        "progress.x",
        "_INBOX.worker.x",
    ],
    WORKER: ["$JS.API.DIRECT.GET.OBJ_results", "$O.latents.M.x", "$O.vaes.C.x", "_INBOX.client.x"],
}
NOT_TO_HEAR = {
    CLIENT: [">", "_INBOX.>", "_INBOX.worker.>", "job.>", "$KV.>", "$O.>", "$JS.>", "workers.ask", "farm.down"],
    WORKER: [">", "_INBOX.>", "_INBOX.client.>", "$KV.>", "$O.>", "progress.*", "farm.down"],
}


@contextlib.asynccontextmanager
async def connected(ground, role):
    """A plain client of NATS with that token, and what it is refused."""
    refused = asyncio.Queue()

    async def note(error):
        await refused.put(str(error))

    connection = await nats.connect(
        ground.server.url, user=role, password=token_of(SECRET, role), inbox_prefix=f"_INBOX.{role}", error_cb=note
    )
    yield connection, refused
    await connection.close()


@pytest.mark.parametrize("role", [CLIENT, WORKER])
@in_a_loop
async def test_a_token_is_for_its_role_alone(make_ground, role):
    ground = make_ground(network=True)
    ground.trespasses = True
    await ground.prepare()
    async with ground.client() as client, connected(ground, role) as (connection, refused):
        job = await ground.submit(client)
        for subject in FOR_NOBODY + NOT_FOR[role]:
            await connection.publish(subject, b"{}")
            said = await asyncio.wait_for(refused.get(), 10)
            assert "publish" in said and subject.lower() in said.lower()
        for subject in NOT_TO_HEAR[role]:
            await connection.subscribe(subject)
            said = await asyncio.wait_for(refused.get(), 10)
            assert "subscription" in said and f'"{subject}"'.lower() in said.lower()
        # And nothing came of it.
        ground.worker("a")
        await ground.whole(client, job.id)
        assert await client.broker.settings() == ground.settings
        await ground.nothing_is_left(client)


@in_a_loop
async def test_a_client_cannot_have_others_do_what_it_may_not(ground):
    """A consumer brings what is stored to any subject: none of those that the broker itself, or its streams, hear."""
    await ground.prepare()
    async with ground.client() as client, connected(ground, CLIENT) as (connection, _):
        job = await ground.submit(client)
        for name, target in enumerate(("$JS.API.STREAM.DELETE.JOBS", "$KV.farm.settings", "$JS.API.STREAM.PURGE.JOBS")):
            config = {
                "deliver_subject": target,
                "ack_policy": "none",
                "filter_subject": "$KV.jobs.*",
                "name": str(name),
            }
            body = {"stream_name": "KV_jobs", "config": config}
            made = await connection.request(
                f"$JS.API.CONSUMER.CREATE.KV_jobs.{name}.$KV.jobs.*", json.dumps(body).encode(), timeout=10
            )
            assert "error" not in json.loads(made.data)
        ground.worker("a")
        await ground.whole(client, job.id)
        assert await client.broker.settings() == ground.settings


@in_a_loop
async def test_the_admin_ends_the_farm_and_a_client_that_has_the_broker_say_so_does_not(ground):
    await ground.prepare()
    stopping, heard = asyncio.Event(), asyncio.Event()

    async def note(_: dict) -> None:
        heard.set()

    async with Broker.connect(ground.address) as admin, ground.client() as client:
        await supervisor.hear_down(admin, SECRET, stopping)
        await admin.hear(DOWN, note)
        await client.broker.jetstream.publish(f"$KV.jobs.{'a' * 32}", b'{"proof": null}')
        config = {"deliver_subject": DOWN, "ack_policy": "none", "name": "x"}
        body = json.dumps({"stream_name": "KV_jobs", "config": config}).encode()
        made = await client.broker._nc.request("$JS.API.CONSUMER.CREATE.KV_jobs", body, timeout=10)
        assert "error" not in json.loads(made.data)
        await asyncio.wait_for(heard.wait(), 10)
        assert not stopping.is_set()
        assert await admin.ask_all(DOWN, 0.3, {"proof": token_of(SECRET, DOWN)}) == [{"ok": True}]
        assert stopping.is_set()


@in_a_loop
async def test_a_client_empties_no_list_of_records_and_queues_nothing_that_nobody_takes(ground):
    await ground.prepare()
    async with ground.client() as client:
        job = await ground.submit(client)
        publish = client.broker.jetstream.publish
        for which in ("all", "sub"):
            with pytest.raises(nats.js.errors.APIError, match="rollup"):
                await publish(f"$KV.jobs.{'a' * 32}", b"", headers={"Nats-Rollup": which})
        for subject in ("job.zz.std.u", "job.s.zz.u"):
            with pytest.raises(nats.js.errors.NoStreamResponseError):
                await publish(subject, b"")
        ground.worker("a")
        await ground.whole(client, job.id)
        await ground.nothing_is_left(client)


@pytest.mark.parametrize("token", ["", "guessed", "client-guessed", "worker-guessed"])
@in_a_loop
async def test_a_wrong_token_is_refused_at_once(ground, token):
    ground.trespasses = True
    with pytest.raises(Unfit, match="refuses the token"):
        async with Broker.connect(Address(ground.server.url, token), patience=30):
            pass


@in_a_loop
async def test_without_a_token_nobody_is_let_in(ground):
    with pytest.raises(nats.errors.Error, match="Authorization"):
        await nats.connect(ground.server.url, allow_reconnect=False)


def test_the_token_of_a_role_tells_nothing_of_the_others():
    tokens = {role: token_of(SECRET, role) for role in ROLES}
    assert {role_of(token): role for role, token in tokens.items()} == {role: role for role in ROLES}
    assert SECRET not in tokens[CLIENT] + tokens[WORKER] and len({token[-64:] for token in tokens.values()}) == 3


def test_a_token_in_the_wrong_place_is_named(monkeypatch):
    for role, other, advice in (
        (CLIENT, WORKER, "`python -m farm token client`, where the farm is"),
        (WORKER, CLIENT, "`python -m farm token worker`, where the farm is"),
        (ADMIN, CLIENT, "on the farm's machine, as the user who started it, without AFP_FARM and --server"),
    ):
        monkeypatch.setenv("AFP_FARM_TOKEN", token_of(SECRET, other))
        with pytest.raises(NoFarm, match=f"token of a {other}.*{advice}"):
            address("nats://10.0.0.1:4222", role)
        assert address("nats://10.0.0.1:4222", other).token == token_of(SECRET, other)


@in_a_loop
async def test_over_tls_with_a_certificate_of_ones_own(make_ground, certificate, monkeypatch, caplog):
    tls = {"tls_cert": str(certificate / "cert.pem"), "tls_key": str(certificate / "key.pem")}
    ground = make_ground(tls=tls)
    assert ground.given(CLIENT).startswith("tls://")
    with pytest.raises(NoFarm, match="certificate verify failed"):
        async with farm(ground.given(CLIENT), patience=0.5):
            pass
    monkeypatch.setenv("AFP_FARM_CA", tls["tls_cert"])
    await ground.prepare()
    async with ground.client() as client:
        job = await ground.submit(client)
        ground.worker("a")
        await ground.whole(client, job.id)
    assert "eof_received" not in caplog.text
    # Who speaks no TLS hears nothing, and says nothing that others could hear.
    with pytest.raises(NoFarm):
        async with farm(ground.given(CLIENT).replace("tls:", "nats:"), patience=0.5):
            pass


@in_a_loop
async def test_a_name_that_the_certificate_is_not_for_is_refused(make_ground, certificate, monkeypatch):
    tls = {"tls_cert": str(certificate / "cert.pem"), "tls_key": str(certificate / "key.pem")}
    ground = make_ground(tls=tls)
    monkeypatch.setenv("AFP_FARM_CA", tls["tls_cert"])
    with pytest.raises(NoFarm, match="localhost"):
        async with farm(ground.given(CLIENT).replace("127.0.0.1", "localhost"), patience=0.5):
            pass


def test_what_others_could_reach_needs_tls(tmp_path):
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(NoFarm, match="tls"):
            Listen(host)
    with pytest.raises(NoFarm, match="there is no file"):
        Listen("0.0.0.0", 0, str(tmp_path / "none"), str(tmp_path / "none"))
    assert Listen("127.0.0.1") and Listen("::1") and Listen("localhost")


def test_nobody_listens_without_a_secret(tmp_path):
    with pytest.raises(AssertionError):
        Server(tmp_path / "server", Listen(port=free_port("127.0.0.1", 0)), "")


def test_the_tokens_are_for_their_owner_alone(ground):
    assert (ground.folder / "server" / "nats.conf").stat().st_mode & 0o077 == 0
