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


def head(history: torch.Tensor, frames: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The last convolution, to so few channels that cuDNN's kernels would mostly compute padding.

    Args:
        history: (2, H, W, C), the two frames before.
        frames: (T, H, W, C), the input.
        weight: (n <= 16, C, 3, 3, 3), in the frames' dtype.
        bias: (n,) float32.
    Returns:
        (n, T, H, W) float32: rounding the pixels to bfloat16 would be most of the decoder's error.
    Stream: the caller's current stream.
    """
    return _on(frames).head(history, frames, weight, bias)
