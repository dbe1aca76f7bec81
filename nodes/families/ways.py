"""The ways that families share: the VAE's own modules streamed, ComfyUI's tiles, and ComfyUI's own decode."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ...pipeline.decoders import families
from ...pipeline.decoders.away import Away
from ...pipeline.decoders.families import facts
from ...pipeline.decoders.families.recipe import Fitted, Recipe
from ...pipeline.decoders.histories import Histories
from ...pipeline.report import Report
from ...pipeline.text import Text, gib, seconds
from ...pipeline.video_spec import VideoSpec
from .. import live
from ..comfyui import memory, vaes
from ..log import say
from .family import Family, Job, Way


def why_not_streamed(job: Job, into_buffer: bool = False) -> str | None:
    """Why this job's frames cannot be caught as they are decoded; None if they can.

    `into_buffer`: see `vaes.why_not_known`.

    Anything that differs from what is known counts: streaming stands in the place of `VAE.decode`, and the stock way
    is always right.
    """
    reason = vaes.why_not_known(job.vae, into_buffer)
    if reason is not None:
        return reason
    if job.latent.ndim != 5 or job.latent.shape[:2] != (1, job.vae.latent_channels):
        return Text("a latent of shape %shape% is not one video", shape=str(tuple(job.latent.shape)))
    if job.size is None:
        return facts.UNKNOWN
    return why_no_lanes(job)


def why_no_lanes(job: Job) -> str | None:
    """Why frames cannot be copied from this VAE's device while it goes on; None if they can."""
    if not memory.copies_are_safe(job.vae.device):
        return Text(
            "asynchronous copies are not safe on %device% with these settings (--deterministic)",
            device=f"'{job.vae.device}'",
        )
    return job.output.why_no_lanes(job.vae)


def spec_of(job: Job) -> VideoSpec:
    """What the VAE's model will put out."""
    zero_centred, clamped = facts.output_range(job.vae)
    return VideoSpec(*job.size, job.vae.device, zero_centred=zero_centred, clamped=clamped)


@dataclass(frozen=True)
class Exact(Way):
    """The VAE's own modules, streamed: the stock pixels bit for bit."""

    recipe: Recipe
    name = "exact"

    def why_not(self, job: Job) -> str | None:
        reason = why_not_streamed(job, self.recipe.into_buffer)
        if reason is None and self.recipe.is_hidden(job.vae):
            return vaes.REPLACED
        return reason

    def decode(self, job: Job) -> None:
        self.run(job, self.recipe.frames_per_slot)

    def decode_in_least(self, job: Job) -> None:
        """With all histories away, and the fewest and smallest slots."""
        self.run(job, frames_per_slot=1, slots=2, keep=False)

    def run(self, job: Job, frames_per_slot: int, slots: int | None = None, keep: bool = True) -> None:
        """`keep`: what is remembered on the GPU, where it fits."""
        vae = job.vae

        def decode(submit):
            with memory.away(vae.device) as away:
                fitted = self._make_room(job, keep)
                with self.recipe.held(vae):
                    latents = job.latent.to(device=vae.device, dtype=vae.vae_dtype)
                    try:
                        histories = None if fitted.keeps else Histories(away)
                        self.recipe.stream(vae, latents, submit, histories, fitted.pauses)
                    finally:  # a window may end before the video
                        if away.nbytes:
                            job.output.decoded.how = [_said(away), *fitted.said]

        job.output.stream(decode, spec_of(job), frames_per_slot, slots)

    def _make_room(self, job: Job, keep: bool) -> Fitted:
        """Load the VAE; what is done so that the decode fits.

        Raises:
            NoRoom: it does not.
        """
        vae = job.vae
        fitted = self.recipe.fitted(vae, job.latent, job.size, lambda: memory.room(vae, vae.patcher), keep)
        memory.load_for_decoding(vae, job.latent, fitted.needed)
        if not fitted.keeps and vae.device.type == "cuda":
            memory.give_pieces_back()
        return fitted


def _said(away: Away) -> Text:
    return Text(
        "To fit into the GPU, %away% GiB were kept in main memory; waiting for that cost %seconds% s.",
        away=gib(away.nbytes),
        seconds=seconds(away.waited_seconds()),
    )


@dataclass(frozen=True)
class ExactWithRoom(Way):
    """`exact` once more, with other models unloaded, and in as little memory as can be."""

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
        self.exact.decode_in_least(job)


class Late(Way):
    """ComfyUI's own decode up to where the frames lie on the GPU; from there on they go through the lanes.

    For VAEs that decode all at once, and those of images, whose frames are a batch.
    """

    name = "late"

    def why_not(self, job: Job) -> str | None:
        vae, latent = job.vae, job.latent
        if job.size is None or latent.ndim != vae.latent_dim + 2 or latent.shape[1] != vae.latent_channels:
            return job.reason
        return vaes.why_not_in_batches(vae) or why_no_lanes(job)

    def decode(self, job: Job) -> None:
        vae, latent = job.vae, job.latent
        memory.load_for_decoding(vae, latent)
        at_a_time = memory.batch_size(vae, latent)  # before the lanes take memory: the batches are part of the bits

        def decode(submit):
            for part in latent.split(at_a_time):
                decoded = vae.first_stage_model.decode(part.to(device=vae.device, dtype=vae.vae_dtype))
                videos = decoded if decoded.ndim == 5 else decoded.movedim(1, 0)[None]
                for at in range(len(videos)):
                    submit(videos[at])
                del decoded, videos  # as the stock decode lets go of a batch before the next one

        job.output.stream(decode, spec_of(job), 4, None)


class LateBatch(Late):
    """The same of a batch of videos, which a family's own way cannot do: their pieces come from all of them at once."""

    def why_not(self, job: Job) -> str | None:
        return job.reason if len(job.latent) == 1 or super().why_not(job) else None


class Tiled(Way):
    """What the stock node does when it runs out of memory."""

    name = "tiled"
    last = True
    after_out_of_memory = True

    def decode(self, job: Job) -> None:
        job.warn(
            Text("out of memory: decoding in tiles as the stock node does, which takes longer and can leave seams")
        )
        without_lanes(job, lambda: vaes.tiled_decode(job.vae, job.latent))


class Stock(Way):
    """Whatever the stock VAEDecode does: always right, and nothing overlaps."""

    name = "stock"
    last = True

    def decode(self, job: Job) -> None:
        say(f"decoding the stock way: {job.reason}")
        without_lanes(job, lambda: vaes.stock_decode(job.vae, job.samples))


def without_lanes(job: Job, decode: Callable[[], torch.Tensor]) -> None:
    """Decode all of it, then hand it on; the time that takes counts, and the node says that it passes."""
    decoded = job.output.decoded
    live.tell("stock", Report(decoded=decoded))
    began_seconds = time.perf_counter()
    frames_thwc = decode()
    decoded.seconds = time.perf_counter() - began_seconds
    job.output.take(frames_thwc)


LATE = Late()
LATE_BATCH = LateBatch()
TILED = Tiled()
STOCK = Stock()


def streamed(known: families.Family, faster: Sequence[Way] = ()) -> Family:
    """A family whose VAEs' own modules are streamed, with its ways.

    Args:
        faster: ways of its own, before `exact`.
    """
    exact = Exact(known.recipe)
    ways = (*faster, exact, ExactWithRoom(exact), LATE_BATCH, TILED, STOCK)
    return Family(known.name, known.matches, ways, known.size, known.channels, known.models)
