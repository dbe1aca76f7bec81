"""The steps between convolutions, fused: one read and one write of memory instead of many.

Activations are (T, H, W, C), contiguous: channels last, so that a pixel's channels are one row, and a
convolution finds its input the way cuDNN's tensor-core kernels want it. Arithmetic is float32, whatever
the storage, which on CUDA is float16. Each step has a kernel for CUDA (`cuda`) and a plain-torch reference, for tests
on a CPU; the decoder that CPUs run is in `cpu`. On the meta device memory is taken as on CUDA, and nothing computed.
"""

from __future__ import annotations

import types

import torch

from . import cuda, reference


def _on(tensor: torch.Tensor) -> types.ModuleType:
    return reference if tensor.is_cpu else cuda


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
        y_out: (T, H, W, C) for y, or None; may be part of the next convolution's input, or `residual`.
        silu: False leaves the activation out.
    Stream: the caller's current stream.
    Source: Wan-Video/Wan2.1 wan/modules/vae.py, RMS_norm and ResidualBlock: x / max(|x|, 1e-12) * sqrt(C) * gamma.
    """
    _on(a).norm_silu(a, scale, bias, residual, gamma, x_out, y_out, silu)


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
    _on(products[0]).norm_silu_points(products, scale, bias, residual, gamma, x_out, y_out, history, points_out)


def depth_to_space(
    phases: torch.Tensor,
    bias: torch.Tensor,
    out: torch.Tensor,
    shortcut: torch.Tensor | None,
    shortcut_phase: tuple[int, int],
) -> None:
    """Spread four output phases over a frame of twice the size, adding bias and an upsampled shortcut.

    Args:
        phases: (T, H + 1, W + 1, 4 * C): what a 2x2 convolution with a padding of 1 gives.
            Large pixel (2 i + y, 2 j + x) is found at (i + y, j + x), in the channels of phase 2 y + x.
        bias: (C,) float32.
        out: (T, 2 H, 2 W, C), contiguous.
        shortcut: (T, H, W, C_in) input of Wan 2.2's upsampling block, or None.
        shortcut_phase: (k, factor_t): which of the `factor_t` frames made of one this is.
    Stream: the caller's current stream.
    Source of the shortcut: Wan-Video/Wan2.2 wan/modules/vae2_2.py, DupUp3D: output channel c at time phase k and
        space phase (y, x) is input channel ((c * factor_t + k) * 4 + 2 y + x) // (C * factor_t * 4 / C_in).
    """
    _on(phases).depth_to_space(phases, bias, out, shortcut, shortcut_phase)


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """softmax(q @ k.T / sqrt(C)) @ v, of one head.

    Args:
        q, k, v: (pixels, C), rows contiguous.
    Returns:
        (pixels, C) in their dtype.
    Stream: the caller's current stream.
    """
    return _on(q).attention(q, k, v)


def head(
    carried: torch.Tensor, frames: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The last convolution, to so few channels that cuDNN's kernels would mostly compute padding.

    What it is to remember of two frames is what they give to the next two: so many channels, not those of its input.

    Args:
        carried: (2, n, H, W) float32, of the frames before; zeros if there were none.
        frames: (T, H, W, C), the input.
        weight: (n <= 16, C, 3, 3, 3), in the frames' dtype.
        bias: (n,) float32.
    Returns:
        (n, T, H, W) float32, as rounding the pixels to bfloat16 would be most of the decoder's error; and what is
        `carried` for the frames that follow.
    Stream: the caller's current stream.
    """
    return _on(frames).head(carried, frames, weight, bias)


# For decoders that make several groups of four frames in a call, and look a frame ahead: see `ltx`.


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
    points_out: list[torch.Tensor] | None = None,
    y_out: torch.Tensor | None = None,
    padded: bool = False,
) -> None:
    """x = source * scale + bias + residual; y = silu(x / sqrt(mean(x^2) + eps) * gamma + beta), as frames or points.

    Args:
        source: six tensors (G, H, W, C), products of which each six make four frames; or frames (>= end, H, W, C).
        scale: of the source.
        bias: (C,) float32, or None.
        residual: (T, H, W, C), or None.
        before: (2, H, W, C) the two frames before `residual`, which then is added two frames late; or None.
        x_out: (end, H, W, C) for x, or None; may be `residual`, late or not.
        x_history: (2, H, W, C) for the last two frames of `residual`; given where `before` is, and may be it.
        eps: None: y is x.
        affine: (gamma, beta), each (C,) float32; None: 1 and 0.
        history: (2, H, W, C) the last two frames of y before these; overwritten by the last two that are in points.
        first: the video's first frame in the source, at most 3: what is before it, history too, counts as it. -1: the
            video began earlier.
        end: how many frames of the source are of the video: what is behind them counts as the last one.
        points_out: six tensors (G', H', W', C) for the points of history and y; may be `source` where sizes agree.
        y_out: (end, H', W', C) for y.
        padded: whether these have a pixel more all around, as reflected.
    Stream: the caller's current stream.
    """
    _on(source[0]).norm_silu_groups(
        source,
        scale,
        bias,
        residual,
        before,
        x_out,
        x_history,
        eps,
        affine,
        history,
        first,
        end,
        points_out,
        y_out,
        padded,
    )


def spread_groups(
    products: list[torch.Tensor],
    bias: torch.Tensor,
    factors: tuple[int, int],
    residual: torch.Tensor | None,
    before: torch.Tensor | None,
    out: torch.Tensor,
) -> None:
    """Channels to time and space, adding bias and a shortcut.

    Args:
        products: six tensors (G, H, W, phases * C), of a convolution; phase (t * s + y) * s + x.
        bias: (phases * C,) float32.
        factors: (of time, s).
        residual: (T, H, W, C_in) what went into the convolution, or None. Its channel c * phases + phase is added to
            every (C_in / phases)th output channel from c on.
        before: (1, H, W, C_in) the frame before it, which then is added a frame late; or None.
        out: (T', s * H, s * W, C), of at most 4 G times the factor of time.
    Stream: the caller's current stream.
    """
    _on(out).spread_groups(products, bias, factors, residual, before, out)


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
    """The last convolution's sum over time, each pixel a patch of the frame.

    Args:
        taps: (T, H, W, 3 * n) what each of its three taps in time makes of a frame, channels (tap, colour, y, x).
        history: (2, H, W, 3 * n) of the frames before.
        scale: of these.
        bias: (n,) float32.
        shift, lowest, highest: frame t is the sum of tap k of frames t + shift + k, from `lowest` to `highest` at most.
        out: (3, T', p * H, p * W) float32.
    Stream: the caller's current stream.
    """
    _on(taps).patches(taps, history, scale, bias, shift, lowest, highest, out)
