"""Packed pixels as the frames FFmpeg takes, tagged with what they are."""

from __future__ import annotations

import av
import torch

from ..pixels import PixelFormat

# ITU-T H.273 code points; ranges as FFmpeg numbers them.
PRIMARIES_BT709 = 1
TRANSFER_BT709, TRANSFER_LINEAR, TRANSFER_SRGB = 1, 8, 13
MATRIX_RGB, MATRIX_BT709, MATRIX_BT601, MATRIX_BT2020 = 0, 1, 6, 9
LIMITED_RANGE, FULL_RANGE = 1, 2


def colour_tags(pixel_format: PixelFormat) -> dict[str, int]:
    """`color_primaries`, `color_trc`, `colorspace` and `color_range` for a codec context.

    Choosing BT.601 changes the matrix only: the colours that R, G and B stand for are the same.
    """
    if not pixel_format.is_yuv:
        return {
            "color_primaries": pixel_format.primaries or PRIMARIES_BT709,
            "color_trc": TRANSFER_LINEAR if pixel_format.layout == "linear" else pixel_format.transfer or TRANSFER_SRGB,
            "colorspace": MATRIX_RGB,
            "color_range": FULL_RANGE,
        }
    return {
        "color_primaries": pixel_format.primaries or PRIMARIES_BT709,
        "color_trc": pixel_format.transfer or TRANSFER_BT709,
        "colorspace": {"bt709": MATRIX_BT709, "bt601": MATRIX_BT601, "bt2020": MATRIX_BT2020}[pixel_format.matrix],
        "color_range": FULL_RANGE if pixel_format.full_range else LIMITED_RANGE,
    }


def to_frame(packed: torch.Tensor, pixel_format: PixelFormat, height: int, width: int) -> av.VideoFrame:
    """One packed frame, copied into a frame that FFmpeg owns: the slot is reused once `write` returns.

    Args:
        packed: (1, *pixel_format.frame_shape(height, width)) on the CPU; any format but "image".
        height, width: before odd sizes are grown.
    """
    stored_height, stored_width = pixel_format.stored_size(height, width)
    frame = av.VideoFrame(stored_width, stored_height, pixel_format.av_name)
    for source, plane in zip(pixel_format.planes(packed, height, width), frame.planes):
        # FFmpeg takes no halves: as floats they are the same.
        dtype = torch.float32 if source.dtype == torch.float16 else source.dtype
        rows = torch.frombuffer(plane, dtype=dtype).view(plane.height, -1)
        source = source[0].reshape(plane.height, -1)
        rows[:, : source.shape[1]].copy_(source)
    for tag, value in colour_tags(pixel_format).items():
        # Before PyAV 17, frames have no primaries and no transfer; the encoder's context tells them.
        if hasattr(frame, tag):
            setattr(frame, tag, value)
    return frame
