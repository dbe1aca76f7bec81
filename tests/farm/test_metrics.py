"""What a farm tells of itself: to people, and to Prometheus."""

import re

from ...farm.metrics import State, prometheus, state_of, text
from ...farm.settings import Settings
from .conftest import in_a_loop
from .ground import ended, until
from .test_gateway import answer, served

# https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
LABEL = r'[a-z_]+="(?:[^"\\\n]|\\["\\n])*"'
SAMPLE = re.compile(rf"([a-z_]+)(?:\{{({LABEL}(?:,{LABEL})*)\}})? (-?[0-9.e+-]+)")
WORKER = {
    "name": "w",
    "device": "CPU",
    "decoders": ["fast"],
    "free_mb": 3,
    "all_mb": 4,
    "warm": ["1" * 64, "2" * 64],
    "job": {"id": "0" * 32, "frames": 2, "total": 5},
    "completed": 2,
    "seconds": 4.5,
    "failed": 1,
}


def samples(said):
    """{name{labels}: value}, of text that is well-formed: each metric is told once, and its type before it."""
    found, typed = {}, set()
    for line in said.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert kind in ("gauge", "counter") and name not in typed and (kind == "counter") == name.endswith("_total")
            typed.add(name)
        elif not line.startswith("# HELP "):
            name, labels, value = SAMPLE.fullmatch(line).groups()
            assert name in typed
            key = name.removeprefix("afp_farm_") + (f"{{{labels}}}" if labels else "")
            assert key not in found
            found[key] = float(value)
    assert said.endswith("\n")
    return found


def test_numbers_are_whole():
    state = State([WORKER], {"queued": 3, "completed": 2}, {"s-pro": 3}, {"s-pro": 12.5}, Settings())
    told = samples(prometheus(state))
    assert told['jobs{state="queued"}'] == 3 and told['jobs{state="failed"}'] == 0
    assert told['waiting_jobs{class="s",priority="pro"}'] == 3 and told['waiting_jobs{class="xl",priority="std"}'] == 0
    assert told['oldest_wait_seconds{class="s",priority="pro"}'] == 12.5
    assert told["workers"] == 1 and told['worker_busy{worker="w",device="CPU"}'] == 1
    assert told['worker_memory_free_bytes{worker="w",device="CPU"}'] == 3 << 20
    assert told['worker_memory_bytes{worker="w",device="CPU"}'] == 4 << 20
    assert told['completed_total{worker="w",device="CPU"}'] == 2
    assert told['decode_seconds_total{worker="w",device="CPU"}'] == 4.5
    assert told['failed_total{worker="w",device="CPU"}'] == 1 and told['retries_total{worker="w",device="CPU"}'] == 0


def test_what_a_worker_says_breaks_no_line():
    """Nor does one of another version, which says less, or something else."""
    hostile = 'a"b\\c\nd 1\n# TYPE x gauge'
    workers = [{**WORKER, "name": hostile, "free_mb": "many", "completed": None}, {"name": "empty"}]
    told = samples(prometheus(State(workers, {}, {}, {}, Settings())))
    assert told["workers"] == 2
    assert told['worker_memory_free_bytes{worker="a\\"b\\\\c\\nd 1\\n# TYPE x gauge",device="CPU"}'] == 0


def test_for_people():
    state = State([WORKER], {"completed": 2, "queued": 3}, {"s-pro": 3}, {"s-pro": 125.0}, Settings())
    jobs, waiting, worker = text(state).splitlines()
    assert jobs == "jobs:    3 queued, 2 completed"
    assert waiting == "waiting: 3 s-pro (the oldest 2m; no worker has a card that large)"
    for workers in ([], [WORKER, {**WORKER, "all_mb": 4000}]):  # where nobody is there, nobody knows
        state = State(workers, {}, {"s-pro": 3}, {"s-pro": 125.0}, Settings())
        assert text(state).splitlines()[1] == "waiting: 3 s-pro (the oldest 2m)"
    told = "3 of 4 MB free  fast  000000000000 2/5 frames  warm VAEs: 2, 2 completed, 1 failed"
    assert worker == f"worker:  w  CPU  {told}"
    of_nobody = text(State([], {}, {}, {}, Settings()))
    assert of_nobody.startswith("jobs:    none\nwaiting: none\nworkers: none: start one")


@in_a_loop
async def test_what_did_not_change_is_not_read_again(ground):
    """With 10,000 jobs that is most of what it costs."""
    await ground.prepare()
    async with ground.client() as client:
        broker, seen = client.broker, {}

        async def told() -> tuple[int, list[str]]:
            """How many were read, and the states of all."""
            read = []
            states = await broker.each_record(lambda record: read.append(record) or record.state, seen)
            return len(read), sorted(states)

        first, second, _ = [await ground.submit(client, number=number) for number in range(3)]
        assert await told() == (3, ["queued"] * 3)
        assert await told() == (0, ["queued"] * 3)
        await broker.cancel(first.id)
        assert await told() == (1, ["cancelled", "queued", "queued"])
        await broker.forget(second)
        assert await told() == (0, ["cancelled", "queued"])


@in_a_loop
async def test_of_a_farm_at_work(ground):
    """A job whose first worker is killed, one that fails, one that waits for a larger card, and one that is done."""
    async with served(ground, token="secret") as (session, client):
        assert (await answer(session.get("/metrics")))[0] == 401
        killed = ground.worker("killed", "--at", "claimed")
        job = await ground.submit(client)
        await ended(killed)
        ground.worker("w", "--free", 5000, "--warm", job.job.vae.sha256)
        await client.wait(job.id)
        waits = await ground.submit(client, number=1, need_mb=9000, priority="pro")
        await client.broker.cancel((await ground.submit(client, number=2, need_mb=9000)).id)
        told = {}

        async def is_told():
            async with session.get("/metrics", headers={"Authorization": "Bearer secret"}) as response:
                assert response.status == 200 and response.headers["Content-Type"].startswith(
                    "text/plain; version=0.0.4"
                )
                told.update(samples(await response.text()))
            return told["workers"] == 1

        await until(is_told)
        assert told['jobs{state="queued"}'] == told['jobs{state="cancelled"}'] == told['jobs{state="completed"}'] == 1
        assert told['waiting_jobs{class="l",priority="pro"}'] == 1 and sum(_of(told, "waiting_jobs")) == 1
        assert 0 < told['oldest_wait_seconds{class="l",priority="pro"}'] < 1000
        assert _of(told, "retries_total") == _of(told, "completed_total") == [1] and _of(told, "fenced_total") == [0]
        assert _of(told, "decode_seconds_total") == [0.1] and _of(told, "worker_memory_free_bytes") == [5000 << 20]
        state = await state_of(client.broker)
        [worker] = state.workers
        assert state.waiting == {"l-pro": 1}
        assert (worker["warm"], worker["warm_hits"]) == ([job.job.vae.sha256], 1)
        assert (await client.broker.record(waits.id)).state == "queued"


def _of(told, name):
    return [value for key, value in told.items() if key.startswith(name + "{")]
