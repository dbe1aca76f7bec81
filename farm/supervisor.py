"""`farm up` and `farm worker`: processes that are started, watched, and started again when they end.

The server listens on the loopback with a token, unless told otherwise. Workers are processes of their own, one for each
GPU that is named, so that one that crashes or hangs costs its job one attempt and nothing else.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import dataclasses
import hmac
import json
import logging
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import nats.js.errors
import psutil

from .blobs import KINDS, Objects
from .broker import Broker
from .client import blobs_of
from .roles import DOWN, WORKER, token_of
from .server import Listen, Server, apart, free_port
from .settings import NOT_YET, UNFIT, Address, NoFarm, Settings, home, write_private
from .sweep import keep_sweeping

LOOK_SECONDS = 0.1
SWEEP_SECONDS = 30.0
# Between two looks at whether the server can store.
PROBE_SECONDS = 10.0
# Before what ended is started again; doubled each time, from the first on once it lived for LIVED_SECONDS.
BACKOFF_SECONDS, MOST_BACKOFF_SECONDS, LIVED_SECONDS = 0.5, 30.0, 60.0
STOP_SECONDS = 10
# Of workers and server together, and some more.
MOST_STOP_SECONDS = STOP_SECONDS + 10
ENDED = "the farm at {} has ended; what waits stays, for the next `python -m farm up`"
# The broker's numbers for: there is a stream of that name, and what it is set to cannot become this.
UNCHANGEABLE = (10052, 10058)
if sys.platform == "win32":
    import msvcrt
else:
    import fcntl
log = logging.getLogger("async-frame-pipeline.farm")


class Kept(abc.ABC):
    """Something that is kept running."""

    def __init__(self, name: str):
        self.name = name
        self._wait, self._began, self._due = BACKOFF_SECONDS, 0.0, 0.0

    def look(self) -> None:
        """Start it where it has ended and its time has come."""
        now = time.monotonic()
        if self.is_alive() or now < self._due:
            return
        if self._began and not self._due:
            self._wait = BACKOFF_SECONDS if now - self._began > LIVED_SECONDS else self._wait
            self._due = now + self._wait
            self._wait = min(MOST_BACKOFF_SECONDS, 2 * self._wait)
            log.warning("%s has ended: %s; once more in %.1f s", self.name, self.how(), self._due - now)
            return
        self._due, self._began = 0.0, now
        self.start()

    @abc.abstractmethod
    def is_alive(self) -> bool: ...

    @abc.abstractmethod
    def start(self) -> None: ...

    def how(self) -> str:
        return ""


class KeptServer(Kept):
    def __init__(self, server: Server):
        super().__init__("the server")
        self.server = server

    def is_alive(self) -> bool:
        return self.server.is_alive()

    def start(self) -> None:
        try:
            self.server.start()
        except NoFarm as error:
            log.error("%s", error)


class KeptWorker(Kept):
    """Args:
    name: unique in the farm.
    arguments: of `farm work`.
    environment: beside this process's own.
    """

    def __init__(self, name: str, arguments: Sequence[str], environment: dict[str, str]):
        super().__init__(name)
        self._command = [sys.executable, str(Path(__file__).with_name("__main__.py")), "work", name, *arguments]
        self._environment = environment
        self.process: subprocess.Popen | None = None
        self._was_fit = False

    def look(self) -> None:
        if not self.is_unfit():
            super().look()

    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        # Who ended otherwise got as far as to have its decoder; or was killed, which says nothing.
        self._was_fit |= self.process is not None and self.process.poll() not in (UNFIT, NOT_YET)
        # Its standard input ends when this process does, however that ends: see `commands.work`.
        self.process = subprocess.Popen(
            self._command, env={**os.environ, **self._environment}, stdin=subprocess.PIPE, **apart()
        )

    def how(self) -> str:
        return f"status {self.process.returncode}" if self.process is not None else ""

    def is_unfit(self) -> bool:
        """Whether it could not be here at all, and said why: it is not started again. One that could once may again:
        a GPU comes back, a folder is mounted.
        """
        return not self._was_fit and self.process is not None and self.process.poll() == UNFIT

    def stop(self) -> None:
        """Let it give back what it has; does not wait."""
        if self.process is not None and self.is_alive():
            self.process.stdin.close()


def workers_for(gpus: Sequence[str], address: Address, more: Sequence[str]) -> list[KeptWorker]:
    """One for each of `gpus`: numbers as the driver counts, or "cpu"; another of the same is another worker.

    Args:
        more: arguments of `farm work`.
    """
    kept = []
    machine = re.sub(r"[^A-Za-z0-9_-]", "_", socket.gethostname())[:40]
    for index, gpu in enumerate(gpus):
        environment = {"AFP_FARM": address.url.replace("://", "://" + address.token + "@"), "AFP_FARM_CA": address.ca}
        arguments = ["--device", "cpu" if gpu == "cpu" else "cuda", *more]
        if gpu == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        else:
            environment |= {"CUDA_VISIBLE_DEVICES": gpu, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        kept.append(KeptWorker(f"{machine}-{gpu}-{index}-{os.getpid()}", arguments, environment))
    return kept


def _named(gpus: Sequence[str]) -> str:
    return ", ".join("the CPU" if gpu == "cpu" else f"GPU {gpu}" for gpu in gpus) or "none"


async def keep(kept: Sequence[Kept], stopping: asyncio.Event) -> int:
    """Look after them until `stopping`, or until all workers are unfit; then stop the workers.

    Returns:
        The exit status: 1 where all are unfit.
    """
    workers = [each for each in kept if isinstance(each, KeptWorker)]

    def is_any_left() -> bool:
        return not workers or not all(each.is_unfit() for each in workers)

    while not stopping.is_set() and is_any_left():
        for each in kept:
            each.look()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stopping.wait(), LOOK_SECONDS)
    status = int(not is_any_left())
    if status:
        log.error("no worker is left: above is said why each of them could not be here, and what to do")
    for each in workers:
        each.stop()
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline and any(each.is_alive() for each in workers):
        await asyncio.sleep(LOOK_SECONDS)
    for each in workers:
        if each.is_alive():
            each.process.kill()
    return status


async def up(listen: Listen, settings: Settings, gpus: Sequence[str], more: Sequence[str], network: bool) -> int:
    """The server and this machine's workers, until a signal or `farm down`, or until all of these are unfit.

    Args:
        settings: where its folder is "", one in `home()` is taken.
        more: arguments of `farm work`.
        network: keep files in the broker, for workers that see no folder of this machine.
    Returns:
        The exit status.
    Raises:
        NoFarm: there is one already, or it cannot be started.
    """
    folder = _made(home())
    with only_one(folder):
        return await _up(folder, listen, settings, gpus, more, network)


async def _up(
    folder: Path, listen: Listen, settings: Settings, gpus: Sequence[str], more: Sequence[str], network: bool
) -> int:
    _end_what_is_left(folder)
    there = _there(folder)
    token = there.get("token") or secrets.token_hex(32)
    port = free_port(listen.host, listen.port or there.get("port", 0))
    if listen.port and port != listen.port:
        raise NoFarm(f"port {listen.port} of {listen.host} is taken: name another one, or none")
    server = Server(folder, dataclasses.replace(listen, port=port), token)
    address = Address(server.url, token, listen.tls_cert)
    if not network:
        files = _made(Path(settings.folder or folder / "files"))
        settings = dataclasses.replace(settings, folder=str(files.resolve()))
    stopping = stopped_by_signals()
    server.start()
    try:
        async with Broker.connect(address, name="supervisor") as broker:
            try:
                await broker.prepare(settings)
                if network:
                    await Objects.prepare(broker.jetstream)
            except nats.js.errors.APIError as error:
                if error.err_code not in UNCHANGEABLE:
                    raise
                raise NoFarm(
                    f"another version of the farm made {folder / 'jetstream'}, and it cannot be changed "
                    f"({error.description}): delete that folder, with the jobs in it, and run this again"
                ) from error
            await hear_down(broker, token, stopping)
            values = {"url": address.url, "token": token, "ca": address.ca, "port": port}
            write_private(folder / "farm.json", json.dumps(values))
            log.info("the farm is up at %s, its workers here: %s", address.url, _named(gpus))
            kept = KeptServer(server)
            kept._began = time.monotonic()
            sweeping = asyncio.ensure_future(keep_sweeping(broker, blobs_of(settings, broker), settings, SWEEP_SECONDS))
            probing = asyncio.ensure_future(keep_probing(broker, server, KINDS if network else (), PROBE_SECONDS))
            try:
                of_workers = dataclasses.replace(address, token=token_of(token, WORKER))
                status = await keep([kept, *workers_for(gpus, of_workers, more)], stopping)
            finally:
                sweeping.cancel()
                probing.cancel()
    finally:
        server.stop()
        # The token and the port stay, so that others come back to it.
        values = {"token": token, "port": port}
        write_private(folder / "farm.json", json.dumps(values))
    log.info(ENDED.format(server.url))
    return status


async def hear_down(broker: Broker, token: str, stopping: asyncio.Event) -> None:
    """Stop when the admin says so. A client, who may not say it, can still have the broker bring a record here."""

    async def down(said: dict) -> dict | None:
        if not hmac.compare_digest(str(said.get("proof")).encode(), token_of(token, DOWN).encode()):
            return None
        stopping.set()
        return {"ok": True}

    await broker.hear(DOWN, down)


async def keep_probing(broker: Broker, server: Server, kinds: Sequence[str], every_seconds: float) -> None:
    """End a server that cannot store, for ever; whoever keeps it starts it again."""
    failed = 0
    while True:
        await asyncio.sleep(every_seconds)
        # Twice: it may be on its way up.
        failed = 0 if not server.is_alive() or await broker.probe(kinds) else failed + 1
        if failed == 2:
            log.error("the server cannot store anything: is the disk full? It is started again")
            server.kill()
            failed = 0


async def join(address: Address, gpus: Sequence[str], more: Sequence[str]) -> int:
    """Workers of this machine for a farm elsewhere, until a signal, or until all of them are unfit.

    Returns:
        The exit status.
    Raises:
        NoFarm: it does not answer, or keeps its files where this machine sees none.
    """
    stopping = stopped_by_signals()
    async with Broker.connect(address, name="joining") as broker:
        blobs_of(await broker.settings(), broker)
    status = await keep(workers_for(gpus, address, more), stopping)
    log.info("the workers here have ended; what they had under way goes to others")
    return status


def stopped_by_signals() -> asyncio.Event:
    """Set by Ctrl-C and SIGTERM."""
    stopping, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stopping.set)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stopping.set))
    return stopping


def _made(folder: Path) -> Path:
    """Raises:
    NoFarm: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise NoFarm(f"{folder} cannot be made: {error}") from error
    return folder


def _there(folder: Path) -> dict:
    with contextlib.suppress(OSError, ValueError):
        return json.loads((folder / "farm.json").read_text(encoding="utf-8"))
    return {}


def only_one(folder: Path) -> IO:
    """A lock, held until this process ends or what is returned is closed; process numbers are given out again.

    Raises:
        NoFarm: another process holds it.
    """
    lock = open(folder / "up.lock", "a")  # noqa: SIM115
    try:
        if sys.platform == "win32":
            msvcrt.locking(lock.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        lock.close()
        raise NoFarm(f"the farm is up already, at {_there(folder).get('url')}") from error
    return lock


def _end_what_is_left(folder: Path) -> None:
    """Of a supervisor that was killed, where its server did not end with it."""
    with contextlib.suppress(psutil.Error, OSError, ValueError):
        left = psutil.Process(int((folder / "nats.pid").read_text()))
        if str(folder / "nats.conf") in left.cmdline():
            left.terminate()
            left.wait(STOP_SECONDS)
