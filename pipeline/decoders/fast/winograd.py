"""Convolutions over three frames by fewer products: Winograd's algorithm, along time.

Four frames of a causal convolution need 4 x 3 products of a frame with a 3x3 kernel. Seen as polynomials in time, six
products at six points determine them as well; for two frames it is four products instead of six. The products are
plain 2-D convolutions, which cuDNN does best, and take half (two thirds) of the arithmetic.

    points of the input   = INPUT  @ the frames, two of history first
    points of the weights = WEIGHT @ the three taps, once
    frames of the output  = OUTPUT @ (points of the input * points of the weights)

Sums and differences of frames lose bits, so points are float16, not bfloat16: with its three more bits, four frames
made this way have 0.36 times the error of bfloat16 convolutions on noise, and 0.19 times where frames resemble each
other. `fit` scales the weights so that no product can leave float16's range.

Sources: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015), section 4; the points for four
frames (0, -1, 1, 1/2, -2, infinity) from Barabasz et al., "Error Analysis and Improving the Accuracy of Winograd
Convolution" (2020). Rows are scaled by powers of two to be of a size.
"""

from __future__ import annotations

import math

import torch

# By the number of frames made at a time. The last point is infinity: only the newest frame and the newest tap count.
INPUT = {
    2: ((-0.5, 0, 0.5, 0), (0, 0.5, 0.5, 0), (0, -0.5, 0.5, 0), (0, -0.5, 0, 0.5)),
    4: (
        (0.25, -0.375, -0.5, 0.375, 0.25, 0),
        (0, 0.25, -0.625, 0.125, 0.25, 0),
        (0, -0.25, 0.125, 0.625, 0.25, 0),
        (0, -0.5, -0.25, 0.5, 0.25, 0),
        (0, 0.25, -0.5, -0.25, 0.5, 0),
        (0, 0.25, -0.375, -0.5, 0.375, 0.25),
    ),
}
WEIGHT = {
    2: ((-1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
    4: (
        (1, 0, 0),
        (-2 / 3, 2 / 3, -2 / 3),
        (2 / 3, 2 / 3, 2 / 3),
        (-16 / 15, -8 / 15, -4 / 15),
        (4 / 15, -8 / 15, 16 / 15),
        (0, 0, 1),
    ),
}
OUTPUT = {
    2: ((2, 2, 2, 0), (0, 2, -2, 2)),
    4: ((4, 2, 2, 4, 0.5, 0), (0, -2, 2, 2, -1, 0), (0, 2, 2, 1, 2, 0), (0, -2, 2, 0.5, -4, 4)),
}
# The same for two rows of a frame, on CPUs: sums and differences of rows, which `cpu` makes without a matrix.
ROWS_WEIGHT = ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1))
# Half of float16's largest number, so that rounding cannot reach that.
LARGEST_PRODUCT = 32768.0


def weight_points(weight: torch.Tensor, frames: int, largest_input: float) -> tuple[torch.Tensor, float]:
    """The points of a convolution's weights, fitted to float16.

    Args:
        weight: (out, in, 3, 3, 3) float32; the last tap in time is the newest frame's.
        frames: 2 or 4, made at a time.
        largest_input: a bound on the length of a pixel's vector of channels in any input frame.
    Returns:
        ((points, out, in, 3, 3) float32, what products are to be multiplied by).
    """
    points = torch.einsum("pk,oikyx->poiyx", matrix(WEIGHT[frames], weight), weight)
    # A point of the input is a sum of frames, and a product one of nine such vectors with a row of weights.
    growth = max(sum(map(abs, row)) for row in INPUT[frames])
    scaled, scale = fit(points.flatten(0, 1), 9**0.5 * growth * largest_input)
    return scaled.unflatten(0, points.shape[:2]), scale


def row_points(weight: torch.Tensor, frames: int) -> list[list[torch.Tensor]]:
    """The points of a convolution's weights in time and in rows, for `cpu`.

    Args:
        weight: (out, in, 3, 3, 3) float32; the last tap in time is the newest frame's.
        frames: made at a time; with 1 the taps in time are side by side, (out, 3 * in), and not transformed.
    Returns:
        For each point of time four tensors (out, in, 3) float32, the points of rows.
    """
    # In float64, as the rounding here would be most of the error.
    exact = weight.double()
    if frames == 1:
        points = exact.transpose(1, 2).flatten(1, 2).unsqueeze(0)
    else:
        points = torch.einsum("pk,oikyx->poiyx", matrix(WEIGHT[frames], exact), exact)
    by_rows = torch.einsum("qy,poiyx->pqoix", matrix(ROWS_WEIGHT, exact), points).float()
    return [list(point) for point in by_rows]


def fit(weight: torch.Tensor, largest_input: float) -> tuple[torch.Tensor, float]:
    """Weights scaled as far up as they and all sums of products with them stay within float16.

    Args:
        weight: (out, ...) float32.
        largest_input: a bound on the length of the vector that a row of weights is multiplied with.
    Returns:
        (weights, what the sums are to be multiplied by to undo the scaling: a power of two).
    Raises:
        ValueError: there are weights that are no finite numbers.
    """
    largest_sum = weight.flatten(1).norm(dim=1).max().item() * largest_input
    # Not above 1 for the largest weight: there is no more to be won.
    room = min(LARGEST_PRODUCT / max(largest_sum, 1e-30), 1.0 / max(weight.abs().max().item(), 1e-30))
    if not math.isfinite(largest_sum):
        raise ValueError("the weights are not finite numbers")
    scale = 2.0 ** math.floor(math.log2(room))
    return weight * scale, 1.0 / scale


def matrix(rows: tuple[tuple[float, ...], ...], like: torch.Tensor) -> torch.Tensor:
    """One of the matrices above as a tensor, in the dtype and on the device of another."""
    return torch.tensor(rows, dtype=like.dtype, device=like.device)
