"""The commands, as users type them, with the real decoder: up, a video, the supervisor killed, up again, down."""

import asyncio
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys

import psutil
import pytest
from nats.js.api import StreamConfig

from ...farm import commands, supervisor
from ...farm.broker import RECORDS, Broker
from ...farm.client import farm
from ...farm.server import Listen, Server, free_port
from ...farm.settings import UNFIT, Address, NoFarm, Settings, write_private
from ..conftest import ROOT
from .conftest import in_a_loop
from .ground import PATIENCE_SECONDS, until
from .test_decode import VAE, bunny, decoded_here, pictures, saved


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Run `python -m farm ...`, with a farm of its own."""
    path = [*filter(None, map(os.environ.get, ("PYTHONPATH", "AFP_TEST_PACKAGES")))]
    monkeypatch.setenv("AFP_FARM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("AFP_FARM", raising=False)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    started = []

    def run(*arguments, wait=True, **more):
        more = {"stdout": subprocess.PIPE, **more}
        process = subprocess.Popen([sys.executable, "-m", "farm", *arguments], cwd=ROOT, env=env, text=True, **more)
        started.append(process)
        if not wait:
            return process
        said, _ = process.communicate(timeout=PATIENCE_SECONDS)
        return process.returncode, said

    yield run
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait()


@in_a_loop
async def test_up_killed_up_again_and_down(command, tmp_path, certificate):
    """The second time with TLS, as for other machines."""
    latent = saved(tmp_path / "a.latent", bunny())
    supervisor = command("up", "--gpus", "cpu", "--lease", "2", wait=False)
    await is_up(tmp_path)
    children = psutil.Process(supervisor.pid).children(recursive=True)
    assert (tmp_path / "home" / "farm.json").stat().st_mode & 0o077 == 0
    groups = {os.getpgid(each.pid) for each in children}
    assert os.getpgid(supervisor.pid) not in groups, "Ctrl-C is the supervisor's alone"
    listening = {each.laddr.ip for child in children for each in child.net_connections() if each.status == "LISTEN"}
    assert listening == {"127.0.0.1"}
    async with farm() as client:
        first = await client.submit(latent, VAE)
        await client.fetch(first.id, tmp_path / "first.mp4")
        here = decoded_here(tmp_path / "here.mp4", bunny())
        assert (pictures(tmp_path / "first.mp4") == pictures(here)).all()
        # Its worker is killed, and another one is started.
        worker = next(child for child in children if "work" in child.cmdline())
        worker.kill()
        second = await client.submit(latent, VAE)
        os.kill(supervisor.pid, signal.SIGKILL)
    supervisor.wait()
    await until(lambda: are_gone(children))

    tls = ("--tls-cert", str(certificate / "cert.pem"), "--tls-key", str(certificate / "key.pem"))
    with open(tmp_path / "said", "w") as said:
        again = command("up", "--gpus", "cpu", *tls, wait=False, stderr=said)
    await is_up(tmp_path)
    status, said = await asyncio.to_thread(command, "token", "worker")
    assert status == 0 and "AFP_FARM=tls://127.0.0.1:" in said and "AFP_FARM_TOKEN=worker-" in said
    async with farm() as client:
        await client.fetch(second.id, tmp_path / "second.mp4")
        assert (pictures(tmp_path / "second.mp4") == pictures(here)).all()
    status, said = await asyncio.to_thread(command, "status", "--json")
    assert status == 0 and json.loads(said)["jobs"] == {"completed": 2}
    assert len(json.loads(said)["workers"]) == 1
    status, said = await asyncio.to_thread(command, "jobs")
    assert status == 0 and said.startswith("id ") and said.count("completed") == 2
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write) as nobody_reads:
        cut = command("jobs", wait=False, stdout=nobody_reads, stderr=subprocess.PIPE)
    _, complained = await asyncio.to_thread(cut.communicate)
    assert (cut.returncode, complained) == (commands.BROKEN_PIPE, "")
    assert (await asyncio.to_thread(command, "cancel", "nobody"))[0] == 1
    status, said = await asyncio.to_thread(command, "down")
    assert status == 0 and "has ended" in said and said.count("\n") == 1
    assert await asyncio.to_thread(again.wait, PATIENCE_SECONDS) == 0
    assert "has ended" in (tmp_path / "said").read_text().splitlines()[-1]
    assert not (tmp_path / "home" / "nats.pid").exists()
    assert (await asyncio.to_thread(command, "jobs"))[0] == 1, "nothing answers any more"


def test_a_gpu_that_is_not_there_ends_it_with_a_line(command, tmp_path):
    """It would not be there the next time either."""
    asked = command("up", "--gpus", "99", wait=False, stderr=subprocess.PIPE)
    _, said = asked.communicate(timeout=PATIENCE_SECONDS)
    assert asked.returncode == 1
    up, why, ended = said.splitlines()
    assert "is up" in up and "has ended" in ended and not (tmp_path / "home" / "nats.pid").exists()
    assert re.fullmatch(r"GPU 99 was asked for, and .+: --gpus takes numbers that nvidia-smi lists, or cpu", why)


def test_without_what_a_worker_needs_it_is_not_started_again(monkeypatch, capsys):
    async def work(_):
        raise ModuleNotFoundError(name="torch")

    monkeypatch.setattr(commands, "work", work)
    assert commands.main(["work", "a"]) == UNFIT
    assert capsys.readouterr().err == "A worker needs torch: see docs/farm.md\n"


def test_one_that_was_there_is_waited_for(tmp_path):
    """As is whoever ended for another reason."""
    worker = supervisor.KeptWorker("a", [], {})
    for status, is_unfit in ((UNFIT, True), (1, False), (UNFIT, False)):
        worker._command = [sys.executable, "-c", f"exit({status})"]
        worker.start()
        worker.process.wait()
        assert worker.is_unfit() == is_unfit


def test_one_supervisor_at_a_time_whatever_their_numbers(tmp_path):
    """In a container the one that was killed had the number of the next; elsewhere anything may have it by now."""
    (tmp_path / "farm.json").write_text(json.dumps({"url": "nats://127.0.0.1:4222", "pid": os.getppid()}))
    with supervisor.only_one(tmp_path), pytest.raises(NoFarm, match="up already, at nats://127.0.0.1:4222"):
        supervisor.only_one(tmp_path)
    supervisor.only_one(tmp_path).close()


def test_a_home_may_have_any_name(tmp_path):
    server = Server(tmp_path / 'Jörg "J" 李', Listen(port=free_port("127.0.0.1", 0)), "secret")
    server.start()
    server.stop()
    assert (server.folder / "nats.log").is_file()


def test_the_address_is_written_once_nobody_reads_it_any_more(tmp_path, monkeypatch):
    """As on Windows, where no file is replaced that somebody has open."""
    replace, refused = os.replace, []

    def refuse_twice(*paths):
        if len(refused) < 2:
            refused.append(paths)
            raise PermissionError("it is used by another process")
        replace(*paths)

    monkeypatch.setattr(os, "replace", refuse_twice)
    write_private(tmp_path / "farm.json", "{}")
    assert (tmp_path / "farm.json").read_text() == "{}" and len(refused) == 2


def test_a_server_that_does_not_start_says_why_in_a_line(tmp_path):
    """And not what it said when it was started before."""
    server = Server(tmp_path, Listen(port=free_port("127.0.0.1", 0)), "secret")
    server.start()
    server.stop()
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    server = Server(tmp_path, dataclasses.replace(server.listen, tls_cert=str(broken), tls_key=str(broken)), "secret")
    with pytest.raises(NoFarm, match="did not start: .*certificate") as refused:
        server.start()
    assert "\n" not in str(refused.value) and "[INF]" not in str(refused.value)


@in_a_loop
async def test_what_another_version_left_is_told_and_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("AFP_FARM_HOME", str(tmp_path))
    server = Server(tmp_path, Listen(port=free_port("127.0.0.1", 0)), "secret")
    server.start()
    async with Broker.connect(Address(server.url, "secret")) as broker:
        # Records had a time to live once.
        kept = StreamConfig(name=f"KV_{RECORDS}", subjects=[f"$KV.{RECORDS}.>"], allow_msg_ttl=True)
        await broker.jetstream.add_stream(kept)
    server.stop()
    with pytest.raises(NoFarm, match=f"another version of the farm made {tmp_path / 'jetstream'}.*: delete"):
        await supervisor.up(Listen(), Settings(), [], [], network=False)
    assert (tmp_path / "jetstream").is_dir() and not (tmp_path / "nats.pid").exists()


def test_without_tls_others_are_not_let_in(command):
    status, _ = command("up", "--listen", "0.0.0.0")
    assert status == 1


async def is_up(tmp_path):
    async def answers():
        try:
            return "url" in json.loads((tmp_path / "home" / "farm.json").read_text()) and await can_connect()
        except (OSError, ValueError):
            return False

    await until(answers)


async def can_connect():
    try:
        async with farm(patience=0.5):
            return True
    except NoFarm:
        return False


async def are_gone(processes):
    return all(not each.is_running() or each.status() == psutil.STATUS_ZOMBIE for each in processes)
