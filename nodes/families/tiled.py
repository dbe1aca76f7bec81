"""The ways of VAE Decode (Tiled): the tiles that the user asked for, streamed; and what it has not, what follows when
memory runs out.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ...pipeline.decoders import lockstep, tiles
from ...pipeline.decoders.families import facts
from ...pipeline.decoders.families.recipe import Recipe
from ...pipeline.decoders.tiles import Axes, Plan
from ...pipeline.text import Text, gib
from ..comfyui import memory, tiling, vaes
from ..comfyui.lanes import SLOTS
from ..comfyui.memory import Room
from ..comfyui.tiling import Tiling
from ..log import say
from .family import Family, Job, Way
from .ways import Exact, spec_of, why_no_lanes, without_lanes

NAME = "tiled, streamed"
FRAMES_PER_SLOT = 4
# All frames of a stretch of time come at once: so many slots at most let the encoder work on them while the next one is
# decoded.
MOST_SLOTS = 16
# Of a pixel that is summed up, in float32: three colours and the weight.
BYTES_OF_SUMS = 16


def in_tiles(family: Family, asked: Tiling) -> Family:
    """The family, decoded in tiles."""
    streaming = next((way.recipe for way in family.ways if isinstance(way, Exact)), None)
    streamed = InTiles(family, streaming)
    return replace(
        family,
        ways=(streamed, STOCK, *(Again(streamed, times) for times in (1, 2, 4)), NO_MORE),
        size=functools.partial(_size, family, asked),
    )


def _size(family: Family, asked: Tiling, vae, latent: torch.Tensor) -> tuple[int, int, int] | None:
    plan = tiling.plan(vae, latent, asked)
    if plan is None:
        return family.size(vae, latent)
    frames, height, width = plan.pixels
    return len(latent) * frames, height, width


@dataclass(frozen=True)
class InTiles(Way):
    """The tiles of VAE Decode (Tiled), its pixels bit for bit.

    Where tiles cut the video in time, the frames of a stretch go when its last tile is decoded. Where they do not, they
    are decoded side by side, if the VAE's own modules can be streamed and memory suffices for all of them.

    Attributes:
        family: of the VAE.
        streaming: how it is streamed, if it is.
    """

    family: Family
    streaming: Recipe | None
    name = NAME

    def why_not(self, job: Job) -> str | None:
        return self.why_not_in(job, job.tiling)

    def why_not_in(self, job: Job, asked: Tiling) -> str | None:
        plan = tiling.plan(job.vae, job.latent, asked)
        if plan is None or job.latent.shape[1] != job.vae.latent_channels:
            return tiling.why_not_planned(job.vae, job.latent)
        return tiling.why_not_known(job.vae) or why_no_lanes(job) or self._why_not_at_once(job, plan)

    def _why_not_at_once(self, job: Job, plan: Plan) -> str | None:
        """Why tiles that each last as long as the video cannot be streamed."""
        if len(plan.rows) > 1:
            return None
        if self.streaming is None:
            return Text("temporal_size takes in all of the video, and this VAE decodes that at once")
        if not plan.is_one_tile and _draws_within(job.vae.first_stage_model):
            return Text("this VAE draws random numbers while it decodes, and tiles side by side would exchange theirs")
        return vaes.why_not_known(job.vae, self.streaming.into_buffer)

    def decode(self, job: Job) -> None:
        _say_overlaps_cut(job)
        vae, plan = job.vae, tiling.plan(job.vae, job.latent, job.tiling)
        at_once = plan.final_before(0) // FRAMES_PER_SLOT + 1

        def decode(submit):
            # Asked for when the slots are there, which take of it: 64 frames of 1920x1088 can be 0.8 GB.
            chosen, needed, how = self._fitting(job, plan, memory.room(vae, vae.patcher))
            self._load_and_decode(job, chosen, needed, how, submit)

        slots = 2 * SLOTS if len(plan.rows) == 1 else max(SLOTS, min(at_once, MOST_SLOTS))
        job.output.stream(decode, spec_of(job), FRAMES_PER_SLOT, slots)

    def decode_in_least(self, job: Job, asked: Tiling) -> None:
        """Tile by tile, summed up in main memory, with the fewest and smallest slots."""
        plan = tiling.plan(job.vae, job.latent, asked)
        if plan.is_one_tile and self.streaming is not None:
            chosen = self._side_by_side(job, plan)  # nothing takes less
        else:
            chosen = self._one_by_one(job, plan, torch.device("cpu"))

        def decode(submit):
            self._load_and_decode(job, chosen, self._needed(job, plan, 1), [], submit)

        job.output.stream(decode, spec_of(job), 1, 2)

    def _fitting(self, job: Job, plan: Plan, there: Room) -> tuple[Callable, int, list[Text]]:
        """How to decode with so much memory, how many bytes that takes, and what is to be said of it."""
        vae = job.vae
        how = [] if plan.is_one_tile else self._would_fit_without(job, there)
        if len(plan.rows) == 1:
            together = self._needed(job, plan, len(plan.rows[0]))
            if plan.is_one_tile or together <= there.emptied:
                return self._side_by_side(job, plan), together, how
            how.append(Text("Side by side the tiles would not fit into memory: nothing overlapped until the last one."))
        alone = self._needed(job, plan, 1)
        with_sums = alone + BYTES_OF_SUMS * self._pixels_of_a_tile(job, plan)[0] * plan.pixels[1] * plan.pixels[2]
        if with_sums <= there.emptied:
            return self._one_by_one(job, plan, vae.device), with_sums, how
        return self._one_by_one(job, plan, torch.device("cpu")), alone, how

    def _load_and_decode(self, job: Job, decode: Callable, needed: int, how: list[Text], submit: Callable) -> None:
        job.output.decoded.how = how
        memory.load_for_decoding(job.vae, job.latent, needed)
        decode(submit)

    def _side_by_side(self, job: Job, plan: Plan) -> Callable:
        vae = job.vae

        def decode(submit):
            with self.streaming.held(vae):
                lockstep.decode(
                    job.latent,
                    plan,
                    lambda latents: self.family.size(vae, latents)[0],
                    lambda latents, take: self.streaming.stream(vae, tiling.given(vae, latents), take),
                    submit,
                    vae.vae_output_dtype(),
                    vae.device,
                )

        return decode

    def _one_by_one(self, job: Job, plan: Plan, sums_on: torch.device) -> Callable:
        def decode(submit):
            # Of all else the model's own decode is called, of which nothing is caught.
            into_buffer = self.streaming is not None and self.streaming.into_buffer
            with self.streaming.held(job.vae) if into_buffer else contextlib.nullcontext():
                tiles.decode(job.latent, plan, tiling.tile_decoder(job.vae), submit, sums_on, job.vae.device)

        return decode

    # -- how much memory it takes -----------------------------------------------------------------

    def _needed(self, job: Job, plan: Plan, count: int) -> int:
        """Bytes for the decodes of so many tiles, of which one goes on and the others pause."""
        vae, latent = job.vae, _of_a_tile(job, plan)
        if self.streaming is None:
            return int(facts.estimate(vae, latent))
        each = self.streaming.needed_for(vae, latent, self._pixels_of_a_tile(job, plan))
        return count * each - (count - 1) * min(self.streaming.pausing, each // 2)  # of a small tile, less is let go of

    def _pixels_of_a_tile(self, job: Job, plan: Plan) -> Axes:
        return self.family.size(job.vae, _of_a_tile(job, plan)) or plan.pixels

    def _would_fit_without(self, job: Job, there: Room) -> list[Text]:
        """Say so if no tiles were needed."""
        size = self.family.size(job.vae, job.latent[:1])
        if self.streaming is None or size is None:
            return []
        needed = self.streaming.needed_for(job.vae, job.latent[:1], size)
        if needed > there.emptied:
            return []
        return [
            Text(
                "It would have fitted without tiles, which takes less time and has no seams: that needs about %needed% "
                "GiB, and %free% GiB were there.",
                needed=gib(needed),
                free=gib(there.emptied),
            )
        ]


def _say_overlaps_cut(job: Job) -> None:
    for note in tiling.overlaps_cut(job.vae, job.tiling):
        if note not in job.notes:  # by the way that was tried before
            job.warn(note)


def _of_a_tile(job: Job, plan: Plan) -> torch.Tensor:
    """Of the shape of the largest tile, without any data."""
    return torch.empty((1, job.latent.shape[1], *plan.largest), device="meta")


def _draws_within(model: torch.nn.Module) -> bool:
    """Whether random numbers are drawn not only at the beginning of a decode, as some of LTX-Video's do."""
    return any(getattr(module, "inject_noise", False) for module in model.modules())


class Stock(Way):
    """Whatever the stock VAEDecodeTiled does: always right, and nothing overlaps."""

    name = "stock"

    def why_not(self, job: Job) -> str | None:
        return job.reason if job.out_of_memory else None

    def decode(self, job: Job) -> None:
        say(f"decoding in tiles the stock way: {job.reason}")
        _say_overlaps_cut(job)
        _stock(job, job.tiling)


@dataclass(frozen=True)
class Again(Way):
    """Once more with other models unloaded and as little as can be in memory; in smaller tiles too, if `times` > 1."""

    streamed: InTiles
    times: int
    name = NAME
    after_out_of_memory = True

    def why_not(self, job: Job) -> str | None:
        return None if job.tiling.smaller(job.vae, self.times) or self.times == 1 else job.reason

    def decode(self, job: Job) -> None:
        asked = job.tiling
        if self.times == 1:
            job.warn(
                Text(
                    "out of memory after %seconds% s, starting again with as little in memory as can be, "
                    "and other models unloaded",
                    seconds=f"{job.seconds:.1f}",
                )
            )
        else:
            asked = job.tiling.smaller(job.vae, self.times)
            job.warn(
                Text(
                    "out of memory again: decoding in tiles of %size% pixels and not of %asked%, which takes longer; "
                    "the pixels are not those that were asked for, and there are more seams",
                    size=str(asked.tile_size),
                    asked=str(job.tiling.tile_size),
                )
            )
        memory.make_room()
        if self.streamed.why_not_in(job, asked) is None:
            self.streamed.decode_in_least(job, asked)
        else:
            _stock(job, asked)


class NoMore(Way):
    """There is nothing left to be tried."""

    name = "none"
    last = True

    def decode(self, job: Job) -> None:
        if not job.out_of_memory:  # it had run out before, and what was tried then failed in another way
            raise RuntimeError(f"The video could not be decoded in tiles, and there is no other way left: {job.reason}")
        raise memory.out_of_memory(
            f"Memory does not suffice for VAE Decode (Tiled) with tile_size {job.tiling.tile_size} and temporal_size "
            f"{job.tiling.temporal_size}, nor in smaller tiles with all other models unloaded ({job.reason}). Close "
            "what else uses the GPU, or make temporal_size and tile_size smaller, and decode again."
        )


def _stock(job: Job, asked: Tiling) -> None:
    without_lanes(job, lambda: tiling.stock_decode(job.vae, job.samples, asked))


STOCK = Stock()
NO_MORE = NoMore()
