"""The steps between convolutions, fused: one read and one write of memory instead of many.

Activations are (T, H, W, C), contiguous: channels last, so that a pixel's channels are one row, and a
convolution finds its input the way cuDNN's tensor-core kernels want it. Arithmetic is float32, whatever
the storage. Each step has a Triton kernel for CUDA and a plain-torch reference, which is also what runs
on the CPU.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .winograd import INPUT, OUTPUT, matrix

try:
    import triton
    import triton.language as tl
except ImportError:  # the decoder is then not offered on CUDA
    triton = None


def norm_silu(
    a: torch.Tensor,
    scale: float,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    gamma: torch.Tensor | None,
    x_out: torch.Tensor | None,
    y_out: torch.Tensor | None,
    silu: bool = True,
) -> None:
    """x = a * scale + bias + residual; y = silu(rms_norm(x) * gamma), in one pass.

    Args:
        a: (T, H, W, C) a convolution's output, contiguous.
        scale: of `a`.
        bias: (C,) float32, or None.
        residual: (T, H, W, C), or None.
        gamma: (C,) float32; None where y is not wanted.
        x_out: (T, H, W, C) for x, or None; may be `residual`.
        y_out: (T, H, W, C) for y, or None; may be part of the next convolution's input.
        silu: False leaves the activation out.
    Stream: the caller's current stream.
    Source: Wan-Video/Wan2.1 wan/modules/vae.py, RMS_norm and ResidualBlock: x / max(|x|, 1e-12) * sqrt(C) * gamma.
    """
    if a.is_meta:
        return
    if not a.is_cuda:
        x = _sum_reference(a.float() * scale, bias, residual, x_out)
        if y_out is not None:
            y_out.copy_(_norm_reference(x, gamma, silu))
        return
    channels, rows = a.shape[-1], a.shape[:-1].numel()
    block = triton.next_power_of_2(channels)
    rows_per_program = max(1, 8192 // block)
    unused = a  # never read: the flags say so
    _norm_silu_kernel[(triton.cdiv(rows, rows_per_program),)](
        a,
        _or(bias, unused),
        _or(residual, unused),
        _or(gamma, unused),
        _or(x_out, unused),
        _or(y_out, unused),
        rows,
        scale,
        channels,
        channels**0.5,
        bias is not None,
        residual is not None,
        x_out is not None,
        y_out is not None,
        silu,
        rows_per_program,
        block,
        num_warps=8,
    )


def norm_silu_points(
    products: list[torch.Tensor] | torch.Tensor,
    scale: float,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    gamma: torch.Tensor | None,
    x_out: torch.Tensor | None,
    y_out: torch.Tensor | None = None,
    history: torch.Tensor | None = None,
    points_out: list[torch.Tensor] | None = None,
) -> None:
    """`norm_silu` between convolutions by `winograd`: from the products of one to the points of the next.

    Args:
        products: 4 or 6 tensors (1, H, W, C), the last convolution's; or its output as it is, (T, H, W, C), contiguous.
        scale: of the products, or of the output.
        bias, residual, gamma, x_out, y_out: as for `norm_silu`; T is 2 or 4.
        history: (2, H, W, C) the last two frames of y before these; overwritten by the last two of these.
        points_out: as many tensors (1, H, W, C) for the points of history and y; may be `products`. None where only
            x or y is wanted.
    Stream: the caller's current stream.
    """
    from_products = isinstance(products, list)
    sources = products if isinstance(products, list) else list(products.unsqueeze(1))
    like = sources[0]
    count = len(sources) if from_products else len(sources) + 2
    frames = count - 2
    if like.is_meta:
        return
    if not like.is_cuda:
        a = torch.cat(sources).float()
        if from_products:
            a = torch.einsum("tp,phwc->thwc", matrix(OUTPUT[frames], a), a)
        x = _sum_reference(a * scale, bias, residual, x_out)
        if gamma is None:
            return
        y = _norm_reference(x, gamma, silu=True)
        if y_out is not None:
            y_out.copy_(y)
        if points_out is not None:
            assert history is not None, "points are made of history and y"
            seen = torch.cat((history.float(), y))
            for point, row in zip(points_out, matrix(INPUT[frames], seen)):
                point.copy_(torch.einsum("t,thwc->hwc", row, seen))
            history.copy_(y[-2:])
        return
    channels, rows = like.shape[-1], like.shape[:-1].numel()
    block = triton.next_power_of_2(channels)
    rows_per_program = max(1, 2048 // block)
    sources = sources + [like] * (6 - len(sources))
    points = list(points_out or [])
    points += [like] * (6 - len(points))
    _points_kernel[(triton.cdiv(rows, rows_per_program),)](
        *sources,
        _or(bias, like),
        _or(residual, like),
        _or(gamma, like),
        _or(x_out, like),
        _or(y_out, like),
        _or(history, like),
        *points,
        rows,
        scale,
        channels,
        channels**0.5,
        frames,
        from_products,
        bias is not None,
        residual is not None,
        x_out is not None,
        y_out is not None,
        points_out is not None,
        rows_per_program,
        block,
        num_warps=8,
    )


def _or(tensor: torch.Tensor | None, unused: torch.Tensor) -> torch.Tensor:
    """A kernel wants a tensor for each argument, also for those its flags say not to touch."""
    return unused if tensor is None else tensor


def _sum_reference(
    x: torch.Tensor, bias: torch.Tensor | None, residual: torch.Tensor | None, x_out: torch.Tensor | None
) -> torch.Tensor:
    if bias is not None:
        x = x + bias
    if residual is not None:
        x = x + residual.float()
    if x_out is not None:
        x_out.copy_(x)
    return x


def _norm_reference(x: torch.Tensor, gamma: torch.Tensor | None, silu: bool) -> torch.Tensor:
    y = F.normalize(x, dim=-1) * x.shape[-1] ** 0.5 * gamma
    return F.silu(y) if silu else y


def depth_to_space(
    phases: torch.Tensor,
    bias: torch.Tensor,
    out: torch.Tensor,
    offset: int,
    step: int,
    shortcut: torch.Tensor | None,
    shortcut_phase: tuple[int, int],
) -> None:
    """Spread four output phases over a frame of twice the size, adding bias and an upsampled shortcut.

    Args:
        phases: (T, H + 1, W + 1, 4 * C): what a 2x2 convolution with a padding of 1 gives.
            Large pixel (2 i + y, 2 j + x) is found at (i + y, j + x), in the channels of phase 2 y + x.
        bias: (C,) float32.
        out: (T_out, 2 H, 2 W, C); frame t of `phases` goes to frame offset + t * step.
        shortcut: (T, H, W, C_in) input of Wan 2.2's upsampling block, or None.
        shortcut_phase: (k, factor_t): which of the `factor_t` frames made of one this is.
    Stream: the caller's current stream.
    Source of the shortcut: Wan-Video/Wan2.2 wan/modules/vae2_2.py, DupUp3D: output channel c at time phase k and
        space phase (y, x) is input channel ((c * factor_t + k) * 4 + 2 y + x) // (C * factor_t * 4 / C_in).
    """
    if phases.is_meta:
        return
    if not phases.is_cuda:
        _depth_to_space_reference(phases, bias, out, offset, step, shortcut, shortcut_phase)
        return
    frames, height, width = phases.shape[0], phases.shape[1] - 1, phases.shape[2] - 1
    channels = out.shape[-1]
    block = triton.next_power_of_2(channels)
    rows = frames * height * width * 4
    rows_per_program = max(1, 8192 // block)
    k, factor_t = shortcut_phase
    in_channels = shortcut.shape[-1] if shortcut is not None else channels
    _depth_to_space_kernel[(triton.cdiv(rows, rows_per_program),)](
        phases,
        bias,
        out,
        shortcut if shortcut is not None else phases,
        rows,
        height,
        width,
        in_channels,
        offset,
        step,
        k,
        factor_t,
        channels * factor_t * 4 // in_channels,
        channels,
        shortcut is not None,
        rows_per_program,
        block,
        num_warps=8,
    )


def _depth_to_space_reference(
    phases: torch.Tensor,
    bias: torch.Tensor,
    out: torch.Tensor,
    offset: int,
    step: int,
    shortcut: torch.Tensor | None,
    shortcut_phase: tuple[int, int],
) -> None:
    frames, height, width = phases.shape[0], phases.shape[1] - 1, phases.shape[2] - 1
    channels = out.shape[-1]
    by_phase = phases.float().view(frames, height + 1, width + 1, 2, 2, channels)
    spread = torch.empty((frames, height, width, 2, 2, channels), device=out.device)
    for y in range(2):
        for x in range(2):
            spread[..., y, x, :] = by_phase[:, y : y + height, x : x + width, y, x] + bias
    if shortcut is not None:
        k, factor_t = shortcut_phase
        repeats = channels * factor_t * 4 // shortcut.shape[-1]
        c = torch.arange(channels, device=out.device)
        for y in range(2):
            for x in range(2):
                spread[..., y, x, :] += shortcut[..., ((c * factor_t + k) * 4 + 2 * y + x) // repeats].float()
    spread = spread.permute(0, 1, 3, 2, 4, 5).reshape(frames, 2 * height, 2 * width, channels)
    out[offset : offset + frames * step : step].copy_(spread)


def head(window: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The last convolution, to so few channels that cuDNN's kernels would mostly compute padding.

    Args:
        window: (2 + T, H, W, C), the input with its history.
        weight: (n <= 16, C, 3, 3, 3), in the window's dtype.
        bias: (n,) float32.
    Returns:
        (n, T, H, W) float32: rounding the pixels to bfloat16 would be most of the decoder's error.
    Stream: the caller's current stream.
    """
    if window.is_meta:
        return torch.empty((len(bias), window.shape[0] - 2, *window.shape[1:3]), device="meta")
    if not window.is_cuda:
        return F.conv3d(window.permute(3, 0, 1, 2)[None].float(), weight.float(), bias, padding=(0, 1, 1))[0]
    frames, (height, width, channels) = window.shape[0] - 2, window.shape[1:]
    outputs, block = len(bias), max(16, triton.next_power_of_2(channels))  # tensor cores take 16 at least
    # (taps, C, 16): a tap's matrix, its columns the outputs.
    taps = F.pad(weight.permute(2, 3, 4, 1, 0).reshape(27, channels, outputs), (0, 16 - outputs)).contiguous()
    out = torch.empty((outputs, frames, height, width), device=window.device)
    pixels = 64
    pairs = frames % 2 == 0
    grid = (triton.cdiv(width, pixels), height, frames // 2 if pairs else frames)
    _head_kernel[grid](
        window,
        taps,
        bias,
        out,
        frames,
        height,
        width,
        outputs,
        channels,
        pixels,
        block,
        pairs,
        num_warps=4,
        num_stages=1,
    )
    return out


if triton is not None:

    @triton.jit
    def _tap(taps, tap, channel, output, CHANNELS: tl.constexpr):
        at = (tap * CHANNELS + channel[:, None]) * 16 + output[None, :]
        return tl.load(taps + at, mask=(channel < CHANNELS)[:, None], other=0.0)

    @triton.jit
    def _head_kernel(
        window,
        taps,
        bias,
        out,
        frames,
        height,
        width,
        outputs,
        CHANNELS: tl.constexpr,
        PIXELS: tl.constexpr,
        BLOCK: tl.constexpr,
        PAIRS: tl.constexpr,
    ):
        # A program makes two frames (one, where there is only one):
        # of the four it reads, the middle two count for both.
        x = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
        y, t = tl.program_id(1), tl.program_id(2).to(tl.int64) * (2 if PAIRS else 1)
        channel, output = tl.arange(0, BLOCK), tl.arange(0, 16)
        first = tl.zeros((PIXELS, 16), tl.float32)
        second = tl.zeros((PIXELS, 16), tl.float32)
        for place in range(9):
            dy, dx = place // 3 - 1, place % 3 - 1
            row, column = y + dy, x + dx
            inside = ((row >= 0) & (row < height) & (column >= 0) & (column < width))[:, None] & (channel < CHANNELS)[
                None, :
            ]
            at = ((t * height + row) * width + column)[:, None] * CHANNELS + channel[None, :]
            frame = (tl.zeros((1, 1), tl.int64) + height) * width * CHANNELS
            oldest = _tap(taps, place, channel, output, CHANNELS)
            middle = _tap(taps, place + 9, channel, output, CHANNELS)
            newest = _tap(taps, place + 18, channel, output, CHANNELS)
            values = tl.load(window + at, mask=inside, other=0.0)
            first = tl.dot(values, oldest, first)
            values = tl.load(window + at + frame, mask=inside, other=0.0)
            first = tl.dot(values, middle, first)
            if PAIRS:
                second = tl.dot(values, oldest, second)
            values = tl.load(window + at + 2 * frame, mask=inside, other=0.0)
            first = tl.dot(values, newest, first)
            if PAIRS:
                second = tl.dot(values, middle, second)
                values = tl.load(window + at + 3 * frame, mask=inside, other=0.0)
                second = tl.dot(values, newest, second)
        b = tl.load(bias + output, mask=output < outputs, other=0.0)[None, :]
        to = ((output[None, :] * frames + t) * height + y) * width + x[:, None]
        inside_out = (x < width)[:, None] & (output < outputs)[None, :]
        tl.store(out + to, first + b, mask=inside_out)
        if PAIRS:
            tl.store(out + to + height * width, second + b, mask=inside_out)

    @triton.jit
    def _load(source, at, inside):
        return tl.load(source + at, mask=inside, other=0.0).to(tl.float32)

    @triton.jit
    def _store(target, at, value, inside):
        tl.store(target + at, value.to(target.dtype.element_ty), mask=inside)

    @triton.jit
    def _bias(bias, channel, CHANNELS: tl.constexpr, BLOCK: tl.constexpr, HAS_BIAS: tl.constexpr):
        if HAS_BIAS:
            b = tl.load(bias + channel, mask=channel < CHANNELS, other=0.0)
        else:
            b = tl.zeros((1, BLOCK), tl.float32)
        return b

    @triton.jit
    def _sum(x, bias, residual, x_out, at, inside, HAS_RESIDUAL: tl.constexpr, WRITE_X: tl.constexpr):
        x += bias
        if HAS_RESIDUAL:
            x += _load(residual, at, inside)
        if WRITE_X:
            _store(x_out, at, x, inside)
        return x

    @triton.jit
    def _norm(x, gamma, channel, CHANNELS: tl.constexpr, SCALE: tl.constexpr, SILU: tl.constexpr):
        length = tl.sqrt(tl.sum(x * x, axis=1, keep_dims=True))
        y = x / tl.maximum(length, 1e-12) * SCALE * tl.load(gamma + channel, mask=channel < CHANNELS, other=0.0)
        if SILU:
            y = y * tl.sigmoid(y)
        return y

    @triton.jit
    def _norm_silu_kernel(
        a,
        bias,
        residual,
        gamma,
        x_out,
        y_out,
        rows,
        scale,
        CHANNELS: tl.constexpr,
        SCALE: tl.constexpr,
        HAS_BIAS: tl.constexpr,
        HAS_RESIDUAL: tl.constexpr,
        WRITE_X: tl.constexpr,
        WRITE_Y: tl.constexpr,
        SILU: tl.constexpr,
        ROWS: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
        channel = tl.arange(0, BLOCK)[None, :]
        inside = (row < rows) & (channel < CHANNELS)
        at = row * CHANNELS + channel
        b = _bias(bias, channel, CHANNELS, BLOCK, HAS_BIAS)
        x = _sum(_load(a, at, inside) * scale, b, residual, x_out, at, inside, HAS_RESIDUAL, WRITE_X)
        if WRITE_Y:
            _store(y_out, at, _norm(x, gamma, channel, CHANNELS, SCALE, SILU), inside)

    @triton.jit
    def _points_kernel(
        s0,
        s1,
        s2,
        s3,
        s4,
        s5,
        bias,
        residual,
        gamma,
        x_out,
        y_out,
        history,
        p0,
        p1,
        p2,
        p3,
        p4,
        p5,
        rows,
        scale,
        CHANNELS: tl.constexpr,
        SCALE: tl.constexpr,
        FRAMES: tl.constexpr,
        FROM_PRODUCTS: tl.constexpr,
        HAS_BIAS: tl.constexpr,
        HAS_RESIDUAL: tl.constexpr,
        WRITE_X: tl.constexpr,
        WRITE_Y: tl.constexpr,
        WRITE_POINTS: tl.constexpr,
        ROWS: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        # A program has its pixels in every frame, and reads all before it writes: so points may replace products.
        row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
        channel = tl.arange(0, BLOCK)[None, :]
        inside = (row < rows) & (channel < CHANNELS)
        at = row * CHANNELS + channel
        frame = (tl.zeros((1, 1), tl.int64) + rows) * CHANNELS
        # winograd.OUTPUT
        a0, a1 = _load(s0, at, inside), _load(s1, at, inside)
        if FRAMES == 4:
            a2, a3 = _load(s2, at, inside), _load(s3, at, inside)
            if FROM_PRODUCTS:
                a4, a5 = _load(s4, at, inside), _load(s5, at, inside)
                even, odd = 2.0 * (a2 + a1), 2.0 * (a2 - a1)
                a0 = 4.0 * a0 + even + 4.0 * a3 + 0.5 * a4
                a1 = odd + 2.0 * a3 - a4
                a2 = even + a3 + 2.0 * a4
                a3 = odd + 0.5 * a3 - 4.0 * a4 + 4.0 * a5
        else:
            if FROM_PRODUCTS:
                a2, a3 = _load(s2, at, inside), _load(s3, at, inside)
                a0, a1 = 2.0 * (a0 + a1 + a2), 2.0 * (a1 - a2 + a3)
        b = _bias(bias, channel, CHANNELS, BLOCK, HAS_BIAS)
        a0 = _sum(a0 * scale, b, residual, x_out, at, inside, HAS_RESIDUAL, WRITE_X)
        a1 = _sum(a1 * scale, b, residual, x_out, at + frame, inside, HAS_RESIDUAL, WRITE_X)
        if FRAMES == 4:
            a2 = _sum(a2 * scale, b, residual, x_out, at + 2 * frame, inside, HAS_RESIDUAL, WRITE_X)
            a3 = _sum(a3 * scale, b, residual, x_out, at + 3 * frame, inside, HAS_RESIDUAL, WRITE_X)
        if WRITE_Y or WRITE_POINTS:
            y0 = _norm(a0, gamma, channel, CHANNELS, SCALE, True)
            y1 = _norm(a1, gamma, channel, CHANNELS, SCALE, True)
            if FRAMES == 4:
                y2 = _norm(a2, gamma, channel, CHANNELS, SCALE, True)
                y3 = _norm(a3, gamma, channel, CHANNELS, SCALE, True)
        if WRITE_Y:
            _store(y_out, at, y0, inside)
            _store(y_out, at + frame, y1, inside)
            if FRAMES == 4:
                _store(y_out, at + 2 * frame, y2, inside)
                _store(y_out, at + 3 * frame, y3, inside)
        if WRITE_POINTS:
            h0, h1 = _load(history, at, inside), _load(history, at + frame, inside)
            # winograd.INPUT, of (h0, h1, y0, ...)
            if FRAMES == 4:
                _store(p0, at, 0.25 * (h0 + y2) + 0.375 * (y1 - h1) - 0.5 * y0, inside)
                _store(p1, at, 0.25 * (h1 + y2) - 0.625 * y0 + 0.125 * y1, inside)
                _store(p2, at, 0.25 * (y2 - h1) + 0.125 * y0 + 0.625 * y1, inside)
                _store(p3, at, 0.5 * (y1 - h1) + 0.25 * (y2 - y0), inside)
                _store(p4, at, 0.25 * (h1 - y1) + 0.5 * (y2 - y0), inside)
                _store(p5, at, 0.25 * (h1 + y3) + 0.375 * (y2 - y0) - 0.5 * y1, inside)
                _store(history, at, y2, inside)
                _store(history, at + frame, y3, inside)
            else:
                _store(p0, at, 0.5 * (y0 - h0), inside)
                _store(p1, at, 0.5 * (h1 + y0), inside)
                _store(p2, at, 0.5 * (y0 - h1), inside)
                _store(p3, at, 0.5 * (y1 - h1), inside)
                _store(history, at, y0, inside)
                _store(history, at + frame, y1, inside)

    @triton.jit
    def _depth_to_space_kernel(
        phases,
        bias,
        out,
        shortcut,
        rows,
        height,
        width,
        in_channels,
        offset,
        step,
        k,
        factor_t,
        REPEATS: tl.constexpr,
        CHANNELS: tl.constexpr,
        HAS_SHORTCUT: tl.constexpr,
        ROWS: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        # A row is an output pixel; rows run over x, y, t of the large frame, so stores are whole lines.
        row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
        channel = tl.arange(0, BLOCK)[None, :]
        inside = (row < rows) & (channel < CHANNELS)
        x = row % (2 * width)
        y = (row // (2 * width)) % (2 * height)
        t = row // (4 * width * height)
        phase = (y % 2) * 2 + x % 2
        at = (t * (height + 1) + y // 2 + y % 2) * (width + 1) + x // 2 + x % 2
        value = _load(phases, (at * 4 + phase) * CHANNELS + channel, inside)
        value += tl.load(bias + channel, mask=channel < CHANNELS, other=0.0)
        if HAS_SHORTCUT:
            source = (t * height + y // 2) * width + x // 2
            from_channel = ((channel * factor_t + k) * 4 + phase) // REPEATS
            value += _load(shortcut, source * in_channels + from_channel, inside)
        to = (((offset + t * step) * 2 * height + y) * 2 * width + x) * CHANNELS + channel
        _store(out, to, value, inside)
