"""LTX's decoder, in groups of four frames, with everything it remembers in one place.

Its convolutions mostly see one frame back and one ahead. So what they put out is a frame late: of four frames that come
in, the four are made that begin a frame before. After many convolutions frames come out long after their latent went
in, but groups stay whole, and each is made by six products (`winograd`). Frames below 0, before the video, are made
where they fill a group, and are read as the first frame; groups of nothing else are left out. The end of a video is the
same, mirrored.

Several groups go through a convolution in one call. How many does not depend on the pieces in which a caller gives the
latent, so any pieces give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .kernels import norm_silu_groups, patches, spread_groups
from .ltx_weights import EPS, Conv, Upsample, Weights
from .network import cudnn_flags
from .plan import GAPS_WHOLE, GAPS_WHOLE_UNJOINED, WORKSPACES
from .room import _Counter, _on_meta

GROUP = 4
HISTORY = 2  # frames back that a kernel of three in time sees, itself late by one
# Frames that go through a level's convolutions at a time, and through the last level's: more keep the GPU busy, and
# take memory.
FRAMES, LAST_FRAMES = 8, 16


@dataclass(slots=True)
class Span:
    """Where a batch of frames lies in its level's video.

    Attributes:
        start: its first frame; below 0 where it begins with some that are before the video.
        stop: how many frames the video has, if it ends in this batch.
    """

    start: int
    stop: int | None

    @property
    def first(self) -> int:
        """Which of the batch is the video's first frame; -1 where that is long past."""
        return max(-1, -self.start)

    def frames(self, groups: int) -> int:
        """How many frames of so many groups there are."""
        return GROUP * groups if self.stop is None else min(GROUP * groups, self.stop - self.start)


class LtxDecoder:
    """LTX's VAE decoder over `weights`, for one video after another.

    Example:
        decoder = LtxDecoder(ltx_weights.load(state, config, device, torch.float16))
        for frames_cthw in decoder.push(latents_bcthw, last=True): ...
    """

    def __init__(self, weights: Weights):
        self._weights = weights
        self._late = 0 if weights.causal else 1
        self.reset()

    def reset(self) -> None:
        """Forget the video: what is pushed next begins a new one."""
        self._history: dict[int, torch.Tensor] = {}
        self._waiting: torch.Tensor | None = None
        self._start = 0

    @torch.inference_mode()
    def push(self, latents_bcthw: torch.Tensor, last: bool) -> Iterator[torch.Tensor]:
        """Decode the next latent frames. After an error only `reset` helps; after the last ones nothing has to be done.

        Args:
            latents_bcthw: (1, C, T, h, w), any dtype, on the weights' device; with noise, where the VAE wants some.
            last: whether the video ends with these.
        Yields:
            (3, T, H, W) about [-1, 1], float32; what is ready.
        Raises:
            ValueError: frames are so small that they have no mirror image beyond their edge.
        Stream: runs on the caller's current stream; never waits for it.
        """
        w = self._weights
        if w.reflects and min(latents_bcthw.shape[3:]) < 2:
            raise ValueError("this VAE decodes latents of at least 2x2")
        latents = latents_bcthw[0].permute(1, 2, 3, 0).float() * w.std + w.mean
        if not self._history:
            self._remember_nothing(*latents.shape[1:3])
        latents = latents.to(w.head.weight.dtype)
        waiting = latents if self._waiting is None else torch.cat((self._waiting, latents))
        self._waiting = None
        del latents
        while len(waiting) > FRAMES or (last and len(waiting)):
            ends = last and len(waiting) <= FRAMES
            batch, waiting = waiting[:FRAMES], waiting[FRAMES:]
            span = Span(self._start, self._start + len(batch) if ends else None)
            self._start += len(batch)
            yield from self._from_latents(batch.contiguous(), span)
        if last:
            self.reset()
        else:
            self._waiting = waiting.clone()  # not the whole piece

    def _from_latents(self, latents: torch.Tensor, span: Span) -> Iterator[torch.Tensor]:
        conv = self._weights.conv_in
        inputs, span = self._enter(conv, latents, None, span)
        products, span = self._convolved(conv, inputs, span)
        del latents, inputs
        if products:
            yield from self._through(0, products, conv, span)

    def _through(
        self, at: int, source: torch.Tensor | list[torch.Tensor], made_by: Conv | None, span: Span
    ) -> Iterator[torch.Tensor]:
        """The levels from this one on.

        Args:
            source: frames (T, H, W, C), which are overwritten; or the products of `made_by`.
            span: of it.
        """
        level = self._weights.levels[at]
        # At 720p each of these tensors is up to 0.4 GB: no name may hold one for longer than it is needed.
        x = source if isinstance(source, torch.Tensor) else self._like(source[0], span.frames(len(source[0])))
        upsample = level.upsample
        following = [*(block.conv1 for block in level.blocks), None if upsample is None else upsample.conv]
        inputs, inner = self._enter(following[0], source, made_by, span, x_out=x if made_by else None)
        del source
        for block, then in zip(level.blocks, following[1:]):
            products, inner = self._convolved(block.conv1, inputs, inner)
            if products:
                inputs, inner = self._enter(block.conv2, products, block.conv1, inner)
                products, inner = self._convolved(block.conv2, inputs, inner)
            x_history = self._history.get(id(block))
            if not products:
                _keep(x_history, x)
                return
            residual, before = self._delayed(x, x_history, inner.start + 2 * self._late - span.start)
            frames = inner.frames(len(products[0]))
            x = residual[:frames] if frames <= len(residual) else self._like(residual, frames)
            span = inner
            inputs, inner = self._enter(then, products, block.conv2, span, residual, before, x, x_history)
            del products, residual, before
        if upsample is None:
            del x
            yield from self._head(inputs, span)
            return
        # Few groups at a time: of these there are up to eight times as many pixels.
        groups, x_history = len(inputs[0]), self._history.get(id(upsample))
        skipped = max(0, -inner.start) // GROUP
        if skipped >= groups:
            _keep(x_history, x)
            return
        for begin in range(skipped, groups, FRAMES // GROUP):
            some = slice(begin, begin + FRAMES // GROUP)
            ends = some.stop >= groups
            part = Span(inner.start + GROUP * begin, inner.stop if ends else None)
            products = self._conv2d([point[some] for point in inputs], upsample.conv.points)
            if ends:
                inputs.clear()
            residual, before = self._delayed(x, x_history, GROUP * begin)
            out, part = self._spread(upsample, products, part, residual, before)
            del residual, before, products
            if ends:
                _keep(x_history, x)
                del x
            yield from self._in_pieces(at + 1, out, part)
            del out

    def _in_pieces(self, at: int, frames: torch.Tensor, span: Span) -> Iterator[torch.Tensor]:
        """The levels from this one on, of frames that an upsampling made."""
        size = FRAMES if at + 1 < len(self._weights.levels) or span.stop is not None else LAST_FRAMES
        for begin in range(GROUP * (max(0, -span.start) // GROUP), len(frames), size):
            ends = begin + size >= len(frames)
            piece = Span(span.start + begin, span.stop if ends else None)
            yield from self._through(at, frames[begin : begin + size], None, piece)

    def _spread(
        self,
        layer: Upsample,
        products: list[torch.Tensor],
        span: Span,
        residual: torch.Tensor,
        before: torch.Tensor | None,
    ) -> tuple[torch.Tensor, Span]:
        """Products of an upsampling's convolution, which lie in `span` -> the frames, and where they lie."""
        (time, space), (_, height, width, outputs) = layer.factors, products[0].shape
        frames, channels = span.frames(len(products[0])), outputs // (time * space * space)
        out = residual.new_empty((time * frames, space * height, space * width, channels))
        spread_groups(products, layer.conv.bias, layer.factors, residual if layer.shortcut else None, before, out)
        if time == 1:
            return out, span
        # Of what is doubled the first frame is left out: here it is one before the video.
        return out, Span(2 * span.start - 1, None if span.stop is None else 2 * span.stop - 1)

    def _enter(
        self,
        conv: Conv | None,
        source: torch.Tensor | list[torch.Tensor],
        made_by: Conv | None,
        span: Span,
        residual: torch.Tensor | None = None,
        before: torch.Tensor | None = None,
        x_out: torch.Tensor | None = None,
        x_history: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor | list[torch.Tensor], Span]:
        """What a convolution is to see, and where that lies which it will make of it; without one, for the head.

        Args:
            source: frames, or products of `made_by`, which are used up.
            span: of these.
            residual, before, x_out, x_history: see `norm_silu_groups`.
        """
        padding = 2 * self._weights.reflects
        in_products = isinstance(source, list)
        *_, height, width, channels = source[0].shape
        size = height + padding, width + padding, channels
        groups = len(source[0]) if in_products else -(-len(source) // GROUP)
        frames = span.frames(groups)
        points = y_out = history = None
        inner = span
        if conv is None:
            y_out = source[0].new_empty((frames, *size))
        else:
            inner, history = Span(span.start - self._late, span.stop), self._history[id(conv)]
            wanted = groups if inner.stop is None else -(-(inner.stop - inner.start) // GROUP)
            if in_products and not padding and wanted == groups:
                points = source
            else:
                points = [source[0].new_empty((wanted, *size)) for _ in conv.points]
        norm_silu_groups(
            source,
            made_by.scale if made_by else 1.0,
            made_by.bias if made_by else None,
            residual,
            before,
            x_out,
            x_history,
            EPS if conv is None or conv.normalised else None,
            self._weights.head.affine if conv is None else conv.affine,
            history,
            span.first,
            frames,
            points,
            y_out,
            padded=bool(padding),
        )
        return y_out if points is None else points, inner

    def _convolved(self, conv: Conv, points: list[torch.Tensor], span: Span) -> tuple[list[torch.Tensor], Span]:
        """The products, without groups that are before the video; points are used up."""
        skipped = max(0, -span.start) // GROUP
        there = Span(span.start + GROUP * skipped, span.stop)
        if skipped >= len(points[0]):
            return [], there
        used_up = (points.pop(0)[skipped:] for _ in conv.points)
        return self._conv2d(used_up, conv.points), there

    def _delayed(
        self, x: torch.Tensor, history: torch.Tensor | None, skipped: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """x without its first frames, and those before them that a sum still needs, as convolutions are late."""
        if history is None:
            return x[skipped:], None
        return x[skipped:], x[skipped - len(history) : skipped] if skipped else history

    def _head(self, y: torch.Tensor, span: Span) -> Iterator[torch.Tensor]:
        layer = self._weights.head
        history = self._history[id(layer)]
        [taps] = self._conv2d([y], [layer.weight])
        del y
        _, height, width, _ = taps.shape
        start = max(0, span.start - self._late)
        stop = span.start + len(taps) - self._late if span.stop is None else span.stop
        out = torch.empty((3, max(0, stop - start), layer.patch * height, layer.patch * width), device=taps.device)
        if out.shape[1]:
            shift, lowest = start - HISTORY + self._late - span.start, max(-HISTORY, -span.start)
            patches(taps, history, layer.scale, layer.bias, shift, lowest, len(taps) - 1, out)
        _keep(history, taps)
        del taps
        if out.shape[1]:
            yield out

    def _conv2d(self, inputs: Iterable[torch.Tensor], weights: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Each (T, H, W, C), padded where the edges are reflected, by its weight -> (T, H, W, out)."""
        padding = 0 if self._weights.reflects else 1
        with cudnn_flags():
            return [_conv2d(frames, weight, padding) for frames, weight in zip(inputs, weights)]

    # -- what is remembered ------------------------------------------------------------------------

    def _remember_nothing(self, height: int, width: int) -> None:
        """Room for it, all in one block, before anything else is made: what it holds at first is never seen."""
        w = self._weights
        shapes: list[tuple[object, tuple[int, int, int, int]]] = [(w.conv_in, _input(w.conv_in, height, width))]
        for level in w.levels:
            for block in level.blocks:
                shapes += [(conv, _input(conv, height, width)) for conv in (block.conv1, block.conv2)]
                if self._late:
                    shapes.append((block, _input(block.conv1, height, width)))
            if level.upsample is not None:
                shape = _input(level.upsample.conv, height, width)
                shapes.append((level.upsample.conv, shape))
                if self._late:
                    shapes.append((level.upsample, (1, *shape[1:])))
                height, width = height * level.upsample.factors[1], width * level.upsample.factors[1]
        shapes.append((w.head, (HISTORY, height, width, len(w.head.weight))))
        block = w.head.weight.new_zeros(sum(_aligned(math.prod(shape)) for _, shape in shapes))
        start = 0
        for owner, shape in shapes:
            self._history[id(owner)] = block[start : start + math.prod(shape)].view(shape)
            start += _aligned(math.prod(shape))

    def _like(self, frame: torch.Tensor, frames: int) -> torch.Tensor:
        return frame.new_empty((frames, *frame.shape[1:]))


def _conv2d(frames: torch.Tensor, weight: torch.Tensor, padding: int) -> torch.Tensor:
    if frames.is_meta:  # whose convolutions do not keep channels last
        count, height, width, _ = frames.shape
        return frames.new_empty((count, height - 2 + 2 * padding, width - 2 + 2 * padding, len(weight)))
    out = F.conv2d(frames.permute(0, 3, 1, 2), weight, padding=padding)
    return out.permute(0, 2, 3, 1).contiguous()


def _input(conv: Conv, height: int, width: int) -> tuple[int, int, int, int]:
    """The shape of what a convolution remembers of frames of this size."""
    return HISTORY, height, width, conv.points[0].shape[1]


def _aligned(numel: int) -> int:
    """The kernels read and write up to 16 bytes at a time."""
    return -(-numel // 128) * 128


def _keep(history: torch.Tensor | None, frames: torch.Tensor) -> None:
    """The last of the frames; at the end of a video there may be fewer, and nothing follows."""
    if history is not None and len(frames) >= len(history):
        history.copy_(frames[-len(history) :])


# In latent frames, what takes most: a video that is all in one batch, which ends at once on every level; and one long
# enough for every kind of batch to follow every other, whose end is two latent frames after a whole batch.
COUNTED = FRAMES, 5 * FRAMES + 2


def needed(weights: Weights, height: int, width: int, joins: bool) -> int:
    """How many bytes a decode takes at most on the GPU, weights left out, however long the video.

    Args:
        weights: on any device; only shapes are looked at.
        height, width: of the latent.
        joins: whether torch's allocator joins what is free.
    """
    meta, peak = _on_meta(weights), 0
    for frames in COUNTED:
        with torch.device("meta"), _Counter() as counter:
            latent = torch.empty((1, len(meta.mean), frames, height, width))
            counter.peak = counter.held = 0
            for _ in LtxDecoder(meta).push(latent, last=True):
                pass
        peak = max(peak, counter.peak)
    return int(peak * (GAPS_WHOLE if joins else GAPS_WHOLE_UNJOINED)) + WORKSPACES
