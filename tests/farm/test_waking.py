"""Who is woken by a job that comes: one of those that have nothing to do, and not all."""

import asyncio
import contextlib
import time
import types

from ...farm.blobs import Scratch
from ...farm.broker import Broker
from ...farm.messages import CLASSES
from ...farm.roles import WORKER
from ...farm.settings import Settings, address
from ...farm.worker import ASK_SECONDS, SPEAKERS, Worker
from .conftest import in_a_loop
from .ground import PATIENCE_SECONDS

WORKERS = 10
LONG = 10 * PATIENCE_SECONDS  # nobody asks again by himself


@contextlib.asynccontextmanager
async def idle(ground, monkeypatch, classes):
    """Workers that have asked and wait, and what they ask from then on."""
    asked, ask = [], Broker._ask

    async def counted(self, consumer):
        asked.append(consumer)
        return await ask(self, consumer)

    monkeypatch.setattr(Broker, "_ask", counted)
    async with contextlib.AsyncExitStack() as stack:
        connect = [Broker.connect(address(ground.given(WORKER), WORKER)) for _ in classes]
        brokers = [await stack.enter_async_context(each) for each in connect]

        async def take(broker, each):
            while (receipt := await broker.next(each, LONG)) is None:
                pass
            return receipt

        taking = [asyncio.ensure_future(take(*each)) for each in zip(brokers, classes)]
        first = 2 * sum(map(len, classes))
        while len(asked) < first:
            await asyncio.sleep(0.01)
        for each in brokers:
            await each._nc.flush()
        asked.clear()
        yield asked, taking
        for each in taking:
            each.cancel()
        await asyncio.gather(*taking, return_exceptions=True)


@in_a_loop
async def test_a_job_wakes_one_and_that_one_another(ground, monkeypatch):
    await ground.prepare()
    async with ground.client() as client, idle(ground, monkeypatch, [[*CLASSES]] * WORKERS) as (asked, taking):
        job = await ground.submit(client)
        done, _ = await asyncio.wait(taking, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0.5)
        assert [each.result().id for each in done] == [job.id]
        assert len(asked) <= 3 * 2 * len(CLASSES)


@in_a_loop
async def test_jobs_that_come_at_once_are_all_begun_at_once(ground, monkeypatch):
    """Without the second waking, several of them wake the same worker, and wait for somebody to ask."""
    await ground.prepare()
    async with ground.client() as client, idle(ground, monkeypatch, [[*CLASSES]] * WORKERS) as (_, taking):
        jobs = [await ground.submit(client, number=number) for number in range(WORKERS)]
        done, _ = await asyncio.wait(taking, timeout=PATIENCE_SECONDS)
        assert {each.result().id for each in done} == {job.id for job in jobs}


@in_a_loop
async def test_a_job_wakes_one_that_can_take_it(ground, monkeypatch):
    await ground.prepare()
    classes = [["s"]] * (WORKERS - 1) + [["l", "m", "s"]]
    async with ground.client() as client, idle(ground, monkeypatch, classes) as (asked, taking):
        await ground.submit(client, need_mb=9_000)
        await asyncio.wait({taking[-1]}, timeout=PATIENCE_SECONDS)
        assert taking[-1].done()
        await ground.submit(client, number=1)
        done, _ = await asyncio.wait(taking[:-1], timeout=PATIENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == 1


def test_of_many_that_have_nothing_to_do_a_few_say_so(tmp_path, monkeypatch):
    """Each one's word goes to all: with a hundred workers it would be 20,000 messages a second."""
    now, told = 0.0, []
    monkeypatch.setattr(time, "monotonic", lambda: now)

    class Told:
        async def next(self, *_):
            return None

        async def tell(self, subject, values):
            told.append(values["name"])
            for each in workers:
                await each._hear_others(values)

    def one(name: str, free_mb: int, *warm: str, patience: float = 60.0) -> Worker:
        decode = types.SimpleNamespace(
            warm=warm, decoders=("fast",), patience=patience, memory_mb=lambda: (free_mb, 40_000)
        )
        return Worker(Told(), Settings(), None, scratch, name, decode)

    async def a_round() -> list[str]:
        nonlocal now
        now += ASK_SECONDS
        told.clear()
        for each in workers:
            await each._turn()
        return [*told]

    scratch = Scratch(tmp_path)
    workers = [one(f"small {number}", 9_000) for number in range(100)]
    workers += [one("large", 39_000), one("warm", 9_000, "a" * 64), one("quick", 9_000, patience=1.0)]
    for _ in range(5):
        # What nobody else has, its owner says itself.
        assert {"large", "warm", "quick"} <= {*asyncio.run(a_round())} and len(told) <= SPEAKERS + 3
    for _ in range(3):
        workers[:] = [each for each in workers if each._name not in told]
        assert 0 < len(asyncio.run(a_round()) + asyncio.run(a_round())) <= 2 * SPEAKERS, "others say so instead"
