"""A farm as a simulation of events: jobs wait, workers take what fits, die and come back.

Own code: simpy has no queue from which each worker takes by an order of its own. Held against theory, and against what
priorities and kills must do, in tests/unit/test_farm_scale.py.
"""

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

CLASSES, PRIORITIES = ("s", "m", "l", "xl"), ("pro", "std")


@dataclass(frozen=True)
class Costs:
    """Of the farm itself; seconds, and bytes a second.

    Args:
        before, after: what a worker does beside the decode.
        server: of its one core, for each job: the server's work is done one thing after another.
        store, network: what all files go through; the store in and out together, the network each way.
        lease: until a job is another's, after its worker died.
        restart: until a worker that died asks again.
        most_tries: a job that ended so many workers has failed.
        deaths: of a worker, a second.
    """

    before: float = 0.0
    after: float = 0.0
    server: float = 0.0
    store: float = math.inf
    network: float = math.inf
    lease: float = 10.0
    restart: float = 3.0
    most_tries: int = 3
    deaths: float = 0.0


@dataclass(slots=True)
class Job:
    """`waited`: from its submit to its last start."""

    arrives: float
    memory_class: str
    priority: str
    seconds: float
    latent_bytes: float = 0.0
    video_bytes: float = 0.0
    starts: int = 0
    waited: float = 0.0
    ended: float = math.nan
    failed: bool = False


@dataclass(slots=True, eq=False)
class Worker:
    """`fits`: its classes in the order in which it asks. `turn`: events of earlier attempts have another one."""

    fits: tuple[str, ...]
    job: Job | None = None
    turn: int = 0
    began: float = 0.0
    busy: float = 0.0


class Line:
    """What serves one after another."""

    def __init__(self) -> None:
        self._free = 0.0

    def take(self, now: float, seconds: float) -> float:
        """When it is done."""
        if not seconds:
            return now
        self._free = max(self._free, now) + seconds
        return self._free


def fits(largest: str) -> tuple[str, ...]:
    """As `farm/worker.py` asks: the largest first."""
    return CLASSES[CLASSES.index(largest) :: -1]


def simulate(jobs: Iterable[Job], cards: Sequence[str], costs: Costs, chance: random.Random) -> list[Worker]:
    """Run all jobs to their end; what became of each is written into it.

    Args:
        jobs: by the time they arrive.
        cards: for each worker the largest class that fits.
    """
    server, store = Line(), Line()
    network = {way: Line() for way in ("in", "out")}
    workers = [Worker(fits(largest)) for largest in cards]
    idle: dict[tuple[str, ...], list[Worker]] = {}
    for worker in workers:
        idle.setdefault(worker.fits, []).append(worker)
    queues = {(priority, each): deque[Job]() for priority in PRIORITIES for each in CLASSES}
    order, events, coming = itertools.count(), [], iter(jobs)

    def at(when: float, do, *arguments) -> None:
        heapq.heappush(events, (when, next(order), do, arguments))

    def moved(now: float, way: str, count: float) -> float:
        """When so many bytes went into the store, or out of it, over the network."""
        return max(store.take(now, count / costs.store), network[way].take(now, count / costs.network))

    def arrive(now: float, job: Job) -> None:
        if (following := next(coming, None)) is not None:
            at(following.arrives, arrive, following)
        at(server.take(moved(now, "in", job.latent_bytes), costs.server), queue, job)

    def queue(now: float, job: Job) -> None:
        able = [free for each, free in idle.items() if free and job.memory_class in each]
        if not able:
            queues[job.priority, job.memory_class].append(job)
            return
        [free] = chance.choices(able, [len(free) for free in able])
        begin(now, free.pop(), job)

    def ask(now: float, worker: Worker) -> None:
        """pro before std, then the largest first."""
        for priority in PRIORITIES:
            for each in worker.fits:
                if queues[priority, each]:
                    begin(now, worker, queues[priority, each].popleft())
                    return
        idle[worker.fits].append(worker)

    def begin(now: float, worker: Worker, job: Job) -> None:
        worker.job, worker.began, worker.turn = job, now, worker.turn + 1
        job.starts, job.waited = job.starts + 1, now - job.arrives
        at(moved(now + costs.before, "out", job.latent_bytes) + job.seconds, decoded, worker, worker.turn)
        if costs.deaths:
            at(now + chance.expovariate(costs.deaths), die, worker, worker.turn)

    def decoded(now: float, worker: Worker, turn: int) -> None:
        if worker.turn == turn:
            at(moved(now, "in", worker.job.video_bytes) + costs.after, end, worker, turn)

    def end(now: float, worker: Worker, turn: int) -> None:
        if worker.turn == turn:
            worker.job.ended = moved(now, "out", worker.job.video_bytes)  # its client fetches it
            free(now, worker)
            ask(now, worker)

    def die(now: float, worker: Worker, turn: int) -> None:
        if worker.turn == turn:
            at(now + costs.lease, come_back, worker.job)
            free(now, worker)
            at(now + costs.restart, ask, worker)

    def free(now: float, worker: Worker) -> None:
        worker.busy += now - worker.began
        worker.job, worker.turn = None, worker.turn + 1

    def come_back(now: float, job: Job) -> None:
        if job.starts >= costs.most_tries:
            job.failed, job.ended = True, now
            return
        # What comes again comes before what is new.
        queues[job.priority, job.memory_class].appendleft(job)
        for each, waiting in idle.items():
            if waiting and job.memory_class in each:
                ask(now, waiting.pop())
                break

    if (first := next(coming, None)) is not None:
        at(first.arrives, arrive, first)
    while events:
        now, _, do, arguments = heapq.heappop(events)
        do(now, *arguments)
    return workers
