"""How a VAE's own modules are streamed, and what memory that takes: recipes, one for each family.

A recipe is given a VAE as `comfy.sd.VAE` has it, whose model is loaded, and calls no more of it than its model's
`decode`. So it is the same in ComfyUI's nodes and on a worker of a farm.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ...text import Text, gib
from .. import buffered, exact
from ..fast.plan import NoRoom, Room
from ..histories import Histories
from . import facts

# How much of the GPU's memory torch's allocator takes for each byte that a VAE's own modules hold, with and without
# pauses; measured on an H200. With less cuDNN does not find the workspaces that it wants and takes other kernels, which
# are slow, and whose bits differ.
GAPS, GAPS_WITHOUT_PAUSES = 1.15, 1.36

# Of a VAE's model, a video of (frames, height, width) and a dtype of so many bytes.
Needed = Callable[[torch.nn.Module, tuple[int, int, int], int], int]


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
class Fitted:
    """What a decode does so that it fits.

    Attributes:
        needed: bytes to ask for beside the weights; None for what ComfyUI reckons.
        keeps: all that is remembered stays on the GPU.
        pauses: see `exact.decode`.
        said: what is to be said of it.
    """

    needed: int | None
    keeps: bool = True
    pauses: Sequence[torch.nn.Module] = ()
    said: list[Text] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All at once: of VAEs that have nothing to catch before they are done.

    Attributes:
        frames_per_slot: about as many as come at a time.
        needed: how many bytes the modules hold beside their weights; None if ComfyUI's own estimate is as good.
        pausing: how much less of that a decode holds between two pieces.
        little: what is done where GPU memory is; None if nothing can be. It says what is needed, too.
    """

    frames_per_slot: int = 4
    needed: Needed | None = None
    pausing: int = 0
    little: Little | None = None
    into_buffer = False

    def needed_for(self, vae: Any, latent: torch.Tensor, size: tuple[int, int, int]) -> int:
        """How many bytes of memory to ask for, of a video of (frames, height, width)."""
        if self.needed is None:
            return int(facts.estimate(vae, latent))
        return int(self.needed(vae.first_stage_model, size, vae.vae_dtype.itemsize) * GAPS_WITHOUT_PAUSES)

    def least_for(self, vae: Any, latent: torch.Tensor, size: tuple[int, int, int]) -> int:
        """The same of a decode that keeps in main memory what it can."""
        return self.needed_for(vae, latent, size)

    def fitted(
        self, vae: Any, latent: torch.Tensor, size: tuple[int, int, int], there: Callable[[], Room], keep: bool = True
    ) -> Fitted:
        """What is to be done so that a decode fits.

        Args:
            there: gives the memory that there is; called where something depends on it.
            keep: what is remembered stays on the GPU, where it fits.
        Raises:
            NoRoom: main memory does not suffice for it either.
        """
        return Fitted(self.needed_for(vae, latent, size))

    def is_hidden(self, vae: Any) -> bool:
        """Whether what is caught may never be called as a module, since somebody compiled or replaced the decoder."""
        return False

    @contextlib.contextmanager
    def held(self, vae: Any) -> Iterator[None]:
        """For the length of one `stream`, or of several that go on in turns.

        Raises:
            ValueError: what is caught of this model are not the frames that it decodes.
        """
        yield

    def stream(
        self,
        vae: Any,
        latents: torch.Tensor,
        submit: Callable[[torch.Tensor], None],
        histories: Histories | None = None,
        pauses: Sequence[torch.nn.Module] = (),
    ) -> None:
        """Decode one video, submitting its pieces.

        Args:
            latents: (1, C, T, h, w) in the VAE's dtype, on its device.
            submit: receives (3, t, H, W) as the model has them.
            histories, pauses: see `exact.decode`; given only where `little` is.
        Stream: kernels are launched on the caller's current stream.
        """
        submit(vae.first_stage_model.decode(latents)[0])


# By the VAE's model: whether what is caught of it are the frames that it decodes.
_fitting: weakref.WeakKeyDictionary[torch.nn.Module, bool] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Hooked(Recipe):
    """What a layer puts out: see `exact.decode`.

    Attributes:
        layer, to_frames, dropped_frames: of the VAE's model, see `exact.decode`.
        own_loop: decodes (1, C, T, H, W) and submits (3, T, H, W), for a model that has no such layer.
        tried_frames: of a short latent, long enough for every kind of piece. Before the first use with a model it is
            decoded both ways and compared, since a model's loop changes from one ComfyUI to the next. 0: it is not.
    """

    layer: Callable[[torch.nn.Module], torch.nn.Module] | None
    to_frames: Callable[[torch.nn.Module, torch.Tensor], torch.Tensor] = lambda model, output: output[0]
    dropped_frames: Callable[[torch.nn.Module], int] = lambda model: 0
    own_loop: Callable[[torch.nn.Module, torch.Tensor, Callable], None] | None = None
    tried_frames: int = 0

    def needed_for(self, vae: Any, latent: torch.Tensor, size: tuple[int, int, int]) -> int:
        if self.little is None:
            return super().needed_for(vae, latent, size)
        return int(_halves(vae, size) * (self.little.working + self.little.staying) * GAPS_WITHOUT_PAUSES)

    def least_for(self, vae: Any, latent: torch.Tensor, size: tuple[int, int, int]) -> int:
        if self.little is None:
            return super().least_for(vae, latent, size)
        return int(_halves(vae, size) * self.little.working * GAPS)

    def fitted(
        self, vae: Any, latent: torch.Tensor, size: tuple[int, int, int], there: Callable[[], Room], keep: bool = True
    ) -> Fitted:
        little = self.little
        if little is None:
            return super().fitted(vae, latent, size, there, keep)
        if vae.device.type != "cuda":
            return Fitted(None, keep)
        halves, everything, room = _halves(vae, size), self.needed_for(vae, latent, size), there()
        if keep and room.emptied >= everything:
            return Fitted(everything)
        lacking = halves * little.histories - room.main
        if lacking > 0:
            raise NoRoom(Text("it needs %main% GiB more of main memory", main=gib(lacking)))
        working = int(halves * little.working * GAPS_WITHOUT_PAUSES)
        if keep and room.emptied >= working:
            return Fitted(working, keeps=False)
        least = self.least_for(vae, latent, size)
        other_kernels = Text(
            "There was less GPU memory than cuDNN likes: it may take other kernels, slower and rounding differently."
        )
        pauses = little.pauses(vae.first_stage_model)
        return Fitted(least, False, pauses, [] if room.emptied >= least else [other_kernels])

    def is_hidden(self, vae: Any) -> bool:
        decoder = facts.decoder_of(vae)
        if self.layer is None or decoder is None or not facts.is_wrapped(decoder):
            return False
        return not self._catches_all(vae.first_stage_model)

    @contextlib.contextmanager
    def held(self, vae: Any) -> Iterator[None]:
        if not self._fits(vae):
            raise ValueError(facts.UNKNOWN)
        yield

    def stream(
        self,
        vae: Any,
        latents: torch.Tensor,
        submit: Callable[[torch.Tensor], None],
        histories: Histories | None = None,
        pauses: Sequence[torch.nn.Module] = (),
    ) -> None:
        model = vae.first_stage_model
        if self.own_loop is not None:
            self.own_loop(model, latents, submit)
            return
        assert self.layer is not None, "one of the two is given"
        exact.decode(
            model,
            latents,
            submit,
            self.layer(model),
            lambda output: self.to_frames(model, output),
            self.dropped_frames(model),
            histories,
            pauses,
        )

    def _catches_all(self, model: Any) -> bool:
        """Whether it is the decoder as a whole whose outputs are caught."""
        return self.layer is not None and self.layer(model) is model.decoder

    def _fits(self, vae: Any) -> bool:
        """Whether what is caught of this model, which is loaded, are the frames that it decodes."""
        model = vae.first_stage_model
        # A decoder that is caught as a whole another pack has wrapped, and often compiled: for the size of this latent,
        # that would take minutes.
        if self.tried_frames and not self._catches_all(model) and model not in _fitting:
            size = (1, vae.latent_channels, self.tried_frames, 2, 2)
            noise = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(vae.device, vae.vae_dtype)
            # Twice where they differ: on a GPU, a process's first convolutions may be done by other kernels.
            _fitting[model] = any(self._fits_once(vae, noise) for _ in range(2))
        return _fitting.get(model, True)

    def _fits_once(self, vae: Any, noise: torch.Tensor) -> bool:
        pieces: list[torch.Tensor] = []
        self.stream(vae, noise, pieces.append)
        whole = vae.first_stage_model.decode(noise)[0].nan_to_num()
        # Some models gather what they decoded in main memory.
        return bool(pieces) and torch.equal(torch.cat(pieces, dim=1).to(whole.device).nan_to_num(), whole)


@dataclass(frozen=True, kw_only=True)
class Buffered(Recipe):
    """What a model writes into a buffer: see `buffered.decode`.

    Attributes:
        caching: of the VAE's model, see `buffered.decode`.
    """

    caching: Callable[[torch.nn.Module], list[torch.nn.Module]] = lambda model: []
    into_buffer = True

    @contextlib.contextmanager
    def held(self, vae: Any) -> Iterator[None]:
        with buffered.compacted(self.caching(vae.first_stage_model)):
            yield

    def stream(
        self,
        vae: Any,
        latents: torch.Tensor,
        submit: Callable[[torch.Tensor], None],
        histories: Histories | None = None,
        pauses: Sequence[torch.nn.Module] = (),
    ) -> None:
        buffered.decode(vae.first_stage_model, latents, submit, vae.vae_output_dtype())


def _halves(vae: Any, size: tuple[int, int, int]) -> int:
    """Pixels of a frame; twice as many in a dtype of 32 bits, as the figures are of one of 16."""
    return size[1] * size[2] * vae.vae_dtype.itemsize // 2
