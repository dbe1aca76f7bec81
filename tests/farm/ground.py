"""A farm to try things on: a real server, workers that are processes, and a look at all that they leave."""

import asyncio
import contextlib
import dataclasses
import functools
import json
import os
import queue
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

from ...farm import messages
from ...farm.blobs import KINDS, Objects, sha256_of
from ...farm.broker import STREAM, Broker
from ...farm.client import farm
from ...farm.roles import CLIENT, WORKER, token_of
from ...farm.server import Listen, Server, free_port
from ...farm.settings import Address, Settings
from ...farm.worker import TELL
from ..conftest import ROOT

# Everything that a test waits for comes sooner, or not at all.
PATIENCE_SECONDS = 40
SHORT = Settings(lease_seconds=1.0, first_frame_seconds=2.0, frame_seconds=2.0)
SECRET = "secret"
SHAPE = (1, 16, 2, 3, 4)


def latent_file(path: Path, number: int = 0) -> Path:
    """A safetensors file of float32 zeros, but for the first, which is `number`; without torch."""
    count = 1
    for size in SHAPE:
        count *= size
    header = json.dumps({"latent_tensor": {"dtype": "F32", "shape": SHAPE, "data_offsets": [0, 4 * count]}}).encode()
    values = struct.pack("<f", number) + bytes(4 * (count - 1))
    path.write_bytes(struct.pack("<Q", len(header)) + header + values)
    return path


def started(script: str, *arguments: object, **more: object) -> subprocess.Popen:
    """A script beside this one, in a process of its own; upper case: its environment, the rest: as of Popen."""
    # As in scripts/test: what pytest was given to see, the others are too.
    path = [str(ROOT), *filter(None, map(os.environ.get, ("PYTHONPATH", "AFP_TEST_PACKAGES")))]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    env |= {name: more.pop(name) for name in [*more] if name.isupper()}
    return subprocess.Popen([sys.executable, Path(__file__).with_name(script), *map(str, arguments)], env=env, **more)


class Forked:
    """A worker's process, as of Popen: it is no child of this one."""

    def __init__(self, pid: int, statuses: dict[int, int]):
        self.pid, self._statuses = pid, statuses

    def poll(self) -> int | None:
        return self._statuses.get(self.pid)

    def wait(self, seconds: float = 10.0) -> int:
        deadline = time.monotonic() + seconds
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), seconds)
            time.sleep(0.005)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


class Nursery:
    """One process that has imported all that workers need, and forks them; it ends with this one."""

    def __init__(self):
        self._process = started("a_worker.py", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._pids: queue.Queue[int] = queue.Queue()
        self._statuses: dict[int, int] = {}
        threading.Thread(target=self._hear, daemon=True).start()

    def _hear(self) -> None:
        for line in self._process.stdout:
            pid, what = line.split()
            if what == "started":
                self._statuses.pop(int(pid), None)  # of another one, long ago
                self._pids.put(int(pid))
            else:
                self._statuses[int(pid)] = int(what)

    def start(self, server: str, arguments: list[str]) -> Forked:
        environment = {"AFP_FARM": server, "AFP_FARM_CA": os.environ.get("AFP_FARM_CA", "")}
        self._process.stdin.write(json.dumps({"environment": environment, "arguments": arguments}) + "\n")
        self._process.stdin.flush()
        return Forked(self._pids.get(timeout=PATIENCE_SECONDS), self._statuses)


nursery = functools.cache(Nursery)


class Ground:
    """Made by the fixture `ground`.

    Args:
        folder: an empty one.
        network: files in the broker.
        tls: `tls_cert` and `tls_key`, of `Listen`.
    """

    def __init__(self, folder: Path, settings: Settings = SHORT, network: bool = False, tls: dict | None = None):
        self.folder, self.network = folder, network
        self.files = folder / "files"
        self.files.mkdir()
        self.settings = settings if network else dataclasses.replace(settings, folder=str(self.files))
        self.vae = folder / "vae.safetensors"
        self.vae.write_bytes(b"weights")
        self.server = Server(folder / "server", Listen(port=free_port("127.0.0.1", 0), **(tls or {})), SECRET)
        self.address = Address(self.server.url, SECRET, (tls or {}).get("tls_cert", ""))
        self.trespasses = False
        self._processes: list[subprocess.Popen | Forked] = []
        self.server.start()

    def close(self):
        for each in self._processes:
            each.kill()
            each.wait()
        self.server.kill()
        log = (self.folder / "server" / "nats.log").read_text()
        # Clients and workers do with their tokens all that they do in these tests.
        assert self.trespasses or "Violation" not in log, log

    def given(self, role: str, port: int = 0) -> str:
        """The address with the token of a role, at another port of this machine."""
        scheme = self.server.url.partition(":")[0]
        return f"{scheme}://{token_of(SECRET, role)}@127.0.0.1:{port or self.server.listen.port}"

    async def prepare(self):
        async with Broker.connect(self.address) as broker:
            await broker.prepare(self.settings)
            if self.network:
                await Objects.prepare(broker.jetstream)

    def worker(self, name: str, *arguments: object, port: int = 0) -> Forked:
        """See a_worker.py."""
        process = nursery().start(self.given(WORKER, port), [name, *map(str, arguments)])
        self._processes.append(process)
        return process

    def killed_client(self, job_id: str, at: str) -> subprocess.Popen:
        """One that submits the latent 0, and is killed at that moment."""
        latent = latent_file(self.folder / "0.latent")
        target = self.folder / f"{job_id}.mp4"
        process = started("a_client.py", latent, self.vae, target, job_id, "--at", at, AFP_FARM=self.given(CLIENT))
        self._processes.append(process)
        return process

    def kill_server(self):
        self.server.kill()

    @contextlib.asynccontextmanager
    async def client(self, role: str = CLIENT):
        async with farm(self.given(role)) as client:
            yield client

    async def idle(self, *names: str):
        """Wait until all of these workers have said that they have nothing to do."""
        missing, done = set(names), asyncio.Event()

        async def hear(values: dict) -> None:
            if "classes" in values:
                missing.discard(values["name"])
            if not missing:
                done.set()

        async with Broker.connect(self.address) as broker:
            await broker.hear(TELL, hear)
            await asyncio.wait_for(done.wait(), PATIENCE_SECONDS)

    async def submit(self, client, /, name_prefix: str = "video", number: int = 0, **of_the_job):
        latent = latent_file(self.folder / f"{number}.latent", number)
        record = await client.submit(latent, self.vae, name_prefix=name_prefix, **of_the_job)
        assert record.job.latent.sha256 == sha256_of(latent)
        return record

    async def whole(self, client, job_id: str) -> messages.Record:
        """Wait for the video and see that it is the right one."""
        target = self.folder / f"{job_id}.mp4"
        await client.fetch(job_id, target)
        record = await client.broker.record(job_id)
        frames = [f"{record.job.latent.sha256} {frame}\n".encode() * 100 for frame in range(5)]
        assert target.read_bytes() == b"".join(frames) and record.state == "completed"
        return record

    async def left(self, client) -> dict:
        """What is in the queue, and which results there are."""
        state = (await client.broker.jetstream.stream_info(STREAM)).state
        return {"queued": state.messages, "results": sorted(name for name, *_ in await client._blobs.names("results"))}

    async def nothing_is_left(self, client):
        """One result for each job that has one and no other, an empty queue, nothing unfinished of who is gone."""
        await until(lambda: self._is_clean(client))
        if not self.network:
            alive = {str(each.pid) for each in self._processes if each.poll() is None} | {str(os.getpid())}
            parts = [path for path in self.folder.rglob("*") if path.name.startswith(".") or ".part" in path.name]
            assert parts == []
            assert {path.name for path in self.files.iterdir()} <= {*KINDS, "scratch"}
            client._scratch.sweep()
            left = {path.name.rpartition(".")[2] for path in (self.files / "scratch").iterdir()}
            assert left <= alive

    async def _is_clean(self, client):
        named = sorted(record.result.name for record in await client.broker.records() if record.result)
        return await self.left(client) == {"queued": 0, "results": named}


async def until(condition, seconds: float = PATIENCE_SECONDS):
    """Wait for something that comes."""

    async def wait():
        while not await condition():
            await asyncio.sleep(0.05)

    await asyncio.wait_for(wait(), seconds)


def gone(process: subprocess.Popen) -> int:
    """Wait for its end, and give its status."""
    return process.wait(PATIENCE_SECONDS)


async def ended(process: subprocess.Popen) -> int:
    return await asyncio.to_thread(gone, process)


async def stopped(process: subprocess.Popen):
    """Wait until it has stopped itself."""

    async def is_stopped():
        assert process.poll() is None
        status = Path(f"/proc/{process.pid}/stat").read_text()
        return status.rpartition(")")[2].split()[0] == "T"

    await until(is_stopped)
