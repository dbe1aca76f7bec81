"""What a family of VAEs is: how it is recognised, and the ways to decode with it, the best one first."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from ...pipeline.decoders.families import facts
from ...pipeline.decoders.fast.plan import Plan
from ...pipeline.report import Decoded, Report
from ...pipeline.video_spec import VideoSpec
from ..comfyui import vaes
from ..comfyui.tiling import Tiling
from ..log import say


class Output(Protocol):
    """Where the frames of a decode go. A way calls one of the two methods, which may be called anew after a failure.

    Attributes:
        decoded: what the report is to say of the way that is tried; set before it is.
        report: of the decode, when it is done.
    """

    decoded: Decoded
    report: Report | None

    def why_no_lanes(self, vae) -> str | None:
        """Why frames on their way to it cannot overlap the decode; None if they can."""

    def stream(self, decode: Callable, spec: VideoSpec, frames_per_slot: int, slots: int | None) -> None:
        """Take the frames as they are decoded: see `engine.run`."""

    def take(self, frames_thwc: torch.Tensor) -> None:
        """Take an IMAGE that is decoded already."""


@dataclass
class Job:
    """One decode, and what became of it so far.

    Attributes:
        vae, samples: VAE and LATENT.
        decoder: what the user asked for, one of `decoding.DECODERS`.
        output: where the frames go.
        family: of the VAE.
        tiling: the tiles that the user asked for; None for none.
        reason: why the last way that was tried or asked did not do; before the first one, why none may.
        reasons: the same by each way's name.
        notes: what else there was to say, for the report.
        seconds: how long the last way that was tried took.
        out_of_memory: whether it ran out of memory.
        plan: of the last way that made one.
    """

    vae: object
    samples: dict
    decoder: str
    output: Output
    family: Family
    tiling: Tiling | None = None
    reason: str = ""
    reasons: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    out_of_memory: bool = False
    plan: Plan | None = None

    @property
    def latent(self) -> torch.Tensor:
        return vaes.latent_of(self.samples)

    @property
    def size(self) -> tuple[int, int, int] | None:
        """(frames, height, width), or None where only decoding tells."""
        return self.family.size(self.vae, self.latent)

    def warn(self, note: str) -> None:
        """Say it in the log and in the report."""
        self.notes.append(note)
        say(note, logging.WARNING)


class Way:
    """One way to decode. What a way has to say when it begins, it says itself.

    Attributes:
        name: what the log and the report call it.
        last: what it raises is the user's to see, and no other way follows.
        after_out_of_memory: it is for when the way before it ran out of memory, and only then.
    """

    name: str
    last = False
    after_out_of_memory = False

    def why_not(self, job: Job) -> str | None:
        """Why it cannot do this job; None if it can."""
        return None

    def decode(self, job: Job) -> None:
        """Decode into `job.output`."""
        raise NotImplementedError


@dataclass(frozen=True)
class Family:
    """VAEs that are decoded alike.

    Attributes:
        name: as users know it, "Wan 2.1".
        matches: whether a VAE is one.
        ways: the best one first; the last one must be able to do everything.
        size: (frames, height, width) of what a VAE makes of a latent.
        channels: of its latents; given if a user is to be told of latents of another model.
        models: whose latents it decodes, and their frames per second: {"Wan 2.2 5B": 24}.
    """

    name: str
    matches: Callable[[object], bool]
    ways: Sequence[Way]
    size: Callable[[object, torch.Tensor], tuple[int, int, int] | None] = facts.size_by_ratios
    channels: int | None = None
    models: dict[str, int] = field(default_factory=dict)
