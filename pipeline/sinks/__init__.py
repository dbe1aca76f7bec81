"""Where frames go. A sink names the pixels it wants and is driven by the sink thread."""

from __future__ import annotations

from typing import Protocol

import torch

from ..pixels import PixelFormat
from ..video_spec import VideoSpec


class Sink(Protocol):
    """`open` once, `write` for each chunk, then `close` or `abort`; after either, `open` may start anew.

    Attributes:
        pixel_format: the pixels it wants.
        name, advice: for the verdict on a run that had to wait for it: what it is, and what would make it
            faster, or "": "the encoder", "a lower quality".
        held_frames: how many it has taken and not put out yet.
    """

    pixel_format: PixelFormat
    name: str
    advice: str
    held_frames: int

    def open(self, spec: VideoSpec) -> None:
        """Get ready, before decoding starts, on the caller's thread; raise what makes writing impossible."""

    def write(self, pixels: torch.Tensor) -> None:
        """Take (T, *frame_shape) pixels on the CPU, on the sink thread; they are overwritten after return."""

    def close(self) -> None:
        """All frames are written: finish, on the sink thread."""

    def abort(self) -> None:
        """Leave nothing behind, on the caller's thread; must not raise, may come before `open` or after `close`."""
