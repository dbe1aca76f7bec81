"""A worker as `farm work` starts it, with a stand-in for the decoder and something that happens to it at a moment.

    name [--at moment] [--do kill|stop|term|deaf|mute] [--free MB] [--hang] [--log file] [--warm sha256]
    [--decoders name] [--clock seconds] [--carry seconds] [--patience times] [--full]

Who is deaf hears no answer to its acks from then on; who is mute, none to its next compare-and-set, which is made.
`--carry` is how long each file takes to come or go, and `--full` that the disk is.
`--endless` makes every job so.
What the stand-in does is told by the job's name_prefix: "poison" kills the process, "trap" does when it is made ready,
"bad" fails as a GPU in a bad state does, "large" wants more memory, "huge" more than there is, "slow" takes 3 s,
"brief" one, "endless" until it is told to stop; all else a moment.
What it writes is told by the latent alone.
"""

import argparse
import asyncio
import contextlib
import errno
import json
import os
import select
import signal
import sys
import threading
import time
import traceback

from farm.__main__ import as_one_package

as_one_package()

from async_frame_pipeline.farm import worker  # noqa: E402
from async_frame_pipeline.farm.blobs import Scratch, sha256_of  # noqa: E402
from async_frame_pipeline.farm.broker import Broker, Receipt  # noqa: E402
from async_frame_pipeline.farm.client import blobs_of, scratch_parent  # noqa: E402
from async_frame_pipeline.farm.roles import WORKER  # noqa: E402
from async_frame_pipeline.farm.settings import NoFarm, address  # noqa: E402
from async_frame_pipeline.farm.work import Made, OutOfMemory  # noqa: E402

FRAMES = 5
worker.AGAIN_SECONDS = worker.FULL_SECONDS = 0.05
# However slow this machine is.
worker.IDLE_SECONDS = worker.AFFINITY_SECONDS = 3.0


def frame_of(latent_sha256: str, frame: int) -> bytes:
    return f"{latent_sha256} {frame}\n".encode() * 100


class StandIn:
    name = "stand-in"

    def __init__(self, given):
        self.endless = given.endless
        self.free_mb, self.hang, self.warm, self.patience = given.free, given.hang, given.warm, given.patience
        self.full, self.decoders = given.full, tuple(given.decoders)

    def memory_mb(self):
        return self.free_mb, 40_000

    def prepare(self, job, *_):
        if job.name_prefix == "trap":
            os.kill(os.getpid(), signal.SIGKILL)

    def __call__(self, work):
        behaviour = "endless" if self.endless else work.job.name_prefix
        if behaviour == "poison":
            os.kill(os.getpid(), signal.SIGKILL)
        if behaviour == "bad":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if self.full:
            raise OSError(errno.ENOSPC, "no space is left")
        if behaviour == "huge" or (behaviour == "large" and self.free_mb < 20_000):
            raise OutOfMemory("it does not fit")
        work.vae()
        with open(work.target, "wb") as file:
            for frame in range(FRAMES):
                work.check()
                while behaviour == "endless":
                    work.check()
                    work.progress(frame, FRAMES)
                    time.sleep(0.05)
                while self.hang:
                    time.sleep(60)
                time.sleep({"slow": 0.6, "brief": 0.15}.get(behaviour, 0.02))
                file.write(frame_of(sha256_of(work.latent), frame))
                work.progress(frame + 1, FRAMES)
        return Made(FRAMES, 8, 8, 0.1, "")


def deaf():
    async def ack(receipt):
        raise NoFarm("no answer")

    Receipt.ack = ack


def mute():
    replace = Broker.replace

    async def unheard(broker, *args, **changes):
        Broker.replace = replace
        await replace(broker, *args, **changes)
        raise NoFarm("no answer")

    Broker.replace = unheard


def slowed(carry, seconds):
    async def carried(*args):
        await asyncio.sleep(seconds)
        return await carry(*args)

    return carried


async def main(given):
    happened = False
    if given.full:
        worker.FULL_BYTES = 1 << 60

    def at(moment):
        nonlocal happened
        if moment == "committed" and given.log:
            with open(given.log, "a") as file:
                file.write(f"{each._attempt.record.id}\n")
        if moment == given.at and not happened:
            happened = True
            things = {"deaf": deaf, "mute": mute}
            signals = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "term": signal.SIGTERM}
            things[given.do]() if given.do in things else os.kill(os.getpid(), signals[given.do])

    stopping, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    async with Broker.connect(address(role=WORKER), name=given.name) as broker:
        settings = await broker.settings()
        scratch = Scratch(scratch_parent(settings))
        blobs = blobs_of(settings, broker)
        blobs.get, blobs.put = slowed(blobs.get, given.carry), slowed(blobs.put, given.carry)
        each = worker.Worker(broker, settings, blobs, scratch, given.name, StandIn(given), at=at)
        running = asyncio.ensure_future(each.run())
        await asyncio.wait({running, asyncio.ensure_future(stopping.wait())}, return_when=asyncio.FIRST_COMPLETED)
        each.stop()
        status = await running
        scratch.remove()
        return status


def parsed(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--at", default="")
    parser.add_argument("--do", default="kill")
    parser.add_argument("--free", type=int, default=39_000)
    parser.add_argument("--hang", action="store_true")
    parser.add_argument("--log", default="")
    parser.add_argument("--warm", nargs="*", default=[])
    parser.add_argument("--decoders", nargs="*", default=["fast"])
    parser.add_argument("--clock", type=float, default=0.0)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--endless", action="store_true")
    parser.add_argument("--carry", type=float, default=0.0)
    parser.add_argument("--patience", type=float, default=1.0)
    return parser.parse_args(given)


def work(given: list[str], environment: dict, alive: int):
    """One worker, in a process of its own; never returns.

    Args:
        alive: a descriptor that ends when the tests do, however they end; so does this.
    """
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.environ |= environment
        arguments, now = parsed(given), time.time
        time.time = lambda: now() + arguments.clock
        threading.Thread(target=lambda: (os.read(alive, 1), os._exit(3)), daemon=True).start()
        status = asyncio.run(main(arguments))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def nurse():
    """Start a worker for each line of the input, by a fork, in a hundredth of the time that imports take.

    Says "pid started", and "pid status" when one has ended.
    """
    alive, held = os.pipe()
    told, tell = os.pipe()
    for each in (told, tell):
        os.set_blocking(each, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(tell)
    while True:
        ready, _, _ = select.select([sys.stdin, told], [], [])
        if told in ready:
            os.read(told, 4096)
            with contextlib.suppress(ChildProcessError):
                while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                    print(ended[0], os.waitstatus_to_exitcode(ended[1]), flush=True)
        elif not (line := sys.stdin.readline()):
            return
        else:
            values = json.loads(line)
            pid = os.fork()
            if pid == 0:
                os.close(held)
                os.close(0)
                work(values["arguments"], values["environment"], alive)
            print(pid, "started", flush=True)


if __name__ == "__main__":
    nurse()
