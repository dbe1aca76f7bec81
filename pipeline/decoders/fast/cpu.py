"""The decoder on a CPU, in float32: row by row of the frames, so that one step finds in the cache what the last left.

Frames are (T, H, C, W), contiguous. A row of all channels is one piece of memory, so some rows are too, and sums over
them run at the cache's speed; and it is what oneDNN's convolutions along a row take, those whose error is small: with
channels last they sum up all channels one after the other, which leaves two to four times the error.

What a 3x3x3 convolution makes is products of points in time and in rows (see `winograd`), each a convolution along a
row. It is made some rows at a time, up to the next one's input. Memory that is new to a process costs more than
arithmetic: so results go where they are to stay, and what is needed in between is small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

from .network import HISTORY, Frames, WanDecoder
from .weights import AnyConv, Attention, Conv, PointsConv, RowConv, Upsample
from .winograd import INPUT, OUTPUT

# What the points of some rows take: an eighth of the input, within bounds, as it is held besides. On two cores of an
# EPYC 9xx4 (1 MB of L2 each, 32 MB of L3), torch 2.11, 2026-11-26, a step of 256x160 at Wan 2.1's width took 4.5 s with
# 5 MB, 4.0 s with 10, 3.9 s with 20.
LEAST_BYTES, MOST_BYTES = 5 * 1024**2, 20 * 1024**2


class CpuDecoder(WanDecoder):
    """`WanDecoder` over weights that are laid out `in_rows`."""

    LAUNCHED_FIRST = 1  # a step is over when it returns

    def _shape(self, conv: AnyConv, height: int, width: int) -> tuple[int, int, int, int]:
        if isinstance(conv, RowConv):
            # One point of time is three frames side by side.
            channels = conv.points[0][0].shape[1] // (3 if len(conv.points) == 1 else 1)
        else:
            assert isinstance(conv, Conv), "a GPU's"
            channels = conv.weight.shape[1] // (1 if conv is self._weights.head else 3)
        return HISTORY, height, channels, width

    def _linear(self, x: torch.Tensor, layer: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return _along_rows(x, *layer)

    def _from_latent(self, latent_bchw: torch.Tensor) -> torch.Tensor:
        return self._linear(latent_bchw.transpose(1, 2), self._weights.latent)

    def _head(self, window: torch.Tensor) -> torch.Tensor:
        self._remember(self._weights.head, window)
        return head(window, self._weights.head.weight, self._weights.head.bias)

    def _causal(self, conv: AnyConv, inputs: Frames, add_bias: bool = False) -> torch.Tensor:
        """The input itself of what `_enter` convolves, with what follows; the output of the first convolution."""
        assert isinstance(conv, RowConv) and isinstance(inputs, torch.Tensor), "a GPU's"
        self._remember(conv, inputs)
        if not add_bias:
            return inputs
        out = inputs.new_empty((len(inputs) - HISTORY, inputs.shape[1], len(conv.bias), inputs.shape[3]))
        conv_norm_silu(inputs, conv, None, None, out, None)
        return out

    def _enter(
        self,
        gamma: torch.Tensor | None,
        conv: AnyConv | None,
        a: Frames,
        made_by: AnyConv | None = None,
        residual: torch.Tensor | None = None,
        x_out: torch.Tensor | None = None,
    ) -> torch.Tensor | None:
        assert not isinstance(conv, PointsConv) and isinstance(a, torch.Tensor), "a GPU's"
        if made_by is None:
            assert conv is not None and gamma is not None, "what comes first is a convolution's input"
            window = self._empty_window(conv, a.shape)
            norm_silu(a, gamma, window[HISTORY:])
            return window
        assert isinstance(made_by, RowConv), "a GPU's"
        if conv is None:
            conv_norm_silu(a, made_by, residual, None, x_out, None)
            return None
        outputs = len(made_by.bias)
        # A convolution's input makes room for its output, row by row.
        window = a if a.shape[2] == outputs else a.new_empty((*a.shape[:2], outputs, a.shape[3]))
        conv_norm_silu(a, made_by, residual, gamma, x_out, window[HISTORY:])
        self._recall(conv, window)
        return window

    def _attention(self, layer: Attention, x: torch.Tensor) -> torch.Tensor:
        frames, height, channels, width = x.shape
        normed = torch.empty_like(x)
        norm_silu(x, layer.gamma, normed, silu=False)
        qkv = self._linear(normed, layer.qkv).transpose(2, 3).reshape(frames, 1, height * width, 3 * channels)
        mixed = F.scaled_dot_product_attention(*qkv.chunk(3, dim=-1))
        mixed = mixed.view(frames, height, width, channels).transpose(2, 3)
        return self._linear(mixed, layer.proj).add_(x)

    def _upsample(self, layer: Upsample, x: torch.Tensor, shortcut: torch.Tensor | None) -> torch.Tensor:
        factor_t = 1 if layer.time is None else 2
        halves = [x]
        if layer.time is not None and not self._first:
            window = self._window(layer.time[0], x)
            self._remember(layer.time[0], window)
            side_by_side = torch.cat([window[k : k + len(x)] for k in range(HISTORY + 1)], dim=2)
            del window
            halves = [_along_rows(side_by_side, conv.weight, conv.bias) for conv in layer.time]
            del side_by_side
        step = len(halves)
        frames, height, _, width = x.shape
        out = x.new_empty((frames * step, 2 * height, len(layer.space.bias), 2 * width))
        for k, half in enumerate(halves):
            phase = (k if step == factor_t else factor_t - 1, factor_t)
            enlarge(half, layer.space, out[k::step], shortcut, phase)
        return out


def conv_norm_silu(
    window: torch.Tensor,
    conv: RowConv,
    residual: torch.Tensor | None,
    gamma: torch.Tensor | None,
    x_out: torch.Tensor | None,
    y_out: torch.Tensor | None,
) -> None:
    """x = the causal convolution of `window` + bias + residual; y = silu(rms_norm(x) * gamma).

    Args:
        window: (2 + T, H, C, W), the input after its history; T is what `conv` makes at a time, or a multiple; or 1,
            after a history of zeros.
        residual: (T, H, out, W), or None.
        gamma: (out,); None where y is not wanted.
        x_out: (T, H, out, W) for x, or None; may be `residual`.
        y_out: (T, H, out, W) for y, or None; may be the end of `window`.
    """
    frames, height, width, outputs = len(window) - HISTORY, window.shape[1], window.shape[3], len(conv.bias)
    to_points, from_points, points = _in_time(conv, frames)
    # No less than a product's weights take, which are read as well.
    at_a_time = max(LEAST_BYTES, min(MOST_BYTES, window.nbytes // 8), len(points) * points[0][0].nbytes)
    rows = min(_rows(len(points) * window[0, 0].nbytes, at_a_time), height + height % 2)
    # Of one row above, and one below. What is above, and the first row, was seen with the rows before.
    seen = window.new_empty((len(points), rows + 2, points[0][0].shape[1], width))
    # The bias is one more product, the same everywhere.
    products = window.new_empty((len(points) + 1, rows, outputs, width))
    products[-1] = conv.bias[:, None]
    x_rows = window.new_empty((frames, rows, outputs, width)) if x_out is None else x_out
    if residual is not None and residual is not x_out:
        assert x_out is not None, "a sum that is not wanted"
        x_out.copy_(residual)
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        first, place = (0, 1) if start == 0 else (start + 1, 2)
        last = min(start + rows + 1, height)
        if start == 0:
            seen[:, 0] = 0
        else:
            seen[:, :2] = seen[:, rows:]
        seen[:, place + max(0, last - first) :] = 0
        if last > first:
            to_points(window[:, first:last], seen[:, place : place + last - first])
        for point, weights, product in zip(seen, points, products):
            _two_rows_at_a_time(point, weights, product)
        x = x_rows[:, : stop - start] if x_out is None else x_out[:, start:stop]
        if residual is None:
            torch.mm(from_points, products[:, : stop - start].flatten(1), out=x.flatten(1))
        else:
            x.flatten(1).addmm_(from_points, products[:, : stop - start].flatten(1))
        if y_out is not None and gamma is not None:
            _norm(x, gamma, True, y_out[:, start:stop])


def _two_rows_at_a_time(rows: torch.Tensor, weights: list[torch.Tensor], out: torch.Tensor) -> None:
    """(2 n + 2, C, W) -> (2 n, out, W): see ROWS_WEIGHT of `winograd`."""
    pairs = rows.view(-1, 2, *rows.shape[1:])
    (d0, d1), (d2, d3) = pairs[:-1].unbind(1), pairs[1:].unbind(1)
    points = (d0 - d2, d1 + d2, d2 - d1, d3 - d1)
    p0, p1, p2, p3 = (F.conv1d(point, weight, padding=1) for point, weight in zip(points, weights))
    even, odd = out.view(-1, 2, *out.shape[1:]).unbind(1)
    torch.add(p1, p2, out=even).add_(p0)
    torch.sub(p1, p2, out=odd).add_(p3)


def _in_time(
    conv: RowConv, frames: int
) -> tuple[Callable[[torch.Tensor, torch.Tensor], object], torch.Tensor, list[list[torch.Tensor]]]:
    """(what makes points of frames, the matrix that makes frames of products and the bias, the points' weights)."""
    like, count = conv.bias, len(conv.points)
    if count == 1:
        return _side_by_side, like.new_ones((1, 2)), conv.points
    if frames == 1:
        return lambda window, out: out.copy_(window[-1:]), like.new_ones((1, 2)), conv.points[-1:]
    at_a_time = count - HISTORY
    times = frames // at_a_time
    to_points = like.new_zeros((times * count, frames + HISTORY))
    from_points = like.new_zeros((frames, times * count + 1))
    from_points[:, -1] = 1
    for k in range(times):
        made, points = slice(k * at_a_time, (k + 1) * at_a_time), slice(k * count, (k + 1) * count)
        to_points[points, made.start : made.stop + HISTORY] = like.new_tensor(INPUT[at_a_time])
        from_points[made, points] = like.new_tensor(OUTPUT[at_a_time])
    return (
        lambda window, out: torch.mm(to_points, window.flatten(1), out=out.flatten(1)),
        from_points,
        conv.points * times,
    )


def _side_by_side(window: torch.Tensor, out: torch.Tensor) -> None:
    """Three frames, (3, n, C, W) -> (1, n, 3 C, W)."""
    out.view(-1, 3, *window.shape[2:]).copy_(window.transpose(0, 1))


def norm_silu(a: torch.Tensor, gamma: torch.Tensor, y_out: torch.Tensor, silu: bool = True) -> None:
    for rows in _some_rows(a):
        _norm(a[:, rows], gamma, silu, y_out[:, rows])


def enlarge(
    x: torch.Tensor,
    conv: Conv,
    out: torch.Tensor,
    shortcut: torch.Tensor | None,
    shortcut_phase: tuple[int, int],
) -> None:
    """Nearest doubling and a 3x3 convolution, plus the upsampled shortcut, as `kernels.depth_to_space` describes it.

    Args:
        x: (T, H, C, W).
        conv: weight (2, 2 * out, 2 * C, 2): for the upper and the lower row of those that one row becomes, from two
            rows side by side, the left and the right pixel.
        out: (T, 2 H, out, 2 W).
        shortcut: (T, H, C_in, W), or None.
    """
    _, height, channels, width = x.shape
    outputs = len(conv.bias)
    for frame, enlarged, added in zip(x, out, x if shortcut is None else shortcut):
        for rows in _some_rows(x):
            count = rows.stop - rows.start
            seen = x.new_zeros((count + 2, channels, width))
            first, last = max(0, rows.start - 1), min(height, rows.stop + 1)
            seen[first - rows.start + 1 : last - rows.start + 1] = frame[first:last]
            for y in range(2):
                two = torch.cat((seen[y : y + count], seen[y + 1 : y + 1 + count]), dim=1)
                pixels = F.conv1d(two, conv.weight[y], padding=1)
                for x_ in range(2):
                    place = enlarged[2 * rows.start + y : 2 * rows.stop : 2, :, x_::2]
                    part = pixels[:, x_ * outputs : (x_ + 1) * outputs, x_ : x_ + width]
                    torch.add(part, conv.bias[:, None], out=place)
                    if shortcut is not None:
                        k, factor_t = shortcut_phase
                        repeats = outputs * factor_t * 4 // added.shape[1]
                        c = torch.arange(outputs, device=x.device)
                        place.add_(added[rows, ((c * factor_t + k) * 4 + 2 * y + x_) // repeats])


def head(window: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The last convolution: one product of every pixel with all taps, and a sum over neighbours. Its sums are short, so
    its error is a fraction of a convolution's, which is most of the error of all.

    Args:
        window: (2 + T, H, C, W).
        weight: (n, C, 3, 3, 3).
    Returns:
        (n, T, H, W).
    """
    count, height, channels, width = window.shape
    outputs, frames = len(bias), count - HISTORY
    taps = weight.permute(2, 3, 4, 0, 1).reshape(1, -1, channels)
    out = bias.view(-1, 1, 1, 1).repeat(1, frames, height, width)
    for rows in _some_rows(window):
        first, last = max(0, rows.start - 1), min(height, rows.stop + 1)
        for t, frame in enumerate(window):
            products = torch.bmm(taps.expand(last - first, -1, -1), frame[first:last])
            products = products.view(-1, 3, 3, 3, outputs, width).permute(1, 2, 3, 4, 0, 5)
            for k in range(max(0, t - frames + 1), min(3, t + 1)):
                for y in range(3):
                    # Row r of the output sees row r + y - 1.
                    start, stop = max(rows.start, first + 1 - y), min(rows.stop, last + 1 - y)
                    left, own, right = products[k, y, :, :, start + y - 1 - first : stop + y - 1 - first]
                    sums = out[:, t - k, start:stop]
                    sums.add_(own)
                    sums[..., 1:].add_(left[..., :-1])
                    sums[..., :-1].add_(right[..., 1:])
    return out


def _norm(x: torch.Tensor, gamma: torch.Tensor, silu: bool, out: torch.Tensor) -> None:
    # torch's own norm is slow over a dimension that is not the last: it took a quarter of a narrow decoder's time.
    length = torch.mul(x, x, out=out).sum(dim=2, keepdim=True).sqrt_().clamp_(min=1e-12)
    torch.mul(x, x.shape[2] ** 0.5 / length, out=out).mul_(gamma[:, None])
    if silu:
        F.silu(out, inplace=True)


def _along_rows(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """(T, H, C, W) -> (T, H, out, W), with a weight (out, C, 1)."""
    return F.conv1d(x.flatten(0, 1), weight, bias).unflatten(0, x.shape[:2])


def _rows(row_bytes: int, at_a_time: int) -> int:
    """How many, an even number."""
    return max(1, at_a_time // row_bytes // 2) * 2


def _some_rows(x: torch.Tensor) -> Iterator[slice]:
    height, rows = x.shape[1], _rows(len(x) * x[0, 0].nbytes, LEAST_BYTES)
    for start in range(0, height, rows):
        yield slice(start, min(start + rows, height))
