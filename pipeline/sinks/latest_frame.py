"""Now and then a small picture of the newest frame, beside another sink, for somebody who watches."""

from __future__ import annotations

import io
import time

import av
import numpy as np
import torch

from ..pixels import PixelFormat, even_size, planes
from ..video_spec import VideoSpec
from .video_file import BT709, LIMITED_RANGE

SECONDS_BETWEEN = 1.0
LONGER_SIDE = 320
JPEG_QUALITY = 80


class LatestFrame:
    """Keeps every so often a thinned copy of a frame, which another thread makes a JPEG of.

    All that the sink thread does is to copy every n-th pixel of one frame a second: 0.2 ms, from 720p to 2160p
    (4 cores, all busy, 2026-11-21). That costs a lane 0.02 % even where it is the one that is behind, and a slow
    encoder is where a user wants to see something; so it is not skipped there.

    Args:
        pixel_format: that of the sink it stands beside, whose buffers it reads.
    """

    name = "the preview"
    advice = ""

    def __init__(self, pixel_format: PixelFormat):
        self.pixel_format = pixel_format
        self._next_seconds = 0.0
        self._thinned: list[np.ndarray] | None = None

    def open(self, spec: VideoSpec) -> None:
        self._height, self._width = spec.height, spec.width
        # Twice the size it is shown at, so that scaling down smooths what thinning out made rough.
        self._step = -(-max(spec.height, spec.width) // (2 * LONGER_SIDE))

    def write(self, pixels: torch.Tensor) -> None:
        now = time.perf_counter()
        if now < self._next_seconds:
            return
        self._next_seconds = now + SECONDS_BETWEEN
        # NumPy, because torch would spread so much as this over threads, which the encoder's would hold up.
        yuv = (plane[0].numpy() for plane in planes(pixels[-1:], *even_size(self._height, self._width)))
        self._thinned = [plane[:: self._step, :: self._step].copy() for plane in yuv]

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass

    def take_jpeg(self) -> bytes | None:
        """A JPEG of the frame kept since the last call, LONGER_SIDE pixels at most; None if there is none."""
        thinned, self._thinned = self._thinned, None
        if thinned is None:
            return None
        file = io.BytesIO()
        image = self._frame(thinned).to_image(src_colorspace="ITU709", src_color_range="MPEG", dst_color_range="JPEG")
        image.thumbnail((LONGER_SIDE, LONGER_SIDE))
        image.save(file, "JPEG", quality=JPEG_QUALITY)
        return file.getvalue()

    def _frame(self, thinned: list[np.ndarray]) -> av.VideoFrame:
        # Luma may have come out one row or column longer than twice the chroma.
        height, width = (2 * size for size in thinned[1].shape)
        frame = av.VideoFrame(width, height, "yuv420p")
        for source, plane in zip(thinned, frame.planes):
            if source.dtype == np.int16:
                source = source >> 2  # 10-bit codes
            rows = np.frombuffer(plane, np.uint8).reshape(plane.height, -1)
            rows[:, : plane.width] = source[: plane.height, : plane.width]
        frame.colorspace, frame.color_range = BT709, LIMITED_RANGE
        return frame
