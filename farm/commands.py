"""The commands: python -m farm up | token | worker | jobs | cancel | retry | status | serve | down"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import errno
import json
import logging
import math
import os
import re
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from .roles import ADMIN, CLIENT, DOWN, WORKER, token_of
from .settings import NOT_YET, UNFIT, NoFarm, NotYet, Settings, Unfit, address, home
from .work import NoComfyUI, NoDevice, may_pass, named

ANSWER_SECONDS = 0.3
LOOK_SECONDS = 0.05
EXTRA = "python -m pip install -r farm/requirements.txt"
# ComfyUI has aiohttp, so it is not among the farm's packages, which are pinned: a pin could replace ComfyUI's.
NEEDED = {"nats": f"A farm needs nats-py: {EXTRA}", "aiohttp": "HTTP needs aiohttp: python -m pip install aiohttp"}
LATER = "a worker cannot be here for now: "
OF_WORKERS = ("torch", "numpy", "av", "safetensors", "psutil", "PIL")
# As of a program that wrote to a pipe that nobody reads any more.
BROKEN_PIPE = 141
T = TypeVar("T", int, float)


def main(arguments: list[str] | None = None) -> int:
    given = parse(arguments)
    sys.stdout.reconfigure(errors="backslashreplace")  # a reason may hold anything
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    try:
        import_nats()
        status = asyncio.run(given.command(given)) or 0
        sys.stdout.flush()
        return status
    except ModuleNotFoundError as error:
        if error.name not in (*NEEDED, *OF_WORKERS):
            raise
        print(NEEDED.get(error.name, f"A worker needs {error.name}: see docs/farm.md"), file=sys.stderr)
        return UNFIT if given.command is work else 1
    except OSError as error:
        if not isinstance(error, BrokenPipeError) and (os.name != "nt" or error.errno != errno.EINVAL):
            raise
        # `farm jobs | head`; on Windows it is an argument that is not valid.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python says so once more, at its end
        return BROKEN_PIPE
    except NoFarm as error:
        print(error, file=sys.stderr)
        statuses = {Unfit: UNFIT, NotYet: NOT_YET} if given.command is work else {}
        return statuses.get(type(error), 1)
    except KeyboardInterrupt:
        return 130
    return 1


def import_nats() -> None:
    """Without aiohttp, where it is not there yet.

    nats-py takes it for websockets, which no farm has; each process is 9 MB smaller without, and up 0.1 s sooner.
    """
    hide = "aiohttp" not in sys.modules
    if hide:
        sys.modules["aiohttp"] = None
    try:
        import nats  # noqa: F401
    finally:
        if hide:
            del sys.modules["aiohttp"]


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m farm", description="Decode elsewhere: workers that make videos of latents."
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    def add(name: str, command: Callable[[argparse.Namespace], Awaitable[int | None]], help: str):
        each = commands.add_parser(name, help=help, description=help)
        each.set_defaults(command=command)
        return each

    def add_server(each: argparse.ArgumentParser) -> None:
        each.add_argument(
            "--server", help="nats:// or tls://token@host:port; default: AFP_FARM, else the farm of this machine"
        )

    def add_workers(each: argparse.ArgumentParser) -> None:
        each.add_argument(
            "--gpus",
            type=_gpus,
            default="cpu",
            help="a worker for each: 0,1 as nvidia-smi counts, or cpu; or none. Default: %(default)s",
        )
        each.add_argument(
            "--models",
            metavar="FOLDER",
            type=_folder,
            action="append",
            default=[],
            help="a folder of VAEs, for jobs of scripts and of `serve`, which name such a file: it need not be sent. "
            "ComfyUI's nodes send the VAE as they have loaded it, which is another file",
        )
        each.add_argument(
            "--comfyui",
            metavar="FOLDER",
            type=_comfyui,
            help="a ComfyUI, whose own modules decode then, bit for bit",
        )

    def add_listen(each: argparse.ArgumentParser, needs: str, port: int, default: str) -> None:
        each.add_argument(
            "--listen",
            metavar="ADDRESS",
            default="127.0.0.1",
            help=f"any but the loopback needs {needs}. Default: %(default)s",
        )
        each.add_argument("--port", type=_at_least(0, 65535), default=port, help=default)
        each.add_argument("--tls-cert", metavar="FILE", default="", help="a certificate")
        each.add_argument("--tls-key", metavar="FILE", default="", help="its key")

    each = add("up", up, "start a server and workers on this machine")
    add_listen(each, "TLS", 0, "default: the last one, or any that is free")
    where = each.add_mutually_exclusive_group()
    where.add_argument(
        "--folder",
        default="",
        help="where latents and videos are; workers elsewhere must see it too. Default: one in ~/.async-frame-pipeline",
    )
    where.add_argument("--network", action="store_true", help="keep them in the server instead: no folder is shared")
    defaults = Settings()
    each.add_argument(
        "--lease",
        metavar="SECONDS",
        type=_at_least(1.0),
        default=defaults.lease_seconds,
        help="a job whose worker gave no sign for so long goes to another. Default: %(default)s",
    )
    each.add_argument(
        "--cap", type=_at_least(1), default=defaults.cap, help="jobs a user may have open. Default: %(default)s"
    )
    add_workers(each)

    each = add("token", token, "what to set on another machine, where jobs are submitted or decoded for this farm")
    each.add_argument("role", choices=(CLIENT, WORKER), help="submits jobs, or works for this farm")

    each = add("worker", worker, "let this machine work for a farm elsewhere")
    add_server(each)
    add_workers(each)

    each = add("jobs", jobs, "list jobs, the oldest first")
    add_server(each)
    each.add_argument("--json", action="store_true", help="whole records, one a line")

    for name, command, help in (
        ("cancel", cancel, "cancel jobs, whether they wait or are under way"),
        ("retry", retry, "queue jobs again that failed or were cancelled"),
    ):
        each = add(name, command, help)
        add_server(each)
        each.add_argument("ids", nargs="+", metavar="id", help="as `jobs` lists them; the first digits suffice")

    each = add("status", status, "how many wait, who works on what")
    add_server(each)
    how = each.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="for programs")
    how.add_argument("--prometheus", action="store_true", help="for a textfile collector")

    each = add("serve", serve, "let programs in over HTTP: diffusers' remote_decode, /v1/videos, /metrics")
    add_server(each)
    each.add_argument("--http", action="store_true", required=True, help="what it speaks")
    each.add_argument(
        "--vae", metavar="FILE", action="append", type=Path, required=True, help="safetensors; one of each family"
    )
    add_listen(each, "TLS and a token", 8288, "0 for any that is free. Default: %(default)s")
    each.add_argument(
        "--token", default="", help="default: AFP_FARM_HTTP_TOKEN, which no list of processes shows; or none"
    )

    add_server(add("down", down, "end the farm; what waits stays, for the next `up`"))

    each = commands.add_parser("work")  # what `up` and `worker` start, one process each
    each.set_defaults(command=work)
    each.add_argument("name")
    each.add_argument("--device", default="cpu")
    each.add_argument("--models", action="append", default=[])
    each.add_argument("--comfyui", default="")
    return parser.parse_args(arguments)


async def up(given: argparse.Namespace) -> int:
    from .server import Listen
    from .supervisor import up

    listen = Listen(given.listen, given.port, given.tls_cert, given.tls_key)
    settings = Settings(folder=given.folder, lease_seconds=given.lease, cap=given.cap)
    return await up(listen, settings, given.gpus, _of_workers(given), given.network)


async def token(given: argparse.Namespace) -> None:
    from .server import is_loopback

    there = address(role=given.role)
    print(f"AFP_FARM={there.url}\nAFP_FARM_TOKEN={there.token}")
    if is_loopback(str(urlsplit(there.url).hostname)):
        print(
            "this farm is for this machine alone: other machines need `up --listen`, see docs/farm.md", file=sys.stderr
        )


async def worker(given: argparse.Namespace) -> int:
    from .supervisor import join

    if not given.gpus:
        raise NoFarm("without a GPU and a CPU there is nothing to work with: --gpus 0,1 or --gpus cpu")
    return await join(address(given.server, WORKER), given.gpus, _of_workers(given))


async def work(given: argparse.Namespace) -> None:
    from .broker import Broker
    from .client import blobs_of, scratch_parent
    from .models import Models
    from .supervisor import stopped_by_signals
    from .worker import Worker

    stopping, loop = stopped_by_signals(), asyncio.get_running_loop()

    def end_with_parent() -> None:
        while os.read(0, 1):  # until who started this closes it, or is gone
            pass
        loop.call_soon_threadsafe(stopping.set)

    threading.Thread(target=end_with_parent, daemon=True).start()
    # Before all that may be away for a while: who ends for that could be here, see `KeptWorker.is_unfit`.
    decoder = _decoder(given)
    async with Broker.connect(address(role=WORKER), name=given.name, patience=60.0) as broker:
        settings = await broker.settings()
        scratch = _scratch(scratch_parent(settings))
        try:
            models = Models([Path(folder) for folder in given.models], home())
            each = Worker(broker, settings, blobs_of(settings, broker), scratch, given.name, decoder, models)
            running = asyncio.ensure_future(each.run())
            await asyncio.wait({running, asyncio.ensure_future(stopping.wait())}, return_when=asyncio.FIRST_COMPLETED)
            each.stop()
            status = await running
        finally:
            scratch.remove()
    # Threads of libraries may hang in what a GPU never finished.
    logging.shutdown()
    os._exit(status)


async def jobs(given: argparse.Namespace) -> None:
    from . import metrics
    from .client import farm
    from .messages import IN_PROGRESS

    async with farm(given.server) as client:
        records = await client.broker.records()
    if not given.json:
        head = f"{'id':12}  {'state':11}  {'prio':4}  {'age':>3}  {'user':12}  worker, frames or reason"
        print(head if records else "no jobs")
    for record in records:
        if given.json:
            print(record.to_json().decode())
        else:
            age = metrics.age(time.time() - record.job.created)
            worker = record.worker if record.state == IN_PROGRESS else ""
            more = worker or record.reason or (record.result and f"{record.result.frames} frames") or ""
            user = record.job.user[:12]  # a ComfyUI's is its id
            print(f"{record.id[:12]}  {record.state:11}  {record.job.priority:4}  {age:>3}  {user:12}  {more}".rstrip())


async def cancel(given: argparse.Namespace) -> int:
    return await _each(given, lambda client, job_id: client.broker.cancel(job_id))


async def retry(given: argparse.Namespace) -> int:
    return await _each(given, lambda client, job_id: client.retry(job_id))


async def _each(given: argparse.Namespace, change: Callable) -> int:
    from .broker import Full
    from .client import farm
    from .messages import COMPLETED, InvalidJob

    failed = 0
    async with farm(given.server) as client:
        ids = [record.id for record in await client.broker.records()]
        for wanted in given.ids:
            found = [each for each in ids if each.startswith(wanted)]
            if len(found) != 1:
                print(f"{wanted}: {'no' if not found else 'more than one'} job begins so", file=sys.stderr)
                failed = 1
                continue
            try:
                record = await change(client, found[0])
            except (Full, InvalidJob) as error:
                print(f"{wanted}: {error}", file=sys.stderr)
                failed = 1
                continue
            state = record.state if record is not None else "is gone"
            print(f"{found[0][:12]}  {state}" + (" already: its video is there" if state == COMPLETED else ""))
    return failed


async def status(given: argparse.Namespace) -> None:
    from . import metrics
    from .client import farm

    async with farm(given.server) as client:
        state = await metrics.state_of(client.broker)
    if given.prometheus:
        print(metrics.prometheus(state), end="")
    else:
        print(json.dumps(dataclasses.asdict(state)) if given.json else metrics.text(state))


async def serve(given: argparse.Namespace) -> None:
    from .client import farm
    from .gateway import serving
    from .gateway_door import Door
    from .server import Listen
    from .supervisor import stopped_by_signals

    listen = Listen(given.listen, given.port, given.tls_cert, given.tls_key)
    door = Door(listen, given.token or os.environ.get("AFP_FARM_HTTP_TOKEN", ""))
    stopping = stopped_by_signals()
    async with farm(given.server) as client, serving(client, door, given.vae) as url:
        logging.info("the farm is served at %s", url)
        await stopping.wait()
    logging.info("the farm is not served at %s any more", url)


async def down(given: argparse.Namespace) -> None:
    from .broker import Broker
    from .supervisor import ENDED, MOST_STOP_SECONDS

    there = address(given.server, ADMIN)
    async with Broker.connect(there, name="down") as broker:
        if not await broker.ask_all(DOWN, ANSWER_SECONDS, {"proof": token_of(there.token, DOWN)}):
            raise NoFarm(f"whoever started the farm at {there.url} is gone: the next `python -m farm up` ends the rest")
        deadline = time.monotonic() + MOST_STOP_SECONDS
        while broker.is_connected and time.monotonic() < deadline:
            await asyncio.sleep(LOOK_SECONDS)
    print(ENDED.format(there.url))


def _decoder(given: argparse.Namespace):
    """Raises:
    Unfit: starting again does not help.
    NotYet: it may.
    """
    try:
        if given.comfyui:
            from .exact import ExactDecoder
        else:
            from .decode import Decoder
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name in OF_WORKERS:  # `main` says so
            raise
        if may_pass(error):
            raise NotYet(f"{LATER}{named(error)}") from error
        raise Unfit(f"what a worker needs cannot be loaded: {named(error)}: see docs/farm.md") from error
    try:
        return ExactDecoder(given.device, Path(given.comfyui)) if given.comfyui else Decoder(given.device)
    except NoDevice as error:
        gpu, how = os.environ.get("CUDA_VISIBLE_DEVICES", ""), "--gpus takes numbers that nvidia-smi lists, or cpu"
        raise Unfit(f"GPU {gpu} was asked for, and {error}: {how}") from error
    except NoComfyUI as error:
        raise Unfit(str(error)) from error
    except (RuntimeError, OSError, MemoryError) as error:
        raise NotYet(f"{LATER}{named(error)}") from error


def _scratch(parent: Path):
    """Raises:
    Unfit: this user may not write there.
    """
    from .blobs import Scratch

    try:
        return Scratch(parent)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise Unfit(f"a worker has to write into {parent}: {error}: let this user do that") from error


def _of_workers(given: argparse.Namespace) -> list[str]:
    """Arguments of `work`."""
    arguments = [each for folder in given.models for each in ("--models", folder)]
    return arguments + (["--comfyui", str(Path(given.comfyui).resolve())] if given.comfyui else [])


def _gpus(given: str) -> list[str]:
    gpus = [] if given in ("", "none") else given.split(",")
    for each in gpus:
        if not re.fullmatch(r"cpu|\d+|(GPU|MIG)-[\w/-]+", each):
            raise argparse.ArgumentTypeError(f"{each!r} is no GPU: 0,1 as nvidia-smi counts, or cpu, or none")
    return gpus


def _folder(given: str) -> str:
    if not Path(given).is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {given}")
    return given


def _comfyui(given: str) -> str:
    if not (Path(given) / "comfy" / "sd.py").is_file():
        raise argparse.ArgumentTypeError(f"there is no ComfyUI in {given}")
    return given


def _at_least(least: T, most: float = math.inf) -> Callable[[str], T]:
    """A number of the type of `least`."""

    def number(given: str) -> T:
        with contextlib.suppress(ValueError):
            if least <= (value := type(least)(given)) <= most and math.isfinite(value):
                return value
        upto = "" if most == math.inf else f" to {most}"
        raise argparse.ArgumentTypeError(f"{given!r} is no number from {least}{upto}")

    return number
