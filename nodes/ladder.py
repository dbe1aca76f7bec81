"""The ladder: which way a video is decoded, and what follows when that way fails."""

from __future__ import annotations

import time

from ..pipeline import engine
from ..pipeline.report import Decoded
from ..pipeline.text import Text
from . import random_numbers
from .comfyui import lanes, memory
from .families.family import Job, Way
from .log import say

OUT_OF_MEMORY = Text("out of memory")


def climb_down(job: Job) -> None:
    """Decode by the first of the family's ways that can; where that fails, by the next, which begins anew.

    Raises:
        What the last way raises, or a lane whichever the way, but for memory that ran out.
    """
    if job.tiling is None and all(way.name != "fast" for way in job.family.ways):
        job.reason = job.reason or Text("there is no fast decoder for %family%", family=job.family.name)
        job.reasons["fast"] = job.reason
    said_no_fast = False
    for way in job.family.ways:
        if way.after_out_of_memory and not job.out_of_memory:
            continue
        if way.name != "fast" and "fast" in job.reasons and not said_no_fast:  # until here fast may be tried again
            said_no_fast = True
            if job.decoder == "fast":
                job.warn(Text("the fast decoder cannot be used: %reason%", reason=job.reasons["fast"]))
        job.output.decoded = _decoded(way, job)
        put_back_random_numbers = random_numbers.remembered(job.vae)
        reason = way.why_not(job) or _failure(way, job)
        if reason is None:
            if not way.last:
                _say_what_was_done(way, job)
            return
        put_back_random_numbers()
        job.reason = job.reasons[way.name] = reason


def _decoded(way: Way, job: Job) -> Decoded:
    """What the report will say, should this way do."""
    needs_none = way.name == job.decoder or any(job.reason in note for note in job.notes)
    why_not_fast = "" if way.name == "fast" else job.reasons.get("fast", "")
    return Decoded(way.name, "" if needs_none else job.reason, why_not_fast, job.notes)


def _failure(way: Way, job: Job) -> str | None:
    """Decode; None, or why that failed: as text, since an error holds the memory of every frame it passed through."""
    began_seconds = time.perf_counter()
    cause = None
    try:
        with memory.device_context(job.vae):
            way.decode(job)
        return None
    except engine.DecodeError as error:
        if way.last:
            raise
        cause = error.__cause__ or error
        if lanes.is_cancel(cause):  # which older ComfyUIs' operations raise as an Exception
            raise cause from cause.__cause__
        job.out_of_memory = memory.is_oom(cause)
        # Our own words can be said in other languages.
        said = cause.args[0] if cause.args and isinstance(cause.args[0], Text) else None
        if job.out_of_memory:
            return said or OUT_OF_MEMORY
        return Text("%way% failed: %error%", way=way.name, error=said or str(error))
    except Exception as error:
        job.out_of_memory = memory.is_oom(error)
        if way.last or not job.out_of_memory:
            raise
        return OUT_OF_MEMORY
    finally:
        cause = None  # it leads back to this frame by its traceback: a circle that would hold the decoder's memory
        job.seconds = time.perf_counter() - began_seconds


def _say_what_was_done(way: Way, job: Job) -> None:
    others = [f"not {name}: {reason}" for name, reason in job.reasons.items() if name != way.name]
    note = f" ({'; '.join(others)})" if others else ""
    say(f"{way.name} {job.family.name} decode{note}, {job.output.report.text()}")
