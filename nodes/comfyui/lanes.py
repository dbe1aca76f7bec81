"""The engine with ComfyUI's progress, cancel, page-locked memory and live view."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import comfy.model_management as model_management
import comfy.utils

from ...pipeline import engine
from ...pipeline.ends import Ends
from ...pipeline.report import Decoded, Report
from ...pipeline.sinks import Sink
from ...pipeline.video_spec import VideoSpec
from .. import live
from . import memory

# Ring size. Saving 81 frames of 720p (H100, 16 cores, 2026-11-21) the GPU was busy 98.7 % of the span with two
# slots and 99.1 % with four, the decoder alone 99.2 %; more did not help. Four slots hold 11 MB.
SLOTS = 4


def run(
    decode: Callable,
    spec: VideoSpec,
    sinks: Sequence[Sink],
    frames_per_slot: int,
    already_decoded: bool = False,
    decoded: Decoded | None = None,
    slots: int | None = None,
    spectators: Sequence[Sink] = (),
    frames: tuple[int, int] | None = None,
    ends: Ends | None = None,
) -> Report:
    """`engine.run`; `already_decoded` and `decoded` are those of a `Report`, and `slots` are SLOTS unless given.

    Slots that a video is too short for are not made, nor more than SLOTS of them where they hold floats: each takes
    memory on the GPU and in main memory, beside a decode that may need it.
    """
    first, stop = frames or (0, spec.frames)
    frames_per_slot, slots = min(frames_per_slot, stop - first), slots or SLOTS
    if any(sink.pixel_format.layout == "image" for sink in sinks):
        slots = min(slots, SLOTS)
    slots = min(slots, max(2, -(-(stop - first) // frames_per_slot)))
    bar = comfy.utils.ProgressBar(stop - first)
    with live.watch(sinks, already_decoded, decoded) as watch:

        def check():
            # Raises in this thread and clears ComfyUI's flag, which is why no other thread may call it.
            model_management.throw_exception_if_processing_interrupted()
            watch.look()

        def progress(submitted: int):
            bar.update_absolute(submitted)
            watch.look()

        return engine.run(
            decode,
            spec,
            sinks,
            spectators=[*spectators, *watch.spectators],
            frames=frames,
            slots=slots,
            frames_per_slot=frames_per_slot,
            check=check,
            progress=progress,
            pin=memory.pin_or_say(),
            unpin=memory.unpin,
            report=watch.report,
            ends=ends,
        )


@contextlib.contextmanager
def reading():
    """For runs that only hand over what is there: the reader's own error, and not that decoding failed."""
    try:
        yield
    except engine.FrameCountError:
        raise
    except engine.DecodeError as error:
        raise error.__cause__ from error.__cause__.__cause__


def check_cancel() -> None:
    """Raise what ends the prompt, if the user interrupted it; on the thread that runs it alone."""
    model_management.throw_exception_if_processing_interrupted()


def is_cancel(error: BaseException) -> bool:
    """Whether the user interrupted the prompt; an Exception in older ComfyUIs, a BaseException in newer ones."""
    return isinstance(error, model_management.InterruptProcessingException)
