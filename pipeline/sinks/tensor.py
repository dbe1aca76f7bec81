"""All frames in one CPU tensor: ComfyUI's IMAGE."""

from __future__ import annotations

import torch

from ..pixels import PixelFormat
from ..video_spec import VideoSpec


class TensorSink:
    """Collects the frames of a run.

    Args:
        dtype: torch.float32 or torch.float16.
    Attributes:
        frames_thwc: (T, H, W, 3) contiguous CPU tensor in [0, 1] after the run; None before and after an abort.
    Raises:
        ValueError: another dtype.
    """

    name = "main memory"
    advice = ""

    def __init__(self, dtype: torch.dtype = torch.float32):
        formats = {torch.float32: PixelFormat.RGB_F32, torch.float16: PixelFormat.RGB_F16}
        if dtype not in formats:
            raise ValueError(f"a tensor sink holds float32 or float16, got {dtype}")
        self.pixel_format = formats[dtype]
        self.frames_thwc: torch.Tensor | None = None
        self._written = 0

    def open(self, spec: VideoSpec) -> None:
        self.frames_thwc = torch.empty((spec.frames, spec.height, spec.width, 3), dtype=self.pixel_format.dtype)
        self._written = 0

    def write(self, pixels: torch.Tensor) -> None:
        end = self._written + pixels.shape[0]
        self.frames_thwc[self._written : end].copy_(pixels)
        self._written = end

    def close(self) -> None:
        pass

    def abort(self) -> None:
        self.frames_thwc = None
