"""What a worker gives to a decoder and gets back. Here and not in decode.py, so that a worker itself needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .messages import Job

# What is said of a GPU that is full, or another's.
PASSING = ("out of memory", "cuda error", "hip error")


class OutOfMemory(RuntimeError):
    """It does not fit here, whatever is done; it may on a larger card."""


class NoDevice(RuntimeError):
    """This machine has no such device, or this Python cannot decode there, however often it is started."""


class NoComfyUI(RuntimeError):
    """It is not there, or this Python cannot load it, however often it is started."""


def may_pass(error: Exception) -> bool:
    """Whether a library that could not be loaded may be another time: memory, files and the GPU are others', too."""
    # Only an error of the system has a number, not that of a loader which misses something.
    is_of_the_system = isinstance(error, MemoryError) or getattr(error, "errno", None) is not None
    return is_of_the_system or any(words in str(error).lower() for words in PASSING)


def named(error: Exception) -> str:
    """An error in one line: libraries say more, in many."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


@dataclass(frozen=True, slots=True)
class Work:
    """What one decode is made of.

    Args:
        latent, audio: files, checked against their hashes.
        vae: gives the file, checked likewise; called only where the VAE is not warm, and None where it is.
        target: the file to write.
        check: called between chunks; raise from it to stop.
        progress: called with the frames submitted so far, of how many.
        prepared: what `Decode.prepare` made of it; None where it was not called.
    """

    job: Job
    latent: Path
    vae: Callable[[], Path | None]
    audio: Path | None
    target: Path
    check: Callable[[], None]
    progress: Callable[[int, int], None]
    prepared: object = None


@dataclass(frozen=True, slots=True)
class Made:
    """What was written."""

    frames: int
    width: int
    height: int
    seconds: float
    how: str


class Decode(Protocol):
    """A decoder: decode.py, or a stand-in.

    Attributes:
        name: of the device, for people.
        warm: SHA-256 of the VAEs that it needs no file for.
        decoders: what a job may ask for here, beside "auto".
        patience: by what to multiply the seconds in which a GPU has made a frame, or hangs.
    """

    name: str
    warm: list[str]
    decoders: tuple[str, ...]
    patience: float

    def memory_mb(self) -> tuple[int, int]:
        """(free, all) of the device."""

    def prepare(self, job: Job, latent: Path, vae: Path | None, audio: Path | None) -> object:
        """What can be done while another one is decoded, on any thread; `vae` is None where it is warm.

        Raises:
            InvalidJob: nobody can decode this.
        """

    def __call__(self, work: Work) -> Made:
        """Write `work.target`, or raise: InvalidJob what nobody can decode, OutOfMemory what does not fit here."""
