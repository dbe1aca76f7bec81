"""The decoder, one latent frame at a time, with everything it remembers in one place.

A causal convolution sees two frames back: it keeps the last two frames of its input. The step is always
one latent frame, whatever the caller's chunks, so every call has the same shapes, cuDNN picks the same
kernels, and any chunking gives the same bits. A step is one frame up to the first doubling of time, then
two, then four: there convolutions go by products of points (`winograd`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F

from ..away import Away
from .kernels import attention, depth_to_space, head, norm_silu, norm_silu_points
from .weights import AnyConv, Attention, Conv, PointsConv, Residual, RowConv, Upsample, Weights

# What a step puts out; the first one frame only.
FRAMES_PER_STEP = 4
HISTORY = 2  # frames back that a kernel of three in time sees
# What a convolution takes and gives: frames (T, H, W, C), or one tensor (1, H, W, C) for each point.
Frames: TypeAlias = "torch.Tensor | list[torch.Tensor]"


# Convolutions, and the shape of what each remembers.
Shapes: TypeAlias = "list[tuple[AnyConv, tuple[int, int, int, int]]]"


class History(dict[int, torch.Tensor]):
    """By the id of a convolution: the last HISTORY frames of its input, or what the head carries; in one `block`."""

    def __init__(self, block: torch.Tensor, shapes: Shapes):
        super().__init__()
        self.block = block
        start = 0
        for conv, shape in shapes:
            self[id(conv)] = block[start : start + math.prod(shape)].view(shape)
            start += _aligned(math.prod(shape))


@dataclass(frozen=True, slots=True)
class Bands:
    """How one section of the decoder is worked through: all rows at once, or band by band.

    Attributes:
        count: how many bands; 1 is none.
        away: of how many of them what is remembered waits in main memory.
    """

    count: int = 1
    away: int = 0


# Blocks in a section, at most; and what a band must see above and below, in rows of its section's input: two
# convolutions of 3x3 in each block, in the last section the head, and the upsampling before, which halves.
BLOCKS = 3
HALO = (2 * BLOCKS + 1 + 1) // 2


@dataclass(frozen=True, slots=True)
class _Section:
    """Blocks at one resolution, and the upsampling that leads there, if any."""

    upsample: Upsample | None
    blocks: list[Residual]
    keep: bool  # whether the next upsampling's shortcut wants what goes into the blocks
    bands: Bands


class WanDecoder:
    """Wan 2.1's and 2.2's VAE decoder over `weights`, for one video after another.

    After the attention in its middle, which sees the whole frame, everything is local: so the last sections, which
    take nearly all the memory, can be worked through in horizontal bands. Each band sees HALO rows of its neighbours',
    which it computes anew, and remembers what it needs itself; the frames are the same but for the
    rounding of other kernels.

    Args:
        weights: the layers.
        bands: of the last sections, in order; none for those before.
        away: where the bands' histories go that are to leave the GPU; needed if there are such.

    Example:
        decoder = WanDecoder(weights.load(safetensors.torch.load_file(path), device, torch.float16))
        frames = [decoder.step(latents[:, :, t]) for t in range(latents.shape[2])]
    """

    # How many steps are launched before the frames of the first are handed over. Who takes those page-locks memory for
    # them, 12 ms for an IMAGE of 720p (H100), and the first step, of one frame, is over by then.
    LAUNCHED_FIRST = 2

    def __new__(cls, weights: Weights, *_: object, **__: object) -> WanDecoder:
        """A `CpuDecoder` for weights that are laid out for one, as `pathlib.Path` makes what fits the system."""
        if cls is WanDecoder and weights.in_rows:
            from .cpu import CpuDecoder

            return super().__new__(CpuDecoder)
        return super().__new__(cls)

    def __init__(self, weights: Weights, bands: Sequence[Bands] = (), away: Away | None = None):
        self._weights = weights
        self._away = away
        if any(len(stage.blocks) > BLOCKS for stage in weights.stages):
            raise ValueError(f"a stage has more than {BLOCKS} blocks: its bands would not see enough")
        upsamples = [None, *(stage.upsample for stage in weights.stages[:-1])]
        following = [*upsamples[1:], None]
        all_bands = [Bands()] * (len(upsamples) - len(bands)) + list(bands)
        self._sections = [
            _Section(upsample, stage.blocks, keep=after is not None and after.shortcut, bands=of_section)
            for upsample, stage, after, of_section in zip(upsamples, weights.stages, following, all_bands)
        ]
        # What each convolution remembers, of the whole frame or of the band that is being worked on; and of all bands
        # that are on the GPU, by section and band.
        self._nothing = History(weights.head.weight.new_empty(0), [])
        self._history = self._nothing
        self._of_bands: dict[tuple[int, int], History] = {}
        self._shapes: dict[tuple[int, int], Shapes] = {}
        # Which bands' histories are in main memory, in the order in which they are needed, round and round.
        self._round = [(at, band) for at, section in enumerate(self._sections) for band in range(section.bands.away)]
        self._first, self._last = True, False

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and of the latents that are given."""
        return self._weights.latent[0].dtype

    def reset(self) -> None:
        """Forget the video: the next step starts a new one."""
        self._history = self._nothing
        self._of_bands.clear()
        if self._away is not None:
            self._away.close()
        self._first = True

    def step(self, latent_bchw: torch.Tensor, last: bool = False) -> torch.Tensor:
        """Decode the next latent frame. After an error only `reset` helps.

        Args:
            latent_bchw: (1, C, h, w) in the weights' dtype, on their device.
            last: no other follows, so that nothing is to leave the GPU for it.
        Returns:
            (3, T, H, W) about [-1, 1], float32; T is 1 for the first latent frame of a video, then 4.
        Stream: runs on the caller's current stream; never waits for it, but where histories leave the GPU.
        """
        with torch.inference_mode(), cudnn_flags(), float32_sums():
            return self._step(latent_bchw, last)

    def _step(self, latent_bchw: torch.Tensor, last: bool) -> torch.Tensor:
        w, self._last = self._weights, last
        if self._first:
            self._remember_nothing(*latent_bchw.shape[2:])
        x = self._from_latent(latent_bchw)
        x = self._causal(w.conv_in, self._window(w.conv_in, x), add_bias=True)
        x, _ = self._residuals(w.middle[:1], x)
        x = self._attention(w.middle[1], x)
        x, _ = self._residuals(w.middle[2:], x)
        shortcut = None
        for at, section in enumerate(self._sections):
            # At 720p each of these is up to a gigabyte: no name may hold one for longer than it is needed.
            if section.bands.count > 1:
                x, shortcut = self._in_bands(at, section, x, shortcut)
            else:
                x = self._enlarged(section, x, shortcut)
                shortcut = x if section.keep else None
                x = self._blocks(section, x, keep=section.keep)
        self._first = False
        return unpatchify(x) if w.patch == 2 else x

    def _enlarged(self, section: _Section, x: torch.Tensor, shortcut: torch.Tensor | None) -> torch.Tensor:
        return x if section.upsample is None else self._upsample(section.upsample, x, shortcut)

    def _blocks(self, section: _Section, x: torch.Tensor, keep: bool) -> torch.Tensor:
        """(T, H, W, C) for the next section, or from the last one the frames, (n, T, H, W)."""
        w = self._weights
        if section is not self._sections[-1]:
            x, _ = self._residuals(section.blocks, x, keep=keep)
            return x
        x, inputs = self._residuals(section.blocks, x, then=(w.head_gamma, w.head))
        return self._head(inputs)

    def _in_bands(
        self, at: int, section: _Section, x: torch.Tensor, shortcut: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """A section band by band, put together again: (what comes out, what the next shortcut takes)."""
        whole, history = None, self._history
        kept = None
        last = section is self._sections[-1]
        for band, (inner, outer) in enumerate(_rows(x.shape[1], section.bands.count)):
            self._history = self._come(at, band)
            seen = self._enlarged(
                section, x[:, outer].contiguous(), None if shortcut is None else shortcut[:, outer].contiguous()
            )
            own = slice(2 * (inner.start - outer.start), 2 * (inner.stop - outer.start))
            place = slice(2 * inner.start, 2 * inner.stop)
            if section.keep:
                kept = seen.new_empty(_with_rows(seen, 1, 2 * x.shape[1])) if kept is None else kept
                kept[:, place] = seen[:, own]
            part = self._blocks(section, seen, keep=False)
            del seen
            rows = 2 if last else 1
            whole = part.new_empty(_with_rows(part, rows, 2 * x.shape[1])) if whole is None else whole
            whole.narrow(rows, place.start, place.stop - place.start).copy_(
                part.narrow(rows, own.start, own.stop - own.start)
            )
            del part
            self._leave(at, band)
        self._history = history
        assert whole is not None, "there is at least one band"
        return whole, kept

    # -- what is remembered --------------------------------------------------------------------------

    def _remember_nothing(self, height: int, width: int) -> None:
        """Zeros, which is what there was before the video; for all that stays on the GPU, before anything else is made.

        Between what is made and dropped in each step they would leave gaps that nothing fits into.
        """
        w = self._weights
        convs = (w.conv_in, *_convolutions(w.middle[:1]), *_convolutions(w.middle[2:]))
        whole = [(conv, self._shape(conv, height, width)) for conv in convs]
        for at, section in enumerate(self._sections):
            if section.bands.count == 1:
                whole += self._remembering(section, height, width)
            else:
                for band, (_, outer) in enumerate(_rows(height, section.bands.count)):
                    shapes = self._shapes[at, band] = self._remembering(section, outer.stop - outer.start, width)
                    if (at, band) not in self._round:
                        self._of_bands[at, band] = self._zeros(shapes)
            if section.upsample is not None:
                height, width = 2 * height, 2 * width
        self._history = self._zeros(whole)

    def _remembering(self, section: _Section, height: int, width: int) -> Shapes:
        """What a section's convolutions remember, for so many rows of its input."""
        shapes: Shapes = []
        if section.upsample is not None:
            if section.upsample.time is not None:  # both halves see the same
                shapes.append((section.upsample.time[0], self._shape(section.upsample.time[0], height, width)))
            height, width = 2 * height, 2 * width
        last = [self._weights.head] if section is self._sections[-1] else []
        return shapes + [(conv, self._shape(conv, height, width)) for conv in (*_convolutions(section.blocks), *last)]

    def _shape(self, conv: AnyConv, height: int, width: int) -> tuple[int, int, int, int]:
        """Of what a convolution remembers of frames of this size."""
        assert not isinstance(conv, RowConv), "a CPU's"
        weight = conv.points[0] if isinstance(conv, PointsConv) else conv.weight
        if conv is self._weights.head:  # what `head` carries, which is float32
            return HISTORY, weight.shape[0], height, width * 4 // weight.itemsize
        return HISTORY, height, width, weight.shape[1]

    def _zeros(self, shapes: Shapes) -> History:
        numel = sum(_aligned(math.prod(shape)) for _, shape in shapes)
        return History(self._weights.head.weight.new_zeros(numel), shapes)

    def _come(self, at: int, band: int) -> History:
        """What a band remembers; what the next one that is away remembers, begins to come."""
        key = (at, band)
        if key not in self._round:
            return self._of_bands[key]
        assert self._away is not None, "there are histories that are to leave, and no place for them"
        if key in self._away:
            [block] = self._away.take(key)
            history = History(block, self._shapes[key])
        else:
            history = self._zeros(self._shapes[key])
        following = self._round[(self._round.index(key) + 1) % len(self._round)]
        if following != key:
            with contextlib.suppress(torch.OutOfMemoryError):  # then when it is wanted
                self._away.fetch(following)
        return history

    def _leave(self, at: int, band: int) -> None:
        if (at, band) in self._round:
            assert self._away is not None, "there are histories that are to leave, and no place for them"
            tensors, self._history = [self._history.block], self._nothing
            if not self._last:
                self._away.put((at, band), tensors)

    def _residuals(
        self,
        blocks: Sequence[Residual],
        x: torch.Tensor,
        then: tuple[torch.Tensor, Conv] | None = None,
        keep: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """A run of residual blocks. The sum that ends one is made in the pass that normalises it for the next.

        At 720p each of these tensors is about a gigabyte, so they are dropped as soon as they can be, and sums
        replace a term in place: `x` too, unless it is to `keep`.

        Returns:
            x after the last block and, for a `then` of (gamma, conv), that convolution's input.
        """
        following = [*((block.gamma1, block.conv1) for block in blocks[1:]), then or (None, None)]
        inputs = self._enter(blocks[0].gamma1, blocks[0].conv1, x)
        for block, (next_gamma, next_conv) in zip(blocks, following):
            hidden = self._causal(block.conv1, inputs)
            inputs = self._enter(block.gamma2, block.conv2, hidden, block.conv1)
            del hidden
            out = self._causal(block.conv2, inputs)
            residual = x if block.shortcut is None else self._linear(x, block.shortcut)
            x = torch.empty_like(residual) if keep and residual is x else residual
            keep = False  # from here on x is our own
            inputs = self._enter(next_gamma, next_conv, out, block.conv2, residual, x)
            del out, residual
        return x, inputs

    def _enter(
        self,
        gamma: torch.Tensor | None,
        conv: AnyConv | None,
        a: Frames,
        made_by: AnyConv | None = None,
        residual: torch.Tensor | None = None,
        x_out: torch.Tensor | None = None,
    ) -> Frames | None:
        """The sum of `a`, the bias of the convolution that made it and a residual, into x_out; normalised, for `conv`.

        Returns:
            `conv`'s input, for the head without its history and in the place of `residual`; None without one.
        """
        assert not isinstance(conv, RowConv) and not isinstance(made_by, RowConv), "a CPU's"
        bias = made_by.bias if made_by is not None else None
        scale = made_by.scale if made_by is not None else 1.0
        *_, height, width, channels = (a[0] if isinstance(a, list) else a).shape
        frames = len(a) - HISTORY if isinstance(a, list) else len(a)
        if isinstance(conv, PointsConv):
            history = self._history[id(conv)]
            if frames == 1:  # before it there was nothing, so the newest tap is all that counts
                norm_silu(a, scale, bias, residual, gamma, x_out, history[1:])
                return history[1:]
            points = (
                a if isinstance(a, list) else [history.new_empty((1, height, width, channels)) for _ in conv.points]
            )
            norm_silu_points(a, scale, bias, residual, gamma, x_out, history=history, points_out=points)
            return points
        norm = norm_silu_points if isinstance(a, list) else norm_silu
        if conv is self._weights.head:  # the last sum is wanted by nobody else
            norm(a, scale, bias, residual, gamma, None, residual)
            return residual
        window = None if conv is None else self._empty_window(conv, (frames, height, width, channels))
        norm(a, scale, bias, residual, gamma, x_out, None if window is None else window[HISTORY:])
        return window

    def _linear(self, x: torch.Tensor, layer: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """A 1x1 convolution."""
        return F.linear(x, *layer)

    def _from_latent(self, latent_bchw: torch.Tensor) -> torch.Tensor:
        return self._linear(latent_bchw.permute(0, 2, 3, 1), self._weights.latent)

    def _head(self, inputs: torch.Tensor) -> torch.Tensor:
        conv, carried = self._weights.head, self._history[id(self._weights.head)].view(torch.float32)
        frames, carry = head(carried, inputs, conv.weight, conv.bias)
        carried.copy_(carry)
        return frames

    def _attention(self, layer: Attention, x: torch.Tensor) -> torch.Tensor:
        frames, height, width, channels = x.shape
        normed = torch.empty_like(x)
        norm_silu(x, 1.0, None, None, layer.gamma, None, normed, silu=False)
        qkv = F.linear(normed, *layer.qkv).view(frames, height * width, 3 * channels)
        mixed = torch.stack([attention(*frame.chunk(3, dim=-1)) for frame in qkv]).view_as(x)
        return F.linear(mixed, *layer.proj).add_(x)

    def _upsample(self, layer: Upsample, x: torch.Tensor, shortcut: torch.Tensor | None) -> torch.Tensor:
        """Time convolution, nearest doubling and its convolution; the first frame of a video stays one frame."""
        factor_t = 1 if layer.time is None else 2
        halves = [x]
        if layer.time is not None and not self._first:
            window = self._window(layer.time[0], x)
            halves = [self._causal(conv, window, add_bias=True) for conv in layer.time]
        step = len(halves)
        frames, height, width, _ = x.shape
        out = x.new_empty((frames * step, 2 * height, 2 * width, len(layer.space.bias)))
        for k, half in enumerate(halves):
            phase = (k if step == factor_t else factor_t - 1, factor_t)
            for t in range(frames):  # of all of them at once, phases would be much of what a decode takes
                phases = _conv2d(half[t : t + 1], layer.space.weight)
                at, of_frame = k + t * step, None if shortcut is None else shortcut[t : t + 1]
                depth_to_space(phases, layer.space.bias, out[at : at + 1], of_frame, phase)
        return out

    # -- causal convolutions and what they remember -----------------------------------------------

    def _empty_window(self, conv: Conv | RowConv, shape: tuple[int, ...]) -> torch.Tensor:
        """Input of a convolution, (HISTORY + T, H, W, C): the frames it remembers, and room for the new ones."""
        window = self._weights.head.weight.new_empty((HISTORY + shape[0], *shape[1:]))
        self._recall(conv, window)
        return window

    def _recall(self, conv: Conv | RowConv, window: torch.Tensor) -> None:
        """Put what a convolution remembers before its new frames."""
        window[:HISTORY].copy_(self._history[id(conv)])

    def _window(self, conv: Conv | RowConv, x: torch.Tensor) -> torch.Tensor:
        window = self._empty_window(conv, x.shape)
        window[HISTORY:].copy_(x)
        return window

    def _remember(self, conv: Conv | RowConv, window: torch.Tensor) -> None:
        if id(conv) in self._history:  # of two that see the same, one remembers it
            self._history[id(conv)].copy_(window[-HISTORY:])

    def _causal(self, conv: AnyConv, inputs: Frames, add_bias: bool = False) -> Frames:
        """What `_enter` gave -> (T, H, W, out), or the products of its points, which then are used up."""
        if isinstance(conv, PointsConv):
            if isinstance(inputs, torch.Tensor):
                return _conv2d(inputs, conv.points[-1])
            products = []
            for weight in conv.points:
                products.append(_conv2d(inputs.pop(0), weight))
            return products
        assert isinstance(inputs, torch.Tensor) and isinstance(conv, Conv), "only points come as a list"
        self._remember(conv, inputs)
        bias = conv.bias.to(inputs.dtype) if add_bias else None
        return _conv3d(inputs, conv.weight, bias)


def _convolutions(blocks: Sequence[Residual]) -> list[AnyConv]:
    return [conv for block in blocks for conv in (block.conv1, block.conv2)]


def _aligned(numel: int) -> int:
    """The kernels read and write up to 16 bytes at a time."""
    return -(-numel // 128) * 128


def _rows(height: int, count: int) -> Iterator[tuple[slice, slice]]:
    """Bands of nearly the same height: (a band's rows, and those with what it must see).

    All see equally many rows: where each has tensors of other sizes, allocators are left with gaps that fit nothing.
    """
    count = min(count, height)
    seen = min(height, -(-height // count) + 2 * HALO)
    for band in range(count):
        start, stop = band * height // count, (band + 1) * height // count
        first = min(max(0, start - HALO), height - seen)
        yield slice(start, stop), slice(first, first + seen)


def _with_rows(like: torch.Tensor, dim: int, rows: int) -> list[int]:
    shape = list(like.shape)
    shape[dim] = rows
    return shape


# cuDNN gives channels last for channels last; the meta device does not, and would count a copy that is none.


def _conv2d(frames: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(T, H, W, C) -> (T, H, W, out), a row and a column more for a kernel of even size."""
    outputs, _, kernel, _ = weight.shape
    more = 1 - kernel % 2
    if frames.is_meta:
        return frames.new_empty((frames.shape[0], frames.shape[1] + more, frames.shape[2] + more, outputs))
    out = F.conv2d(frames.permute(0, 3, 1, 2), weight, padding=kernel // 2)
    return out.permute(0, 2, 3, 1).contiguous()


def _conv3d(frames: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """(HISTORY + T, H, W, C) -> (T, H, W, out)."""
    outputs, _, depth, _, kernel = weight.shape
    if frames.is_meta:
        return frames.new_empty((frames.shape[0] - depth + 1, *frames.shape[1:3], outputs))
    out = F.conv3d(frames.permute(3, 0, 1, 2)[None], weight, bias, padding=(0, kernel // 2, kernel // 2))
    return out[0].permute(1, 2, 3, 0).contiguous()


def cudnn_flags() -> contextlib.AbstractContextManager:
    """Entered once for many convolutions: for each it would be a good part of launching it."""
    # cuDNN's first guess is good for these; trying out every shape would take 8 s (H100, cuDNN 9.19).
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=True)


@contextlib.contextmanager
def float32_sums() -> Iterator[None]:
    """For matrix products, whatever ComfyUI's `--fast fp16_accumulation` allows all others in the process.

    Torch then refuses float16 to float32, and sums of what this decoder holds could leave float16's range.
    """
    matmul = torch.backends.cuda.matmul
    if not getattr(matmul, "allow_fp16_accumulation", False):  # which older versions do not have
        yield
        return
    matmul.allow_fp16_accumulation = False
    try:
        yield
    finally:
        matmul.allow_fp16_accumulation = True


def steps(decoder: WanDecoder, latent: torch.Tensor) -> Iterator[torch.Tensor]:
    """Decode (1, C, T, h, w) on the decoder's device, any dtype: (3, 1 or 4, H, W) float32 for each latent frame."""
    count = latent.shape[2]

    def step(t: int) -> torch.Tensor:
        return decoder.step(latent[:, :, t].to(decoder.dtype), last=t == count - 1)

    begun = [step(t) for t in range(min(decoder.LAUNCHED_FIRST, count))]
    while begun:
        yield begun.pop(0)
    for t in range(decoder.LAUNCHED_FIRST, count):
        yield step(t)


def unpatchify(patches_cthw: torch.Tensor) -> torch.Tensor:
    """(12, T, h, w) -> (3, T, 2 h, 2 w). Source: Wan-Video/Wan2.2 wan/modules/vae2_2.py, unpatchify."""
    _, frames, height, width = patches_cthw.shape
    blocks = patches_cthw.view(3, 2, 2, frames, height, width)  # colour, x, y
    return blocks.permute(0, 3, 4, 2, 5, 1).reshape(3, frames, 2 * height, 2 * width)
