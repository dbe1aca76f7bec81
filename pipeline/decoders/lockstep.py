"""Tiles that each last as long as the video, decoded side by side: each piece of it is put out when all have it.

One decode for each tile pauses between its pieces; whoever is behind goes on. What of the pieces is there of all tiles
is added in the tiles' order, see `tiles`. So no frame waits for the end of the video; what the decodes hold between
their pieces is in memory for all tiles at once.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable

import torch

from .paused import Paused
from .tiles import FRAMES_AT_A_TIME, Masks, Plan, Submit, Sums


def decode(
    latents_bcthw: torch.Tensor,
    plan: Plan,
    frames: Callable[[torch.Tensor], int],
    stream_tile: Callable[[torch.Tensor, Submit], None],
    submit: Submit,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Decode videos, the tiles of each in turns.

    Args:
        latents_bcthw: (B, C, T, H, W), any dtype, anywhere; one video after the other.
        plan: of one of them, with one stretch of time.
        frames: of a tile, (1, C, T, h, w): how many it makes.
        stream_tile: decodes one tile, submitting (3, t, H, W) pieces in any float dtype. Called once for each, in
            threads of their own of which one runs at a time: see `Paused`. Of a single tile, in this thread.
        submit: receives (3, t, H, W) pieces in this thread; in float32, of a single tile in `dtype`.
        dtype: to what pieces are rounded before they are added.
        device: of all pieces.
    Raises:
        ValueError: a tile ends before the video does.
        What a tile's decode raises. All of their threads are gone in any case.
    Stream: kernels are launched on the caller's current stream.
    """
    assert len(plan.rows) == 1, plan
    for video_1cthw in latents_bcthw.split(1):
        if plan.is_one_tile:
            stream_tile(video_1cthw, lambda piece: submit(piece.to(dtype)))
        else:
            _in_turns(video_1cthw, plan, frames, stream_tile, submit, dtype, device)


def _in_turns(
    video_1cthw: torch.Tensor,
    plan: Plan,
    frames: Callable[[torch.Tensor], int],
    stream_tile: Callable[[torch.Tensor, Submit], None],
    submit: Submit,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    sums, masks = Sums(plan.pixels, device), Masks(plan.feather, device)
    with contextlib.ExitStack() as stack:
        several = []
        for tile in plan.rows[0]:
            latents = tile.of(video_1cthw)
            paused = stack.enter_context(Paused(functools.partial(stream_tile, latents), device))
            several.append(_Decoding(paused, frames(latents), tile.pixels_at[1:]))
        at = 0
        while at < plan.pixels[0]:
            # In the tiles' order, in which those begin that draw random numbers when they do.
            there = min([each.decode_beyond(at) for each in several])
            stop = min(there, at + FRAMES_AT_A_TIME, plan.pixels[0])
            for each in several:
                each.add(at, stop, dtype, sums, masks)
            submit(sums.take(stop))
            at = stop
        for each in several:
            each.finish()


class _Decoding:
    """One tile's decode, and of its frames those that it has put out last.

    Args:
        frames: how many it will put out.
        corner: (row, column) of the video at which it begins.
    """

    def __init__(self, paused: Paused, frames: int, corner: tuple[int, int]):
        self._paused, self._frames, self._corner = paused, frames, corner
        self._piece: torch.Tensor | None = None
        self._begins = self._ends = 0  # frames

    def decode_beyond(self, at: int) -> int:
        """Go on until frame `at` is there, and say up to which frame all is."""
        while self._ends <= at:
            self._piece = None  # before the next one is made
            self._piece = self._paused.next()
            if self._piece is None:
                raise ValueError(f"a tile ended after {self._ends} frames, of {self._frames}")
            self._begins, self._ends = self._ends, self._ends + self._piece.shape[1]
        return self._ends

    def add(self, start: int, stop: int, dtype: torch.dtype, sums: Sums, masks: Masks) -> None:
        """Add frames that are there."""
        assert self._piece is not None and self._begins <= start < stop <= self._ends
        pixels = (self._frames, *self._piece.shape[2:])
        few_cthw = self._piece[:, start - self._begins : stop - self._begins]
        sums.add(few_cthw.to(dtype), masks.of(pixels, start, stop), (start, *self._corner))

    def finish(self) -> None:
        """Let the decode come to its own end."""
        self._piece = None
        while self._paused.next() is not None:
            pass
