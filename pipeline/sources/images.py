"""Frames that are already in memory, handed over in chunks: an IMAGE, or what a decoder gave that cannot stream."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import torch

from ..sinks.audio import Sound
from ..stated import Stated
from . import exact_fps

CHUNK_FRAMES = 4


class ImageSource:
    """An IMAGE as a `Source`.

    Args:
        frames_thwc: (T, H, W, C >= 3) float in [0, 1], on any device; a fourth channel is transparency.
        fps: frames per second.
        alpha_thw1: transparency that goes before a fourth channel: (T, H, W, 1) float in [0, 1], on the same device.
        bit_depth: of what the frames were made from.
        sound: beside them.
    Raises:
        ValueError: other frames, or no frame rate.
    """

    chunk_frames = CHUNK_FRAMES
    stated = Stated()

    def __init__(
        self,
        frames_thwc: torch.Tensor,
        fps: Fraction | float,
        *,
        alpha_thw1: torch.Tensor | None = None,
        bit_depth: int = 8,
        sound: Sound | None = None,
    ):
        check_image(frames_thwc)
        self.frames_thwc = frames_thwc
        self.frames, self.height, self.width = frames_thwc.shape[:3]
        self.fps, self.bit_depth, self.sound = exact_fps(fps), bit_depth, sound
        self.alpha = alpha_thw1 is not None or frames_thwc.shape[-1] > 3
        self.device = lanes_device(frames_thwc)
        self._alpha_thw1 = alpha_thw1

    def decode(self, submit: Callable[[torch.Tensor], None]) -> None:
        feed(self.frames_thwc, submit, self.device, self.alpha, self._alpha_thw1)


def lanes_device(frames_thwc: torch.Tensor) -> torch.device:
    """Where the frames are handed over: where they are, or on the CPU if no lanes lead from there."""
    return frames_thwc.device if frames_thwc.device.type in ("cuda", "cpu") else torch.device("cpu")


def check_image(frames_thwc: object) -> None:
    """Refuse what is no IMAGE.

    Raises:
        ValueError: it is no tensor of floats (T, H, W, >= 3), each at least 1.
    """
    given = type(frames_thwc).__name__
    if isinstance(frames_thwc, torch.Tensor):
        given = f"{frames_thwc.dtype} {tuple(frames_thwc.shape)}"
        if (
            frames_thwc.ndim == 4
            and frames_thwc.is_floating_point()
            and frames_thwc.shape[-1] >= 3
            and 0 not in frames_thwc.shape
        ):
            return
    raise ValueError(
        f"The video's frames are {given}; expected floats of shape (frames, height, width, 3 or more channels), "
        "each at least 1. Whatever made this video is at fault."
    )


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
