"""The steps between convolutions, fused: one read and one write of memory instead of many.

Activations are (T, H, W, C), contiguous: channels last, so that a pixel's channels are one row, and a
convolution finds its input the way cuDNN's tensor-core kernels want it. Arithmetic is float32, whatever
the storage. Each step has a Triton kernel for CUDA and a plain-torch reference, which is also what runs
on the CPU.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

try:
    import triton
    import triton.language as tl
except ImportError:  # the decoder is then not offered on CUDA
    triton = None


def norm_silu(
    a: torch.Tensor,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    gamma: torch.Tensor | None,
    x_out: torch.Tensor | None,
    y_out: torch.Tensor | None,
    silu: bool = True,
) -> None:
    """x = a + bias + residual; y = silu(rms_norm(x) * gamma), in one pass.

    Args:
        a: (T, H, W, >= C) a convolution's output; channels past C are padding and not read.
        bias: (C,) float32, or None.
        residual: (T, H, W, C), or None.
        gamma: (C,) float32; None where y is not wanted.
        x_out: (T, H, W, C) for x, or None; may be `residual`.
        y_out: (T, H, W, C) for y, or None; may be part of the next convolution's input.
        silu: False leaves the activation out.
    Stream: the caller's current stream.
    Source: Wan-Video/Wan2.1 wan/modules/vae.py, RMS_norm and ResidualBlock: x / max(|x|, 1e-12) * sqrt(C) * gamma.
    """
    if not a.is_cuda:
        _norm_silu_reference(a, bias, residual, gamma, x_out, y_out, silu)
        return
    shaped = x_out if x_out is not None else y_out
    channels, rows = shaped.shape[-1], shaped.shape[:-1].numel()
    block = triton.next_power_of_2(channels)
    rows_per_program = max(1, 8192 // block)
    unused = a  # never read: the flags say so
    _norm_silu_kernel[(triton.cdiv(rows, rows_per_program),)](
        a, bias if bias is not None else unused, residual if residual is not None else unused,
        gamma if gamma is not None else unused, x_out if x_out is not None else unused,
        y_out if y_out is not None else unused,
        rows, a.stride(-2), channels, channels**0.5,
        bias is not None, residual is not None, x_out is not None, y_out is not None, silu,
        rows_per_program, block, num_warps=8,
    )  # fmt: skip


def _norm_silu_reference(a, bias, residual, gamma, x_out, y_out, silu=True) -> None:
    channels = (x_out if x_out is not None else y_out).shape[-1]
    x = a[..., :channels].float()
    if bias is not None:
        x = x + bias
    if residual is not None:
        x = x + residual.float()
    if x_out is not None:
        x_out.copy_(x)
    if y_out is not None:
        y = F.normalize(x, dim=-1) * channels**0.5 * gamma
        y_out.copy_(F.silu(y) if silu else y)


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
        phases: (T, H + 1, W + 1, 4 * C): what a 2x2 convolution with a padding of 1 gives. Large pixel (2 i + y, 2 j + x)
            is found at (i + y, j + x), in the channels of phase 2 y + x.
        bias: (C,) float32.
        out: (T_out, 2 H, 2 W, C); frame t of `phases` goes to frame offset + t * step.
        shortcut: (T, H, W, C_in) input of Wan 2.2's upsampling block, or None.
        shortcut_phase: (k, factor_t): which of the `factor_t` frames made of one this is.
    Stream: the caller's current stream.
    Source of the shortcut: Wan-Video/Wan2.2 wan/modules/vae2_2.py, DupUp3D: output channel c at time phase k and
        space phase (y, x) is input channel ((c * factor_t + k) * 4 + 2 y + x) // (C * factor_t * 4 / C_in).
    """
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
        phases, bias, out, shortcut if shortcut is not None else phases,
        rows, height, width, in_channels, offset, step, k, factor_t,
        channels * factor_t * 4 // in_channels, channels, shortcut is not None,
        rows_per_program, block, num_warps=8,
    )  # fmt: skip


def _depth_to_space_reference(phases, bias, out, offset, step, shortcut, shortcut_phase) -> None:
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
        (n, T, H, W) in the window's dtype.
    Stream: the caller's current stream.
    """
    if not window.is_cuda:
        return F.conv3d(window.permute(3, 0, 1, 2)[None], weight, bias.to(window.dtype), padding=(0, 1, 1))[0]
    frames, height, width, channels = window.shape[0] - 2, *window.shape[1:]
    outputs, block = len(bias), triton.next_power_of_2(channels)
    # (taps, C, 16): a tap's matrix, its columns the outputs.
    taps = F.pad(weight.permute(2, 3, 4, 1, 0).reshape(27, channels, outputs), (0, 16 - outputs)).contiguous()
    out = window.new_empty((outputs, frames, height, width))
    pixels = 128
    grid = (triton.cdiv(width, pixels), height, frames)
    _head_kernel[grid](window, taps, bias, out, frames, height, width, outputs, channels, pixels, block, num_warps=4)
    return out


if triton is not None:

    @triton.jit
    def _head_kernel(
        window, taps, bias, out, frames, height, width, outputs,
        CHANNELS: tl.constexpr, PIXELS: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        x = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
        y, t = tl.program_id(1), tl.program_id(2).to(tl.int64)
        channel, output = tl.arange(0, BLOCK), tl.arange(0, 16)
        total = tl.zeros((PIXELS, 16), tl.float32)
        for tap in range(27):
            dt, dy, dx = tap // 9, tap // 3 % 3 - 1, tap % 3 - 1
            row, column = y + dy, x + dx
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            pixel = ((t + dt) * height + row) * width + column
            values = tl.load(
                window + pixel[:, None] * CHANNELS + channel[None, :],
                mask=inside[:, None] & (channel < CHANNELS)[None, :], other=0.0,
            )
            matrix = tl.load(
                taps + (tap * CHANNELS + channel[:, None]) * 16 + output[None, :],
                mask=(channel < CHANNELS)[:, None], other=0.0,
            )
            total = tl.dot(values, matrix, total)
        total += tl.load(bias + output, mask=output < outputs, other=0.0)[None, :]
        to = ((output[None, :] * frames + t) * height + y) * width + x[:, None]
        tl.store(out + to, total.to(out.dtype.element_ty), mask=(x < width)[:, None] & (output < outputs)[None, :])

    @triton.jit
    def _norm_silu_kernel(
        a, bias, residual, gamma, x_out, y_out,
        rows, a_stride, CHANNELS: tl.constexpr, SCALE: tl.constexpr,
        HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, WRITE_X: tl.constexpr, WRITE_Y: tl.constexpr,
        SILU: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
        channel = tl.arange(0, BLOCK)[None, :]
        inside = (row < rows) & (channel < CHANNELS)
        x = tl.load(a + row * a_stride + channel, mask=inside, other=0.0).to(tl.float32)
        if HAS_BIAS:
            x += tl.load(bias + channel, mask=channel < CHANNELS, other=0.0)
        at = row * CHANNELS + channel
        if HAS_RESIDUAL:
            x += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
        if WRITE_X:
            tl.store(x_out + at, x.to(x_out.dtype.element_ty), mask=inside)
        if WRITE_Y:
            length = tl.sqrt(tl.sum(x * x, axis=1, keep_dims=True))
            y = x / tl.maximum(length, 1e-12) * SCALE * tl.load(gamma + channel, mask=channel < CHANNELS, other=0.0)
            if SILU:
                y = y * tl.sigmoid(y)
            tl.store(y_out + at, y.to(y_out.dtype.element_ty), mask=inside)

    @triton.jit
    def _depth_to_space_kernel(
        phases, bias, out, shortcut,
        rows, height, width, in_channels, offset, step, k, factor_t,
        REPEATS: tl.constexpr, CHANNELS: tl.constexpr, HAS_SHORTCUT: tl.constexpr,
        ROWS: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        # A row is an output pixel; rows run over x, y, t of the large frame, so stores are whole lines.
        row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
        channel = tl.arange(0, BLOCK)[None, :]
        inside = (row < rows) & (channel < CHANNELS)
        x = row % (2 * width)
        y = (row // (2 * width)) % (2 * height)
        t = row // (4 * width * height)
        phase = (y % 2) * 2 + x % 2
        at = (t * (height + 1) + y // 2 + y % 2) * (width + 1) + x // 2 + x % 2
        value = tl.load(phases + (at * 4 + phase) * CHANNELS + channel, mask=inside, other=0.0).to(tl.float32)
        value += tl.load(bias + channel, mask=channel < CHANNELS, other=0.0)
        if HAS_SHORTCUT:
            source = (t * height + y // 2) * width + x // 2
            from_channel = ((channel * factor_t + k) * 4 + phase) // REPEATS
            value += tl.load(shortcut + source * in_channels + from_channel, mask=inside, other=0.0).to(tl.float32)
        to = (((offset + t * step) * 2 * height + y) * 2 * width + x) * CHANNELS + channel
        tl.store(out + to, value.to(out.dtype.element_ty), mask=inside)
