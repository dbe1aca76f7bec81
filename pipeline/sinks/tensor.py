"""All frames in one CPU tensor: ComfyUI's IMAGE."""

from __future__ import annotations

import torch

from ..main_memory import in_huge_pages
from ..pixels import PixelFormat
from ..video_spec import VideoSpec


class TensorSink:
    """Collects the frames of a run.

    Args:
        dtype: torch.float32 or torch.float16.
        alpha: keep a fourth channel.
    Attributes:
        frames_thwc: (T, H, W, 3 or 4) contiguous CPU tensor in [0, 1] after the run; None before and after an abort.
    Raises:
        ValueError: another dtype.
    """

    name = "main memory"
    advice = ""
    held_frames = 0

    def __init__(self, dtype: torch.dtype = torch.float32, alpha: bool = False):
        bits = {torch.float32: 32, torch.float16: 16}
        if dtype not in bits:
            raise ValueError(f"a tensor sink holds float32 or float16, got {dtype}")
        self.pixel_format = PixelFormat("image", bits[dtype], alpha)
        self.frames_thwc: torch.Tensor | None = None
        self._written = 0

    def open(self, spec: VideoSpec) -> None:
        shape = (spec.frames, *self.pixel_format.frame_shape(spec.height, spec.width))
        self.frames_thwc = in_huge_pages(shape, self.pixel_format.dtype)
        self._written = 0

    def write(self, pixels: torch.Tensor) -> None:
        assert self.frames_thwc is not None, "open it first"
        end = self._written + pixels.shape[0]
        self.frames_thwc[self._written : end].copy_(pixels)
        self._written = end

    def finish(self) -> None:
        pass

    def publish(self) -> None:
        pass

    def abort(self) -> None:
        self.frames_thwc = None
