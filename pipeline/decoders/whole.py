"""Frames that are already there, handed over in chunks: for decoders that cannot stream."""

from __future__ import annotations

from collections.abc import Callable

import torch


CHUNK_FRAMES = 4


def feed(
    frames_thwc: torch.Tensor,
    submit: Callable[[torch.Tensor], None],
    device: torch.device,
    alpha: bool = False,
    alpha_thw1: torch.Tensor | None = None,
) -> None:
    """Submit an IMAGE chunk by chunk.

    Args:
        frames_thwc: (T, H, W, C >= 3) float in [0, 1], on any device.
        submit: receives (3, t, H, W) on `device`, t <= CHUNK_FRAMES; or (4, t, H, W) with alpha. Without an
            `alpha_thw1` they are views where `device` is the frames' own.
        alpha: whether transparency goes along, from `alpha_thw1`, or else from the frames' fourth channel.
        alpha_thw1: (T, H, W, 1) float in [0, 1], on the device of the frames.
    """
    for first in range(0, len(frames_thwc), CHUNK_FRAMES):
        where = slice(first, first + CHUNK_FRAMES)
        chunk = frames_thwc[where, ..., : 4 if alpha else 3]
        if alpha and alpha_thw1 is not None:
            chunk = torch.cat((chunk[..., :3], alpha_thw1[where].to(chunk)), dim=-1)
        submit(chunk.to(device).permute(3, 0, 1, 2))
