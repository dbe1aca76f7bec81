"""A VAE's own modules, which write their frames into a buffer: in its place stand the lanes.

Models of ComfyUI that can (`comfy_has_chunked_io`) are given the tensor that is to hold the whole video, and write each
piece into it as soon as it is decoded. Not one operation of theirs differs with another buffer, so the pixels are the
stock ones bit for bit, and no hook is needed.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch


def decode(
    model: torch.nn.Module,
    latents_bcthw: torch.Tensor,
    submit: Callable[[torch.Tensor], None],
    dtype: torch.dtype = torch.float32,
    caching: Iterable[torch.nn.Module] = (),
) -> None:
    """Decode one video, submitting every piece.

    Args:
        model: a VAE whose `decode` takes an `output_buffer` of the shape that its `decode_output_shape` says.
        latents_bcthw: (1, C, T, H, W) in the model's dtype, on its device.
        submit: receives (3, T, H, W) pieces as the model has them: in its dtype, on its device.
        dtype: of the buffer, for models that ask.
        caching: modules with a dict `temporal_cache_state` whose tensors may be held in copies, see `Compact`.
    Raises:
        ValueError: the model uses the buffer in a way that `Buffer` does not know.
        What `submit` or the model raises. The modules have their own dicts again in any case.
    Stream: kernels are launched on the caller's current stream, as the model does.
    """
    buffer = Buffer(model.decode_output_shape(latents_bcthw.shape), dtype, latents_bcthw.device, submit)
    with compacted(caching):
        model.decode(latents_bcthw, output_buffer=buffer)


@contextlib.contextmanager
def compacted(caching: Iterable[torch.nn.Module]) -> Iterator[None]:
    """For the length of one decode, or of several that go on in turns, let modules hold what they remember in copies.

    Not to be nested by decodes that end in another order than they began in.
    """
    with contextlib.ExitStack() as caches:
        for module in caching:
            own = module.temporal_cache_state
            caches.callback(setattr, module, "temporal_cache_state", own)
            module.temporal_cache_state = Compact(own)
        yield


class Buffer:
    """Stands in for a tensor (1, C, T, H, W) that is written once, from its first frame to its last.

    It can do `buffer[:, :, a:b].copy_(frames)`, `buffer[:, :, a:b] = frames` and `buffer.copy_(frames)`; what is more
    or else raises, so that no pixel is lost in silence.

    Args:
        shape, dtype, device: of the tensor. The device is the decoder's, so that nothing is moved for its sake.
        submit: receives (C, T, H, W) as it was written.
    """

    def __init__(
        self,
        shape: Sequence[int],
        dtype: torch.dtype,
        device: torch.device,
        submit: Callable[[torch.Tensor], None],
    ):
        self.shape, self.dtype, self.device = torch.Size(shape), dtype, device
        self._submit = submit
        self._written_frames = 0

    def __getitem__(self, at: Any) -> Window:
        slices = at if isinstance(at, tuple) else (at,)
        if not 3 <= len(slices) <= len(self.shape) or not all(isinstance(each, slice) for each in slices):
            raise ValueError(f"the VAE's buffer is indexed by {at}, expected [:, :, frames]")
        spans = [each.indices(size) for each, size in zip(slices, self.shape)]
        start, stop, step = spans.pop(2)
        if step != 1 or spans != [(0, size, 1) for size in (*self.shape[:2], *self.shape[3 : len(slices)])]:
            raise ValueError(f"the VAE writes a part of its frames, {at}, expected whole ones")
        return Window(self, start, stop)

    def __setitem__(self, at: Any, frames_bcthw: torch.Tensor) -> None:
        self[at].copy_(frames_bcthw)

    def copy_(self, frames_bcthw: torch.Tensor, non_blocking: bool = False) -> Buffer:
        """All of it at once."""
        self[:, :, :].copy_(frames_bcthw)
        return self

    def take(self, start: int, frames_bcthw: torch.Tensor) -> None:
        """Hand over what was written from frame `start` on."""
        if start != self._written_frames:
            raise ValueError(f"the VAE writes frame {start} after {self._written_frames} frames")
        self._written_frames += frames_bcthw.shape[2]
        self._submit(frames_bcthw[0])


class Window:
    """Frames `start` to `stop` of a `Buffer`."""

    def __init__(self, buffer: Buffer, start: int, stop: int):
        self._buffer, self._start = buffer, start
        self.shape = torch.Size((*buffer.shape[:2], max(0, stop - start), *buffer.shape[3:]))
        self.dtype, self.device = buffer.dtype, buffer.device

    def copy_(self, frames_bcthw: torch.Tensor, non_blocking: bool = False) -> Window:
        """As a tensor's, but nothing is spread over more frames than it is of."""
        if frames_bcthw.shape != self.shape:
            raise ValueError(f"the VAE writes {tuple(frames_bcthw.shape)}, expected {tuple(self.shape)}")
        self._buffer.take(self._start, frames_bcthw)
        return self


class Compact(collections.UserDict):
    """Stands in for a dict of tensors and tuples of them: what is put into it lies in no larger tensor's memory.

    A module that keeps the last two frames of a tensor as a view keeps all of its frames in memory.

    Args:
        own: the dict that holds it all, so that nothing has to be moved when this goes: entries of other threads, which
            decode with the same module, stay where they are.
    """

    def __init__(self, own: dict):
        self.data = own  # not a copy, which `UserDict` would make

    def __setitem__(self, key: Any, value: Any) -> None:
        self.data[key] = tuple(map(_compacted, value)) if isinstance(value, tuple) else _compacted(value)


def _compacted(value: Any) -> Any:
    """A tensor that is a part of a larger one as a copy, anything else as it is."""
    if not isinstance(value, torch.Tensor) or value.untyped_storage().nbytes() <= value.nbytes:
        return value
    # In the same order of axes: others would let cuDNN choose other kernels, whose bits differ.
    return value.clone(memory_format=torch.preserve_format)
