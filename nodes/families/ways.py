"""The ways that families share: the VAE's own modules streamed, ComfyUI's tiles, and ComfyUI's own decode."""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from ...pipeline.decoders import buffered, exact
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
        return vaes.UNKNOWN
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


# By the VAE's model: whether what is caught of it are the frames that it decodes.
_fitting: weakref.WeakKeyDictionary[torch.nn.Module, bool] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Exact(Way):
    """The VAE's own modules, streamed: the stock pixels bit for bit.

    Attributes:
        layer, to_frames, dropped_frames: of the VAE's model, see `exact.decode`.
        frames_per_slot: what comes out of the layer at a time.
        own_loop: decodes (1, C, T, H, W) and submits (3, T, H, W), for a model that has no such layer.
        little: what is done where GPU memory is; None if nothing can be.
        needed: see `Buffered`; of a VAE with `little`, that says it.
        tried_frames: of a short latent, long enough for every kind of piece. Before the first use with a model it is
            decoded both ways and compared, since a model's loop changes from one ComfyUI to the next. 0: it is not.
    """

    layer: Callable[[torch.nn.Module], torch.nn.Module] | None
    frames_per_slot: int
    to_frames: Callable[[torch.nn.Module, torch.Tensor], torch.Tensor] = lambda model, output: output[0]
    dropped_frames: Callable[[torch.nn.Module], int] = lambda model: 0
    little: Little | None = None
    own_loop: Callable[[torch.nn.Module, torch.Tensor, Callable], None] | None = None
    tried_frames: int = 0
    needed: Callable[[torch.nn.Module, tuple[int, int, int], int], int] | None = None
    name = "exact"

    def why_not(self, job: Job) -> str | None:
        decoder = vaes.decoder_of(job.vae)
        reason = why_not_streamed(job)
        if reason is None and self.layer is not None and decoder is not None and vaes.is_wrapped(decoder):
            # The layer may never be called as a module; a decoder that is caught as a whole is.
            return None if self._catches_all(job.vae.first_stage_model) else vaes.REPLACED
        return reason

    def decode(self, job: Job) -> None:
        self.run(job, self.frames_per_slot)

    def decode_in_least(self, job: Job) -> None:
        """With all histories away, and the fewest and smallest slots."""
        self.run(job, frames_per_slot=1, slots=2, keep=False)

    def run(self, job: Job, frames_per_slot: int, slots: int | None = None, keep: bool = True) -> None:
        """`keep`: the histories on the GPU, where they fit."""
        vae, model = job.vae, job.vae.first_stage_model

        def decode(submit):
            with memory.away(vae.device) as away:
                keeps, pauses, said = self._make_room(job, keep)
                if not self._fits(vae):
                    raise ValueError(vaes.UNKNOWN)
                latents = job.latent.to(device=vae.device, dtype=vae.vae_dtype)
                try:
                    self._stream(model, latents, submit, None if keeps else Histories(away), pauses)
                finally:  # a window may end before the video
                    if away.nbytes:
                        job.output.decoded.how = [_said(away), *said]

        job.output.stream(decode, spec_of(job), frames_per_slot, slots)

    def needed_for(self, vae, latent: torch.Tensor, size: tuple[int, int, int]) -> int:
        """How many bytes of memory to ask for."""
        if self.little is not None:
            halves = size[1] * size[2] * vae.vae_dtype.itemsize // 2
            return int(halves * (self.little.working + self.little.staying) * GAPS_WITHOUT_PAUSES)
        return _needed_for(self.needed, vae, latent, size)

    @contextlib.contextmanager
    def held(self, vae) -> Iterator[None]:
        """For the length of some `stream_tile`; the VAE is loaded."""
        if not self._fits(vae):
            raise ValueError(vaes.UNKNOWN)
        yield

    def stream_tile(self, vae, latents: torch.Tensor, submit: Callable) -> None:
        """Decode (1, C, T, h, w), given as the model gets it, submitting its pieces."""
        self._stream(vae.first_stage_model, latents, submit)

    def _stream(self, model, latents: torch.Tensor, submit: Callable, *more) -> None:
        if self.layer is None:
            self.own_loop(model, latents, submit)
            return
        exact.decode(
            model,
            latents,
            submit,
            self.layer(model),
            lambda output: self.to_frames(model, output),
            self.dropped_frames(model),
            *more,
        )

    def _catches_all(self, model) -> bool:
        """Whether it is the decoder as a whole whose outputs are caught."""
        return self.layer is not None and self.layer(model) is model.decoder

    def _fits(self, vae) -> bool:
        """Whether what is caught of this model, which is loaded, are the frames that it decodes."""
        model = vae.first_stage_model
        # A decoder that is caught as a whole another pack has wrapped, and often compiled: for the size of this latent,
        # that would take minutes.
        if self.tried_frames and not self._catches_all(model) and model not in _fitting:
            size = (1, vae.latent_channels, self.tried_frames, 2, 2)
            noise = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(vae.device, vae.vae_dtype)
            # Twice where they differ: on a GPU, a process's first convolutions may be done by other kernels.
            _fitting[model] = any(self._fits_once(model, noise) for _ in range(2))
        return _fitting.get(model, True)

    def _fits_once(self, model, noise: torch.Tensor) -> bool:
        pieces: list[torch.Tensor] = []
        self._stream(model, noise, pieces.append)
        whole = model.decode(noise)[0].nan_to_num()
        # Some models gather what they decoded in main memory.
        return bool(pieces) and torch.equal(torch.cat(pieces, dim=1).to(whole.device).nan_to_num(), whole)

    def _make_room(self, job: Job, keep: bool) -> tuple[bool, list[torch.nn.Module], list[Text]]:
        """Load the VAE; whether the histories can stay on the GPU, all of them, the pauses, and what is to be said.

        Raises:
            NoRoom: main memory does not suffice for them either.
        """
        vae, little = job.vae, self.little
        if little is None:
            memory.load_for_decoding(vae, job.latent, self.needed_for(vae, job.latent, job.size))
            return True, [], []
        if vae.device.type != "cuda":
            memory.load_for_decoding(vae, job.latent)
            return keep, [], []
        _, height, width = job.size
        halves = height * width * vae.vae_dtype.itemsize // 2
        there = memory.room(vae, vae.patcher)
        everything = self.needed_for(vae, job.latent, job.size)
        if keep and there.emptied >= everything:
            memory.load_for_decoding(vae, job.latent, everything)
            return True, [], []
        lacking = halves * little.histories - there.main
        if lacking > 0:
            raise NoRoom(Text("it needs %main% GiB more of main memory", main=gib(lacking)))
        working = int(halves * little.working * GAPS_WITHOUT_PAUSES)
        if keep and there.emptied >= working:
            memory.load_for_decoding(vae, job.latent, working)
            memory.give_pieces_back()
            return False, [], []
        least = int(halves * little.working * GAPS)
        memory.load_for_decoding(vae, job.latent, least)
        memory.give_pieces_back()
        other_kernels = Text(
            "There was less GPU memory than cuDNN likes: it may take other kernels, slower and rounding differently."
        )
        return False, little.pauses(vae.first_stage_model), [] if there.emptied >= least else [other_kernels]


def _needed_for(needed: Callable | None, vae, latent: torch.Tensor, size: tuple[int, int, int]) -> int:
    """How many bytes of memory to ask for, where a VAE's family may know it better than ComfyUI."""
    if needed is None:
        return int(memory.estimate(vae, latent))
    return int(needed(vae.first_stage_model, size, vae.vae_dtype.itemsize) * GAPS_WITHOUT_PAUSES)


def _said(away: Away) -> Text:
    return Text(
        "To fit into the GPU, %away% GiB were kept in main memory; waiting for that cost %seconds% s.",
        away=gib(away.nbytes),
        seconds=seconds(away.waited_seconds()),
    )


@dataclass(frozen=True)
class Buffered(Way):
    """The VAE's own modules, which write their frames into a buffer: the stock pixels bit for bit.

    Attributes:
        frames_per_slot: about as many as are written at a time.
        caching: of the VAE's model, see `buffered.decode`.
        needed: of the VAE's model, a video of (frames, height, width) and a dtype of so many bytes: how many bytes
            the modules hold beside their weights; None if ComfyUI's own estimate is as good.
        pausing: how much less of that a decode holds between two pieces.
    """

    frames_per_slot: int
    caching: Callable[[torch.nn.Module], list[torch.nn.Module]] = lambda model: []
    needed: Callable[[torch.nn.Module, tuple[int, int, int], int], int] | None = None
    pausing: int = 0
    name = "exact"

    def why_not(self, job: Job) -> str | None:
        return why_not_streamed(job, into_buffer=True)

    def decode(self, job: Job) -> None:
        self.run(job, self.frames_per_slot)

    def decode_in_least(self, job: Job) -> None:
        """With the fewest and smallest slots."""
        self.run(job, frames_per_slot=1, slots=2)

    def run(self, job: Job, frames_per_slot: int, slots: int | None = None) -> None:
        vae, model = job.vae, job.vae.first_stage_model

        def decode(submit):
            memory.load_for_decoding(vae, job.latent, self.needed_for(vae, job.latent, job.size))
            latents = job.latent.to(device=vae.device, dtype=vae.vae_dtype)
            buffered.decode(model, latents, submit, vae.vae_output_dtype(), self.caching(model))

        job.output.stream(decode, spec_of(job), frames_per_slot, slots)

    def needed_for(self, vae, latent: torch.Tensor, size: tuple[int, int, int]) -> int:
        """How many bytes of memory to ask for."""
        return _needed_for(self.needed, vae, latent, size)

    def held(self, vae) -> contextlib.AbstractContextManager[None]:
        """For the length of some `stream_tile`; the VAE is loaded."""
        return buffered.compacted(self.caching(vae.first_stage_model))

    def stream_tile(self, vae, latents: torch.Tensor, submit: Callable) -> None:
        """Decode (1, C, T, h, w), given as the model gets it, submitting its pieces."""
        buffered.decode(vae.first_stage_model, latents, submit, vae.vae_output_dtype())


@dataclass(frozen=True)
class ExactWithRoom(Way):
    """`exact` once more, with other models unloaded, and in as little memory as can be."""

    exact: Exact | Buffered
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


def all_exact(exact: Exact | Buffered) -> tuple[Way, ...]:
    """The ways of a VAE that can be streamed, from `exact` down."""
    return exact, ExactWithRoom(exact), LATE_BATCH, TILED, STOCK
