"""Now and then a small picture of the newest frame, beside another sink, for somebody who watches."""

from __future__ import annotations

import io
import time

import av
import numpy as np
import torch

from ..pixels import SUBSAMPLING, PixelFormat, displayable
from ..video_spec import VideoSpec
from .frames import to_frame

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

    name = "the latest frame"
    advice = ""
    held_frames = 0

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
        planes = (plane[0].numpy() for plane in self.pixel_format.planes(pixels[-1:], self._height, self._width))
        self._thinned = [plane[:: self._step, :: self._step].copy() for plane in planes]

    def finish(self) -> None:
        pass

    def publish(self) -> None:
        pass

    def abort(self) -> None:
        pass

    def take_jpeg(self) -> bytes | None:
        """A JPEG of the frame kept since the last call, LONGER_SIDE pixels at most; None if there is none."""
        thinned, self._thinned = self._thinned, None
        if thinned is None:
            return None
        file = io.BytesIO()
        # The colours are taken from the frame's tags.
        image = self._frame(thinned).to_image(dst_color_range="JPEG")
        image.thumbnail((LONGER_SIDE, LONGER_SIDE))
        image.save(file, "JPEG", quality=JPEG_QUALITY)
        return file.getvalue()

    def _frame(self, thinned: list[np.ndarray]) -> av.VideoFrame:
        # Thinned, luma and chroma may disagree by a row or column: the size is what both have.
        across, down = SUBSAMPLING.get(self.pixel_format.layout, (0, 0))
        chroma = thinned[1] if len(thinned) > 1 else thinned[0]
        height = min(thinned[0].shape[0] >> down, chroma.shape[0])
        width = min(thinned[0].shape[1] >> across, chroma.shape[1])
        sizes = [(height << down, width << across), (height, width), (height, width), (height << down, width << across)]
        packed = np.concatenate([plane[:rows, :columns].reshape(-1) for plane, (rows, columns) in zip(thinned, sizes)])
        shape = (1, *self.pixel_format.frame_shape(height << down, width << across))
        shown, pixel_format = displayable(torch.from_numpy(packed).view(shape), self.pixel_format)
        return to_frame(shown, pixel_format, height << down, width << across)
