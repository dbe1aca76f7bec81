"""The steps of `kernels` on CUDA.

The kernels are in kernels.cu. Arguments as in `kernels`.
"""

from __future__ import annotations

import contextlib
import functools
import struct
from concurrent.futures import Future
from pathlib import Path

import torch

from ...text import Text
from . import compiled

# Turing's compute capability: the first with tensor cores that newer CUDAs compile for.
OLDEST_GPU = (7, 5)
SOURCE = Path(__file__).with_name("kernels.cu")
THREADS = 128
# As in kernels.cu.
BIAS, RESIDUAL, X_OUT, Y_OUT, POINTS, SILU = 1, 2, 4, 8, 16, 32
# Of the products with the head's taps, which are made for some rows at a time.
HEAD_BYTES = 128 * 1024**2
# Of the scores of the attention, which are made for some pixels at a time.
SCORES_BYTES = 256 * 1024**2
# What was launched on the meta device, where a decoder's memory is counted before it runs: each kernel's name, and what
# it is made for.
_expected: set[tuple[str, tuple[tuple[str, int], ...]]] = set()
# By a kernel's name, device and what it is made for: compiled, or being compiled.
_binaries: dict[tuple[str, int, tuple[tuple[str, int], ...]], Future[bytes]] = {}


def why_not(device: torch.device) -> Text | None:
    """Why kernels cannot be compiled for a GPU; None if they can, as the first of them then is."""
    if (reason := _refusal(device)) is not None:
        _refusal.cache_clear()  # it is asked again next time: memory may have run out, of the GPU or for the compiler
    return reason


@functools.cache
def _refusal(device: torch.device) -> Text | None:
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < OLDEST_GPU:
        return Text("the GPU is older than Turing (GTX 16, RTX 20)")
    try:
        if torch.version.hip is not None:  # for AMD torch says that it has no such product
            ones = torch.ones((8, 8), device=device, dtype=torch.float16)
            torch.mm(ones, ones, out_dtype=torch.float32)
        _kernel("exponentials", _index(device), ())  # it is compiled soonest
    except Exception as error:  # no compiler, or a torch that has another way to it
        return Text("its kernels cannot be compiled here: %error%", error=f"{type(error).__name__}: {error}")
    return None


def begin(device: torch.device) -> None:
    """Have the kernels that are expected compiled for a GPU, all at the same time, while the caller goes on."""
    for name, made_for in list(_expected):
        _begun(name, _index(device), made_for)


def norm_silu(
    a: torch.Tensor,
    scale: float,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    gamma: torch.Tensor | None,
    x_out: torch.Tensor | None,
    y_out: torch.Tensor | None,
    silu: bool,
) -> None:
    channels, pixels = a.shape[-1], a.shape[:-1].numel()
    flags = _flags(bias, residual, x_out, y_out) | silu * SILU
    tensors = [tensor if tensor is not None else a for tensor in (a, bias, residual, gamma, x_out, y_out)]
    threads = pixels * _lanes(channels)
    _launch("norm_silu", threads, [*tensors, pixels, _bits(scale), flags], CHANNELS=channels)


def norm_silu_points(
    products: list[torch.Tensor] | torch.Tensor,
    scale: float,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    gamma: torch.Tensor | None,
    x_out: torch.Tensor | None,
    y_out: torch.Tensor | None,
    history: torch.Tensor | None,
    points_out: list[torch.Tensor] | None,
) -> None:
    sources, points = list(products), list(points_out or [])
    like, from_products = sources[0], isinstance(products, list)
    channels, pixels = like.shape[-1], like.shape[:-1].numel()
    frames = len(sources) - 2 if from_products else len(sources)
    flags = _flags(bias, residual, x_out, y_out) | (points_out is not None) * POINTS
    given = [*_six(sources), bias, residual, gamma, x_out, y_out, history, *_six(points)]
    tensors = [tensor if tensor is not None else like for tensor in given]
    _launch(
        "norm_silu_points",
        pixels * _lanes(channels),
        [*tensors, pixels, _bits(scale), flags],
        CHANNELS=channels,
        FRAMES=frames,
        PRODUCTS=int(from_products),
    )


def depth_to_space(
    phases: torch.Tensor,
    bias: torch.Tensor,
    out: torch.Tensor,
    shortcut: torch.Tensor | None,
    shortcut_phase: tuple[int, int],
) -> None:
    frames, height, width = phases.shape[0], phases.shape[1] - 1, phases.shape[2] - 1
    channels = out.shape[-1]
    vectors = frames * height * width * 4 * (channels // _vector(channels))
    k, factor_t = shortcut_phase
    in_channels = channels if shortcut is None else shortcut.shape[-1]
    repeats = channels * factor_t * 4 // in_channels
    numbers = [vectors, height, width, in_channels, k, factor_t, repeats, int(shortcut is not None)]
    tensors = [phases, bias, out, phases if shortcut is None else shortcut]
    _launch("depth_to_space", vectors, [*tensors, *numbers], CHANNELS=channels)


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """By matrix products: torch's kernels for a head this wide are those of older GPUs."""
    pixels, channels = q.shape
    out = torch.empty_like(v)
    rows = max(1, SCORES_BYTES // (4 * pixels))
    for of_rows in (slice(first, min(pixels, first + rows)) for first in range(0, pixels, rows)):
        scores = torch.mm(q[of_rows], k.t(), out_dtype=torch.float32)
        sums = scores.new_empty(len(scores))
        _launch("exponentials", len(scores) * THREADS, [scores, sums, pixels, _bits(channels**-0.5)])
        # Shares of a sum over all pixels would be too small for float16: they are divided by it afterwards.
        mixed = torch.mm(scores.view(torch.float16)[:, :pixels], v, out_dtype=torch.float32)
        torch.div(mixed, sums[:, None], out=mixed)
        out[of_rows].copy_(mixed)
    return out


def head(
    carried: torch.Tensor, frames: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """One matrix product of every pixel with all taps, some rows at a time, and a sum over neighbours."""
    count, height, width, channels = frames.shape
    outputs = len(bias)
    taps = weight.permute(2, 3, 4, 0, 1).reshape(1, 27 * outputs, channels).expand(count, -1, -1)
    out, carry = carried.new_empty((outputs, count, height, width)), torch.empty_like(carried)
    rows = max(1, HEAD_BYTES // (count * 27 * outputs * width * 4))
    for first in range(0, height, rows):
        wanted = min(rows, height - first)
        start, stop = max(0, first - 1), min(height, first + wanted + 1)
        seen = frames[:, start:stop].reshape(count, (stop - start) * width, channels).transpose(1, 2)
        # float32: rounding what is summed up would be most of the decoder's error.
        products = torch.bmm(taps, seen, out_dtype=torch.float32)
        numbers = [count, stop - start, width, first - start, first, wanted, height]
        threads = (count + len(carried)) * wanted * width
        _launch("add_taps", threads, [products, carried, bias, out, carry, *numbers], OUTPUTS=outputs)
    return out, carry


def norm_silu_groups(
    source: list[torch.Tensor] | torch.Tensor,
    scale: float,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    before: torch.Tensor | None,
    x_out: torch.Tensor | None,
    x_history: torch.Tensor | None,
    eps: float | None,
    affine: tuple[torch.Tensor, torch.Tensor] | None,
    history: torch.Tensor | None,
    first: int,
    end: int,
    points_out: list[torch.Tensor] | None,
    y_out: torch.Tensor | None,
    padded: bool,
) -> None:
    from_products = isinstance(source, list)
    sources = source if isinstance(source, list) else [source]
    like, points = sources[0], list(points_out or [])
    height, width, channels = like.shape[-3:]
    groups = len(points[0]) if points else -(-end // 4)
    flags = _flags(bias, residual, x_out, y_out) | (points_out is not None) * POINTS | (eps is not None) * SILU
    gamma, beta = affine or (None, None)
    given = [*_six(sources), bias, residual, before, x_out, x_history, gamma, beta, history, *_six(points), y_out]
    tensors = [tensor if tensor is not None else like for tensor in given]
    residuals = 0 if residual is None else len(residual)
    numbers = [height, width, residuals, groups, first, end, _bits(scale), _bits(eps or 0.0), int(affine is not None)]
    _launch(
        "norm_silu_groups",
        height * width * _lanes(channels, most=128),
        [*tensors, *numbers, flags],
        CHANNELS=channels,
        PRODUCTS=int(from_products),
        DELAYED=int(before is not None),
        PADDED=int(padded),
    )


def spread_groups(
    products: list[torch.Tensor],
    bias: torch.Tensor,
    factors: tuple[int, int],
    residual: torch.Tensor | None,
    before: torch.Tensor | None,
    out: torch.Tensor,
) -> None:
    (time, space), (groups, height, width, _) = factors, products[0].shape
    channels = out.shape[-1]
    threads = groups * time * space**2 * height * width * (channels // _vector(channels))
    tensors = [tensor if tensor is not None else out for tensor in (*products, bias, residual, before, out)]
    in_channels, residuals = (channels, 0) if residual is None else (residual.shape[-1], len(residual))
    delay = 0 if before is None else len(before)
    numbers = [threads, height, width, residuals, in_channels, delay, len(out) // time]
    flags = _flags(None, residual, None, None)
    _launch("spread_groups", threads, [*tensors, *numbers, flags], CHANNELS=channels, TIME=time, SPACE=space)


def patches(
    taps: torch.Tensor,
    history: torch.Tensor,
    scale: float,
    bias: torch.Tensor,
    shift: int,
    lowest: int,
    highest: int,
    out: torch.Tensor,
) -> None:
    frames, (height, width) = out.shape[1], taps.shape[1:3]
    patch = out.shape[2] // height
    numbers = [frames, height, width, shift, lowest, highest, _bits(scale)]
    _launch("patches", 3 * frames * patch * height * width, [taps, history, bias, out, *numbers], PATCH=patch)


def _launch(name: str, threads: int, args: list, **made_for: int) -> None:
    device, macros = args[0].device, tuple(made_for.items())
    if device.type == "meta":
        _expected.add((name, macros))
        return
    kernel = _kernel(name, device.index, macros)
    elsewhere = device.index != torch.cuda.current_device()  # seldom, and to enter a device takes as long as to launch
    with torch.cuda.device(device) if elsewhere else contextlib.nullcontext():
        kernel((threads + THREADS - 1) // THREADS, THREADS, args, device.index)


@functools.cache
def _kernel(name: str, device_index: int, made_for: tuple[tuple[str, int], ...]) -> compiled.Kernel:
    """Compiled for a device."""
    begin(torch.device("cuda", device_index))
    begun = _begun(name, device_index, made_for)
    if error := begun.exception():
        _binaries.pop((name, device_index, made_for), None)  # another try may be lucky, as there may be more memory
        # An error that is kept holds the memory of all frames that it has passed through.
        raise RuntimeError(str(error))
    with torch.cuda.device(device_index):
        return compiled.loaded(begun.result(), name)


def _begun(name: str, device_index: int, made_for: tuple[tuple[str, int], ...]) -> Future[bytes]:
    of = name, device_index, made_for
    if (begun := _binaries.get(of)) is None:
        with torch.cuda.device(device_index):
            begun = _binaries[of] = compiled.begun(_source(name, made_for), name)
    return begun


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def _bits(value: float) -> int:
    """A number as the kernels take it: in the place of an int."""
    return int(struct.unpack("i", struct.pack("f", value))[0])


def _source(name: str, made_for: tuple[tuple[str, int], ...]) -> str:
    macros = [f"#define {macro} {value}" for macro, value in ((name.upper(), 1), *made_for)]
    return "\n".join([*macros, SOURCE.read_text(encoding="utf-8")])


def _flags(
    bias: torch.Tensor | None, residual: torch.Tensor | None, x_out: torch.Tensor | None, y_out: torch.Tensor | None
) -> int:
    given = zip((BIAS, RESIDUAL, X_OUT, Y_OUT), (bias, residual, x_out, y_out))
    return sum(flag for flag, tensor in given if tensor is not None)


def _six(tensors: list[torch.Tensor]) -> list[torch.Tensor | None]:
    return [*tensors, *[None] * (6 - len(tensors))]


def _vector(channels: int) -> int:
    """V of kernels.cu."""
    return next(size for size in (8, 4, 2, 1) if channels % size == 0)


def _lanes(channels: int, most: int = 32) -> int:
    """L of kernels.cu, with 128 GL."""
    vectors = channels // _vector(channels)
    return min(most, 1 << (vectors - 1).bit_length())
