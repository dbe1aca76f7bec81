"""Where frames come from that no model has to decode: images in memory, and files. The counterpart of `sinks/`."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any, Protocol

import torch

from ..number import number_of
from ..sinks.audio import Sound
from ..stated import Stated
from ..video_spec import VideoSpec


class Source(Protocol):
    """Frames with their sound. What a saver must know is told without decoding all of it.

    Attributes:
        frames, height, width: number and size of the pictures, upright, each >= 1.
        fps: pictures a second, see `exact_fps`.
        bit_depth: bits of each colour, as stored.
        alpha: whether it has transparency.
        sound: what is heard beside the pictures, however long; None for silence.
        stated: what else is said of the pictures, as they are delivered.
        device: where the chunks are, "cuda" or "cpu".
        chunk_frames: how many pictures a chunk holds at most.
        frames_thwc: all pictures, (T, H, W, >= 3), where they are in memory anyway; else None.
    """

    frames: int
    height: int
    width: int
    fps: Fraction
    bit_depth: int
    alpha: bool
    sound: Sound | None
    stated: Stated
    device: torch.device
    chunk_frames: int
    frames_thwc: torch.Tensor | None

    def decode(self, submit: Callable[[torch.Tensor], None]) -> None:
        """Deliver all pictures, from the first one each time it is called.

        Args:
            submit: gets (3, T, H, W) floats in [0, 1] on `device`, (4, T, H, W) with alpha; what it raises ends the
                decode and comes out of it. Either way nothing is left open.
        """


def spec_of(source: Source) -> VideoSpec:
    """What `source.decode` will deliver, as the engine is told it."""
    return VideoSpec(
        source.frames, source.height, source.width, source.device, zero_centred=False, clamped=False, alpha=source.alpha
    )


def exact_fps(rate: Any) -> Fraction:
    """A frame rate as a fraction that containers can hold: 24000/1001 as it is, 23.976 as 2997/125.

    Raises:
        ValueError: it is no number above 0, or so near to 0 that no container can hold it.
    """
    try:
        fps = Fraction(number_of(rate)).limit_denominator(10_000)
    except ValueError:
        fps = Fraction(0)
    if fps <= 0:
        raise ValueError(f"the frame rate of a video must be a number above 0, got {ascii(rate)[:100]}")
    return fps
