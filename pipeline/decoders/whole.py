"""Frames that are already there, handed over in chunks: for decoders that cannot stream."""

from __future__ import annotations

from collections.abc import Callable

import torch


def feed(frames_thwc: torch.Tensor, submit: Callable[[torch.Tensor], None], chunk_frames: int = 4) -> None:
    """Submit an IMAGE chunk by chunk.

    Args:
        frames_thwc: (T, H, W, C >= 3) float in [0, 1]; channels past the third (alpha) are left out.
        submit: receives (3, t, H, W) views of it, t <= chunk_frames.
        chunk_frames: frames a call.
    """
    for chunk in frames_thwc.split(chunk_frames):
        submit(chunk[..., :3].permute(3, 0, 1, 2))
