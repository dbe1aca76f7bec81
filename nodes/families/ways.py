"""The ways that families share: the VAE's own modules streamed, ComfyUI's tiles, and ComfyUI's own decode."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...pipeline.decoders import exact
from ...pipeline.decoders.away import Away
from ...pipeline.decoders.fast.plan import NoRoom
from ...pipeline.decoders.histories import Histories
from ...pipeline.report import Report
from ...pipeline.text import Text, gib, seconds
from ...pipeline.video_spec import VideoSpec
from .. import live
from ..comfyui import memory, vaes
from ..log import say
from .family import Job, Way


def why_not_streamed(job: Job) -> str | None:
    """Why this job's frames cannot be caught as they are decoded; None if they can.

    Anything that differs from what is known counts: streaming stands in the place of `VAE.decode`, and the stock way
    is always right.
    """
    reason = vaes.why_not_known(job.vae)
    if reason is not None:
        return reason
    if job.samples["samples"].is_nested:
        return Text("the latent is nested")
    if job.latent.ndim != 5 or job.latent.shape[:2] != (1, job.vae.latent_channels):
        return Text("a latent of shape %shape% is not one video", shape=str(tuple(job.latent.shape)))
    if not memory.copies_are_safe(job.vae.device):
        return Text(
            "asynchronous copies are not safe on %device% with these settings (--deterministic)",
            device=f"'{job.vae.device}'",
        )
    return job.output.why_no_lanes(job.vae)


def spec_of(job: Job) -> VideoSpec:
    """What the VAE's model will put out."""
    zero_centred, clamped = vaes.output_range(job.vae)
    return VideoSpec(*job.size, job.vae.device, zero_centred=zero_centred, clamped=clamped)


# How much of the GPU's memory torch's allocator takes for each byte that a VAE's own modules hold, with and without
# pauses; measured on an H200. With less cuDNN does not find the workspaces that it wants and takes other kernels, which
# are slow, and whose bits differ.
GAPS, GAPS_WITHOUT_PAUSES = 1.15, 1.36


@dataclass(frozen=True)
class Little:
    """What helps a VAE's own modules where GPU memory is little.

    Attributes:
        histories: what their convolutions remember, in bytes for each pixel of a frame, in a dtype of 16 bits.
        working: the most that they hold with all of that in main memory, weights left out.
        staying: what they hold more with all of it on the GPU: not all is there when they hold most.
        pauses: of the VAE's model, see `exact.decode`; they take as long as moving what is remembered.
    """

    histories: int
    working: int
    staying: int
    pauses: Callable[[torch.nn.Module], list[torch.nn.Module]]


@dataclass(frozen=True)
class Exact(Way):
    """The VAE's own modules, streamed: the stock pixels bit for bit.

    Attributes:
        layer, to_frames, dropped_frames: of the VAE's model, see `exact.decode`.
        frames_per_slot: what comes out of the layer at a time.
        little: what is done where GPU memory is; None if nothing can be.
    """

    layer: Callable[[torch.nn.Module], torch.nn.Module]
    frames_per_slot: int
    to_frames: Callable[[torch.nn.Module, torch.Tensor], torch.Tensor] = lambda model, output: output[0]
    dropped_frames: Callable[[torch.nn.Module], int] = lambda model: 0
    little: Little | None = None
    name = "exact"

    def why_not(self, job: Job) -> str | None:
        return why_not_streamed(job)

    def decode(self, job: Job) -> None:
        self.run(job, self.frames_per_slot)

    def run(self, job: Job, frames_per_slot: int, slots: int | None = None, keep: bool = True) -> None:
        """`keep`: the histories on the GPU, where they fit."""
        vae, model = job.vae, job.vae.first_stage_model

        def decode(submit):
            with memory.away(vae.device) as away:
                keeps, pauses = self._make_room(job, keep)
                latents = job.latent.to(device=vae.device, dtype=vae.vae_dtype)
                try:
                    exact.decode(
                        model,
                        latents,
                        submit,
                        self.layer(model),
                        lambda output: self.to_frames(model, output),
                        self.dropped_frames(model),
                        None if keeps else Histories(away),
                        pauses,
                    )
                finally:  # a window may end before the video
                    if away.nbytes:
                        job.output.decoded.how = [_said(away)]

        job.output.stream(decode, spec_of(job), frames_per_slot, slots)

    def _make_room(self, job: Job, keep: bool) -> tuple[bool, list[torch.nn.Module]]:
        """Load the VAE; whether the histories can stay on the GPU, all of them, and the pauses.

        Raises:
            NoRoom: main memory does not suffice for them either.
        """
        vae, little = job.vae, self.little
        if little is None or vae.device.type != "cuda":
            memory.load_for_decoding(vae, job.latent)
            return keep or little is None, []
        _, height, width = job.size
        halves = height * width * vae.vae_dtype.itemsize // 2
        there = memory.room(vae, vae.patcher)
        everything = int(halves * (little.working + little.staying) * GAPS_WITHOUT_PAUSES)
        if keep and there.emptied >= everything:
            memory.load_for_decoding(vae, job.latent, everything)
            return True, []
        lacking = halves * little.histories - there.main
        if lacking > 0:
            raise NoRoom(Text("it needs %main% GiB more of main memory", main=gib(lacking)))
        working = int(halves * little.working * GAPS_WITHOUT_PAUSES)
        if keep and there.emptied >= working:
            memory.load_for_decoding(vae, job.latent, working)
            memory.give_pieces_back()
            return False, []
        memory.load_for_decoding(vae, job.latent, int(halves * little.working * GAPS))
        memory.give_pieces_back()
        return False, little.pauses(vae.first_stage_model)


def _said(away: Away) -> Text:
    return Text(
        "To fit into the GPU, %away% GiB were kept in main memory; waiting for that cost %seconds% s.",
        away=gib(away.nbytes),
        seconds=seconds(away.waited_seconds()),
    )


@dataclass(frozen=True)
class ExactWithRoom(Way):
    """`exact` once more, with other models unloaded, all histories away, and the fewest and smallest slots."""

    exact: Exact
    name = "exact"
    after_out_of_memory = True

    def decode(self, job: Job) -> None:
        job.warn(
            Text(
                "out of memory after %seconds% s, starting again with as little in memory as can be, "
                "and other models unloaded",
                seconds=f"{job.seconds:.1f}",
            )
        )
        memory.make_room()
        self.exact.run(job, frames_per_slot=1, slots=2, keep=False)


class Tiled(Way):
    """What the stock node does when it runs out of memory."""

    name = "tiled"
    last = True
    after_out_of_memory = True

    def decode(self, job: Job) -> None:
        job.warn(
            Text("out of memory: decoding in tiles as the stock node does, which takes longer and can leave seams")
        )
        _without_lanes(job, lambda: vaes.tiled_decode(job.vae, job.latent))


class Stock(Way):
    """Whatever the stock VAEDecode does: always right, and nothing overlaps."""

    name = "stock"
    last = True

    def decode(self, job: Job) -> None:
        say(f"decoding the stock way: {job.reason}")
        _without_lanes(job, lambda: vaes.stock_decode(job.vae, job.samples))


def _without_lanes(job: Job, decode: Callable[[], torch.Tensor]) -> None:
    """Decode all of it, then hand it on; the time that takes counts, and the node says that it passes."""
    decoded = job.output.decoded
    live.tell("stock", Report(decoded=decoded))
    began_seconds = time.perf_counter()
    frames_thwc = decode()
    decoded.seconds = time.perf_counter() - began_seconds
    job.output.take(frames_thwc)


STOCK = Stock()


def all_exact(exact: Exact) -> tuple[Way, ...]:
    """The ways of a VAE that can be streamed, from `exact` down."""
    return exact, ExactWithRoom(exact), Tiled(), STOCK
