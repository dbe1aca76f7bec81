"""Whether the fast decoder may be used with a VAE: a short piece of noise, decoded both ways and compared.

Tests hold the decoder's error against the stock decoder's. What they cannot know is a user's weights. The noise is the
same for everybody: a user's own latent may hold values that say nothing about the VAE. Who has a stock decoder
compares; who has none, such as a worker elsewhere, is told the difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

# (frames, height, width) of the latent: long enough for the steps that differ, and small, since what is in question are
# the weights. On a CPU smaller still: with Wan 2.2's 8x12 took 72 s of it, 2x3 take 16.
CHECKED = {"cuda": (3, 8, 12), "cpu": (3, 2, 3)}
# RMS, of values in [-1, 1]. The stock decoder's bfloat16 leaves up to 0.01; a wrong decoder is off by 0.3.
LARGEST_DIFFERENCE = 0.03


def noise(channels: int, device: torch.device) -> torch.Tensor:
    """The latent to decode, (1, C, T, h, w) float32 on `device`."""
    size = CHECKED[device.type]
    return torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(0)).to(device)


def difference(ours: torch.Tensor, stock: torch.Tensor) -> float:
    """RMS of what two decoders put out, of any one shape; NaN or infinity where one of them put out such."""
    return (ours.clamp(-1, 1) - stock.clamp(-1, 1)).square().mean().sqrt().item()


def finite(pieces: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """The same pieces of a video.

    Raises:
        OverflowError: after the last one, if any of them holds what is no finite number. That is what comes out where
            anything left float16's range on its way, since the norms make NaN of it, and NaN goes through the rest.
    Stream: the caller's current stream, which is waited for after the last piece only.
    """
    total = None
    for piece in pieces:
        total = piece.sum() if total is None else total + piece.sum()
        yield piece
    if total is not None and not total.isfinite():
        raise OverflowError("what it computes left the range of float16")
