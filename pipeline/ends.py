"""The first and the last frame of a run, beside its sinks: two frames more in memory, and no pass of their own."""

from __future__ import annotations

import torch

from .pixels import PixelFormat, convert
from .video_spec import VideoSpec


class Ends:
    """Keeps the first and the last frame that a run submits to its lanes, as IMAGEs.

    Begun anew by each run, so that nothing of one that failed stays.

    Args:
        dtype: torch.float32 or torch.float16.
    """

    def __init__(self, dtype: torch.dtype = torch.float32):
        self._dtype = dtype
        self._spec: VideoSpec | None = None
        self._first_cthw: torch.Tensor | None = None
        self._last_cthw: torch.Tensor | None = None

    def begin(self, spec: VideoSpec) -> None:
        """A run begins, of frames like these."""
        self._spec = spec
        self._first_cthw = self._last_cthw = None

    def see(self, frames_cthw: torch.Tensor, is_last: bool) -> None:
        """Copy what is wanted of a chunk, on the caller's current stream: the decoder may reuse its memory after it."""
        if self._first_cthw is None:
            self._first_cthw = frames_cthw[:, :1].clone()
        if is_last:
            self._last_cthw = frames_cthw[:, -1:].clone()

    def images(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The first and the last frame, after the run: (1, H, W, 3) each, on the CPU, with the bits of a `TensorSink`.

        Stream: converts on the caller's current stream, and waits for it.
        """
        assert self._spec is not None and self._first_cthw is not None and self._last_cthw is not None, "nothing ran"
        return self._image(self._first_cthw, self._spec), self._image(self._last_cthw, self._spec)

    def _image(self, frame_cthw: torch.Tensor, spec: VideoSpec) -> torch.Tensor:
        pixels = PixelFormat("image", 16 if self._dtype is torch.float16 else 32)
        shape = (1, *pixels.frame_shape(spec.height, spec.width))
        image = torch.empty(shape, dtype=pixels.dtype, device=frame_cthw.device)
        convert(frame_cthw, spec.zero_centred, pixels, image, spec.clamped)
        return image.cpu()
