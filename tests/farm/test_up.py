"""The commands, as users type them, with the real decoder: up, a video, the supervisor killed, up again, down."""

import asyncio
import dataclasses
import errno
import json
import os
import re
import signal
import subprocess
import sys
import types

import psutil
import pytest
from nats.js.api import StreamConfig

from ...farm import blobs, commands, decode, supervisor
from ...farm.broker import RECORDS, Broker
from ...farm.client import farm
from ...farm.server import Listen, Server, free_port
from ...farm.settings import NOT_YET, UNFIT, Address, NoFarm, Settings, Unfit, write_private
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
    up, why, none, ended = said.splitlines()
    assert "is up" in up and "has ended" in ended and not (tmp_path / "home" / "nats.pid").exists()
    assert re.fullmatch(r"GPU 99 was asked for, and .+: --gpus takes numbers that nvidia-smi lists, or cpu", why)
    assert "no worker is left" in none


@pytest.fixture
def an_old_gpu(tmp_path, monkeypatch):
    """For workers of `command`: torch finds a GPU of Pascal, which it was not built for."""
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "sitecustomize.py").write_text(PASCAL)
    path = [str(tmp_path / "old"), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))


PASCAL = """
import os, sys

if "work" in sys.orig_argv and os.environ.get("CUDA_VISIBLE_DEVICES"):
    import torch

    def ones(*size, device=None, **more):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    torch.cuda.is_available = lambda: True
    torch.cuda.get_device_capability = lambda *_: (6, 1)
    torch.cuda.get_arch_list = lambda: ["sm_75", "sm_120"]
    torch.ones = ones
"""
OLD = r"GPU 0 was asked for, and torch \S+ is built for sm_75, sm_120.*; the fast decoder .*older than Turing.*, or cpu"


def test_a_gpu_that_cannot_decode_ends_it_with_a_line(an_old_gpu, command):
    asked = command("up", "--gpus", "0", wait=False, stderr=subprocess.PIPE)
    _, said = asked.communicate(timeout=PATIENCE_SECONDS)
    assert asked.returncode == 1
    _, why, none, ended = said.splitlines()
    assert re.fullmatch(OLD, why) and "no worker is left" in none and "has ended" in ended


@in_a_loop
async def test_beside_a_gpu_that_cannot_decode_the_others_do(an_old_gpu, command, tmp_path):
    with open(tmp_path / "said", "w") as said:
        up = command("up", "--gpus", "0,cpu", wait=False, stderr=said)
    await is_up(tmp_path)
    await until(lambda: is_said(tmp_path, "GPU 0"))
    async with farm() as client:
        job = await client.submit(saved(tmp_path / "a.latent", bunny()), VAE)
        await client.fetch(job.id, tmp_path / "a.mp4")
    assert (await asyncio.to_thread(command, "down"))[0] == 0
    assert await asyncio.to_thread(up.wait, PATIENCE_SECONDS) == 0
    assert [bool(re.fullmatch(OLD, line)) for line in (tmp_path / "said").read_text().splitlines()].count(True) == 1
    assert "once more in" not in (tmp_path / "said").read_text()


async def is_said(tmp_path, text):
    return text in (tmp_path / "said").read_text().partition("\n")[2]


@pytest.mark.parametrize(
    ("raised", "line"),
    [
        (ModuleNotFoundError(name="torch"), "A worker needs torch: see docs/farm.md\n"),
        (Unfit("the token is refused"), "the token is refused\n"),
    ],
)
def test_what_starting_again_cannot_cure_is_a_line_and_a_status(monkeypatch, capsys, raised, line):
    async def work(_):
        raise raised

    monkeypatch.setattr(commands, "work", work)
    assert commands.main(["work", "a"]) == UNFIT
    assert capsys.readouterr().err == line


def test_the_status_is_a_workers_alone(monkeypatch):
    async def status(_):
        raise Unfit("the token is refused")

    monkeypatch.setattr(commands, "status", status)
    assert commands.main(["status"]) == 1


LIBRARY = "libtorch_cuda.so: undefined symbol: ncclCommShrink"


@pytest.mark.parametrize(
    "raised",
    [
        ImportError(LIBRARY),
        OSError(LIBRARY),  # as of ctypes: it has no number
        ModuleNotFoundError(LIBRARY, name="torch._C"),
        RuntimeError(LIBRARY),  # numpy's, of modules that were compiled for another one
    ],
)
def test_libraries_that_cannot_be_loaded_are_a_line(monkeypatch, raised):
    monkeypatch.setitem(sys.modules, decode.__name__, Unloaded(raised))
    with pytest.raises(Unfit, match=f"cannot be loaded: .*{LIBRARY}.*docs/farm.md"):
        commands._decoder(commands.parse(["work", "a"]))


def test_a_comfyui_that_is_gone_is_a_line(tmp_path):
    with pytest.raises(Unfit, match=f"no ComfyUI in {tmp_path}: "):
        commands._decoder(commands.parse(["work", "a", "--comfyui", str(tmp_path)]))


@pytest.mark.parametrize(
    "raised",
    [
        RuntimeError("CUDA error: out of memory\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1"),
        OSError(errno.EMFILE, "too many open files"),
        MemoryError(),
    ],
)
@pytest.mark.parametrize("is_loaded", [False, True])
def test_what_may_pass_is_tried_again(monkeypatch, capsys, raised, is_loaded):
    if is_loaded:
        monkeypatch.setattr(decode, "Decoder", raises(raised))
    else:
        monkeypatch.setitem(sys.modules, decode.__name__, Unloaded(raised))

    async def work(given):
        commands._decoder(given)

    monkeypatch.setattr(commands, "work", work)
    assert commands.main(["work", "a"]) == NOT_YET
    said = capsys.readouterr().err
    assert said.startswith("a worker cannot be here for now: ") and type(raised).__name__ in said
    assert said.count("\n") == 1


def test_a_folder_that_nobody_may_write_is_a_line(monkeypatch, tmp_path):
    """Whoever runs the tests may."""
    for number, is_unfit in ((errno.EACCES, True), (errno.EROFS, True), (errno.ENOSPC, False)):
        monkeypatch.setattr(blobs, "Scratch", raises(OSError(number, os.strerror(number))))
        with pytest.raises(Unfit if is_unfit else OSError, match=os.strerror(number)):
            commands._scratch(tmp_path)


class Unloaded(types.ModuleType):
    """A module whose import raises."""

    def __init__(self, error):
        super().__init__("unloaded")
        self.error = error

    def __getattr__(self, name):
        raise AttributeError(name) if name.startswith("__") else self.error


def raises(error):
    def made(*_):
        raise error

    return made


def test_one_that_was_there_is_waited_for():
    """As is whoever ended for another reason, and so was there."""
    for statuses in ([(NOT_YET, False), (UNFIT, True)], [(UNFIT, True), (1, False), (UNFIT, False)]):
        worker = supervisor.KeptWorker("a", [], {})
        for status, is_unfit in statuses:
            ending(worker, status)
            worker.start()
            worker.process.wait()
            assert worker.is_unfit() == is_unfit


@in_a_loop
async def test_one_that_cannot_be_here_is_started_once_while_the_others_go_on(monkeypatch):
    monkeypatch.setattr(supervisor, "BACKOFF_SECONDS", 0.0)
    unfit, fit = supervisor.KeptWorker("unfit", [], {}), supervisor.KeptWorker("fit", [], {})
    ending(unfit, UNFIT)
    fit._command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    stopping, starts = asyncio.Event(), []
    start = unfit.start

    def counted():
        starts.append(1)
        start()

    class Looks(supervisor.Kept):
        """The last one to be looked after."""

        seen = 0

        def look(self):
            self.seen += bool(starts) and not unfit.is_alive()
            if self.seen == 5:
                assert fit.is_alive()
                stopping.set()

        def is_alive(self):
            return True

        def start(self):
            pass

    unfit.start, looks = counted, Looks("looks")
    assert await supervisor.keep([unfit, fit, looks], stopping) == 0
    assert (len(starts), looks.seen) == (1, 5)
    assert fit.process.wait() == 0


@in_a_loop
async def test_it_ends_where_none_can_be_here_and_says_so_once(caplog):
    workers = [supervisor.KeptWorker(name, [], {}) for name in "ab"]
    for each in workers:
        ending(each, UNFIT)
    assert await supervisor.keep(workers, asyncio.Event()) == 1
    assert caplog.text.count("no worker is left") == 1


def ending(worker, status):
    worker._command = [sys.executable, "-c", f"exit({status})"]


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
