"""What a farm is doing, for people, as JSON and for Prometheus.

Counts come from the workers, who count since they were started; what is there now comes from the records.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TypeAlias

from .broker import Broker
from .messages import CLASSES, NO_CARD, PRIORITIES, QUEUED, STATES, Record, is_card_for
from .settings import Settings

# Workers that take longer to answer are not seen.
ANSWER_SECONDS = 0.3
# Of Prometheus' text format.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "afp_farm_"
# What each worker counts: its word for it, the name here, and what it is.
COUNTERS = (
    ("completed", "completed_total", "Videos."),
    ("seconds", "decode_seconds_total", "What they took to decode and encode."),
    ("failed", "failed_total", "Jobs that nobody can decode, or that were given up."),
    ("retried", "retries_total", "Attempts after a job's first."),
    ("fenced", "fenced_total", "Attempts that another one had overtaken."),
    ("warm_hits", "warm_hits_total", "Jobs whose VAE was on the device already."),
)


Samples: TypeAlias = "list[tuple[dict[str, object], float]]"


@dataclass(frozen=True, slots=True)
class State:
    """Attributes:
    workers: what each says of itself, see `Worker`.
    jobs: how many, by state.
    waiting: how many wait, by "class-priority"; those of which none does are left out.
    oldest_seconds: how long the oldest of them has.
    """

    workers: list[dict]
    jobs: dict[str, int]
    waiting: dict[str, int]
    oldest_seconds: dict[str, float]
    settings: Settings


# Of a record: its state, where it waits, since when.
Brief: TypeAlias = "tuple[str, str, float]"


async def state_of(broker: Broker, seen: dict[str, tuple[int, Brief]] | None = None) -> State:
    """Args:
    seen: for who asks again and again, see `Broker.each_record`.
    """
    workers = [each for each in await broker.ask_all("workers.ask", ANSWER_SECONDS) if isinstance(each, dict)]
    now, jobs, waiting = time.time(), Counter(), Counter()
    oldest: dict[str, float] = {}
    for state, name, queued in await broker.each_record(_brief, {} if seen is None else seen):
        jobs[state] += 1
        if state == QUEUED:
            waiting[name] += 1
            oldest[name] = max(oldest.get(name, 0.0), round(now - queued, 3))
    workers.sort(key=lambda each: str(each.get("name")))
    return State(workers, dict(jobs), dict(sorted(waiting.items())), oldest, await broker.settings())


def _brief(record: Record) -> Brief:
    return record.state, f"{record.memory_class}-{record.job.priority}", record.queued


def text(state: State) -> str:
    """For people."""
    jobs = [f"{state.jobs[each]} {each}" for each in STATES if each in state.jobs]
    waiting = []
    for name, count in state.waiting.items():
        is_without = state.workers and not is_card_for(name.partition("-")[0], state.workers)
        more = f"; {NO_CARD}" if is_without else ""
        waiting.append(f"{count} {name} (the oldest {age(state.oldest_seconds[name])}{more})")
    lines = [f"jobs:    {', '.join(jobs) or 'none'}", f"waiting: {', '.join(waiting) or 'none'}"]
    if not state.workers:
        lines.append("workers: none: start one, `python -m farm up --gpus 0` or `python -m farm worker --gpus 0`")
    for each in state.workers:
        job = each.get("job")
        doing = f"{job['id'][:12]} {job['frames']}/{job['total']} frames" if job else "idle"
        memory = f"{each.get('free_mb')} of {each.get('all_mb')} MB free"
        counts = [f"warm VAEs: {len(each['warm'])}"] if isinstance(each.get("warm"), list) and each["warm"] else []
        counts += [f"{each[key]} {key}" for key, *_ in COUNTERS if key != "seconds" and each.get(key)]
        decoders = each["decoders"] if isinstance(each.get("decoders"), list) else []
        told = (each.get("name"), each.get("device"), memory, "/".join(map(str, decoders)), doing, ", ".join(counts))
        lines.append("  ".join(["worker:", *(str(part) for part in told if part)]))
    return "\n".join(lines)


def age(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{max(0, seconds):.0f}s"


def prometheus(state: State) -> str:
    """In Prometheus' text format."""
    queues = {
        f"{each}-{priority}": {"class": each, "priority": priority} for each in CLASSES for priority in PRIORITIES
    }
    waiting = [(labels, state.waiting.get(name, 0)) for name, labels in queues.items()]
    oldest = [(labels, state.oldest_seconds.get(name, 0)) for name, labels in queues.items()]
    workers = [({"worker": each.get("name"), "device": each.get("device")}, each) for each in state.workers]

    def of_workers(key: str, times: int = 1) -> Samples:
        return [(labels, times * _number(each.get(key))) for labels, each in workers]

    groups: list[tuple[str, str, str, Samples]] = [
        (
            "jobs",
            "gauge",
            "Jobs of which the farm knows.",
            [({"state": each}, state.jobs.get(each, 0)) for each in STATES],
        ),
        ("waiting_jobs", "gauge", "Jobs that wait for a worker.", waiting),
        ("oldest_wait_seconds", "gauge", "How long the oldest of them has waited.", oldest),
        ("workers", "gauge", "Workers that answer.", [({}, len(workers))]),
        (
            "worker_busy",
            "gauge",
            "Whether it has a job.",
            [(labels, int(bool(each.get("job")))) for labels, each in workers],
        ),
        ("worker_memory_bytes", "gauge", "All that its device has.", of_workers("all_mb", 2**20)),
        ("worker_memory_free_bytes", "gauge", "What nobody uses of it.", of_workers("free_mb", 2**20)),
        *((name, "counter", help, of_workers(key)) for key, name, help in COUNTERS),
    ]
    lines = []
    for name, kind, help, samples in groups:
        lines += [f"# HELP {PREFIX}{name} {help}", f"# TYPE {PREFIX}{name} {kind}"]
        for labels, value in samples:
            told = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
            lines.append(f"{PREFIX}{name}{f'{{{told}}}' if told else ''} {value}")
    return "\n".join(lines) + "\n"


def _escaped(value: object) -> str:
    return str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: object) -> float:
    """Of a worker that may be of another version."""
    return value if type(value) in (int, float) else 0
