"""The steps of `kernels` on CUDA, compiled by NVRTC, which comes with torch on Linux and on Windows."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

SOURCE = Path(__file__).with_name("source.cu")
THREADS = 256
# source.cu
BIAS, RESIDUAL, X_OUT, Y_OUT, POINTS, SILU = 1, 2, 4, 8, 16, 32
# Of the products of the head's taps, which are made for some rows at a time.
HEAD_BYTES = 128 * 1024**2


@functools.cache
def _kernel(name: str, device_index: int) -> Callable:
    """A kernel of source.cu, by its name as a template. Private to torch, so nobody else calls it."""
    with torch.cuda.device(device_index):
        return torch.cuda._compile_kernel(SOURCE.read_text(encoding="utf-8"), name)


def _launch(name: str, like: torch.Tensor, threads: int, args: list) -> None:
    _kernel(name, like.device.index)(((threads + THREADS - 1) // THREADS, 1, 1), (THREADS, 1, 1), args)


def lanes(channels: int) -> int:
    """Of a warp for one pixel: Layout::L of source.cu."""
    vector = next(size for size in (8, 4, 2, 1) if channels % size == 0)
    vectors = channels // vector
    return min(32, 1 << (vectors - 1).bit_length())


def norm_silu(a, scale, bias, residual, gamma, x_out, y_out, silu=True) -> None:
    channels, pixels = a.shape[-1], a.shape[:-1].numel()
    flags = (
        (bias is not None) * BIAS
        | (residual is not None) * RESIDUAL
        | (x_out is not None) * X_OUT
        | (y_out is not None) * Y_OUT
        | silu * SILU
    )
    args = [a, _or(bias, a), _or(residual, a), _or(gamma, a), _or(x_out, a), _or(y_out, a), pixels, float(scale), flags]
    _launch(f"norm_silu<{channels}>", a, pixels * lanes(channels), args)


def norm_silu_points(
    products, scale, bias, residual, gamma, x_out, y_out=None, history=None, points_out=None
) -> None:
    from_products = isinstance(products, list)
    sources = products if from_products else list(products)
    like = sources[0]
    frames = len(sources) - 2 if from_products else len(sources)
    channels, pixels = like.shape[-1], like.shape[:-1].numel()
    flags = (
        (bias is not None) * BIAS
        | (residual is not None) * RESIDUAL
        | (x_out is not None) * X_OUT
        | (y_out is not None) * Y_OUT
        | (points_out is not None) * POINTS
    )
    points = list(points_out or [])
    args = [
        *sources,
        *[like] * (6 - len(sources)),
        _or(bias, like), _or(residual, like), _or(gamma, like), _or(x_out, like), _or(y_out, like), _or(history, like),
        *points, *[like] * (6 - len(points)),
        pixels, float(scale), flags,
    ]
    name = f"norm_silu_points<{channels}, {frames}, {'true' if from_products else 'false'}>"
    _launch(name, like, pixels * lanes(channels), args)


def depth_to_space(phases, bias, out, offset, step, shortcut, shortcut_phase) -> None:
    frames, height, width = phases.shape[0], phases.shape[1] - 1, phases.shape[2] - 1
    channels = out.shape[-1]
    vector = next(size for size in (8, 4, 2, 1) if channels % size == 0)
    vectors = frames * height * width * 4 * (channels // vector)
    k, factor_t = shortcut_phase
    in_channels = shortcut.shape[-1] if shortcut is not None else channels
    args = [
        phases, bias, out, _or(shortcut, phases), vectors, height, width, in_channels, offset, step, k, factor_t,
        channels * factor_t * 4 // in_channels, int(shortcut is not None),
    ]
    _launch(f"depth_to_space<{channels}>", out, vectors, args)


def head(window: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    count, (height, width, channels) = window.shape[0], window.shape[1:]
    outputs, frames = len(bias), count - 2
    taps = weight.permute(2, 3, 4, 0, 1).reshape(1, 27 * outputs, channels).contiguous().expand(count, -1, -1)
    out = torch.empty((outputs, frames, height, width), device=window.device)
    rows = max(1, HEAD_BYTES // (count * 27 * outputs * width * 4))
    for first in range(0, height, rows):
        wanted = min(rows, height - first)
        start, stop = max(0, first - 1), min(height, first + wanted + 1)
        seen = window[:, start:stop].reshape(count, (stop - start) * width, channels)
        products = torch.bmm(taps, seen.transpose(1, 2), out_dtype=torch.float32)
        args = [products, bias, out, frames, stop - start, width, first - start, first, wanted, height]
        _launch(f"add_taps<{outputs}>", out, frames * wanted * width, args)
    return out


def _or(tensor, unused):
    return unused if tensor is None else tensor
