"""Decoder output -> the pixels a sink asked for, in one place, on the device the frames are on.

Owns every number about colour. The arithmetic is written as separate elementwise torch operations
in float32: each rounds alike on CPU and CUDA (no fused multiply-add, no division by a scalar, which
CUDA replaces by a reciprocal), so both devices give the same bits.
"""

from __future__ import annotations

from enum import Enum

import torch

# ITU-R BT.709-6, section 3: luma weights of R, G and B, and the scale of the colour differences.
KR, KG, KB = 0.2126, 0.7152, 0.0722
CB_SCALE = 1.0 / (2.0 * (1.0 - KB))
CR_SCALE = 1.0 / (2.0 * (1.0 - KR))


class PixelFormat(Enum):
    """How a sink wants its frames.

    RGB_F32, RGB_F16: (T, H, W, 3) in [0, 1], bit for bit what ComfyUI's VAE post-processing gives.
    RGB24: (T, H, W, 3) uint8, rounded to nearest.
    YUV420P, YUV420P10: (T, n) planar Y, U, V of one frame after another, BT.709 limited range;
        uint8, and int16 holding 10-bit codes. H and W are the even sizes of `even_size`.
    """

    RGB_F32 = "rgb_f32"
    RGB_F16 = "rgb_f16"
    RGB24 = "rgb24"
    YUV420P = "yuv420p"
    YUV420P10 = "yuv420p10le"

    @property
    def dtype(self) -> torch.dtype:
        return _DTYPES[self]

    def frame_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Shape of one frame of `height` x `width` pixels in this format."""
        if self in _YUV_BITS:
            even_height, even_width = even_size(height, width)
            return (even_height * even_width * 3 // 2,)
        return (height, width, 3)


_DTYPES = {
    PixelFormat.RGB_F32: torch.float32,
    PixelFormat.RGB_F16: torch.float16,
    PixelFormat.RGB24: torch.uint8,
    PixelFormat.YUV420P: torch.uint8,
    PixelFormat.YUV420P10: torch.int16,
}
_YUV_BITS = {PixelFormat.YUV420P: 8, PixelFormat.YUV420P10: 10}


def even_size(height: int, width: int) -> tuple[int, int]:
    """The size a 4:2:0 frame is stored at: odd sizes grow by one repeated row or column."""
    return height + height % 2, width + width % 2


def planes(packed: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, ...]:
    """Y, U and V views of packed 4:2:0 frames.

    Args:
        packed: (T, n) as `PixelFormat.frame_shape` gives it.
        height, width: the even size the frames are stored at.
    Returns:
        (T, H, W), (T, H/2, W/2), (T, H/2, W/2) views of `packed`.
    """
    frames, luma, chroma = packed.shape[0], height * width, height * width // 4
    return (
        packed[:, :luma].view(frames, height, width),
        packed[:, luma : luma + chroma].view(frames, height // 2, width // 2),
        packed[:, luma + chroma :].view(frames, height // 2, width // 2),
    )


def convert(frames_cthw: torch.Tensor, signed: bool, pixel_format: PixelFormat, out: torch.Tensor) -> None:
    """Write decoder output into a sink's pixel format.

    Args:
        frames_cthw: (3, T, H, W), any float dtype; left unchanged.
        signed: whether the values span [-1, 1] or [0, 1]; what lies outside is clamped.
        pixel_format: what to write.
        out: (T, *pixel_format.frame_shape(H, W)) of `pixel_format.dtype`, on the frames' device.

    NaN stays NaN in the float formats, as in ComfyUI, and becomes 0 in the integer ones.
    Stream: runs on the caller's current stream; never synchronises.
    """
    if pixel_format in (PixelFormat.RGB_F32, PixelFormat.RGB_F16):
        out.copy_(_unit(frames_cthw, signed, pixel_format.dtype).permute(1, 2, 3, 0))
        return
    unit_cthw = _unit(frames_cthw, signed, torch.float32).nan_to_num_(nan=0.0)
    if pixel_format is PixelFormat.RGB24:
        out.copy_(unit_cthw.mul_(255.0).round_().permute(1, 2, 3, 0))
    else:
        _write_yuv420(unit_cthw, _YUV_BITS[pixel_format], out)


def _unit(frames_cthw: torch.Tensor, signed: bool, dtype: torch.dtype) -> torch.Tensor:
    """Frames in [0, 1], with the operations, their order and their dtype as in ComfyUI's VAE."""
    unit = frames_cthw.to(dtype, copy=True)
    if signed:
        unit.add_(1.0).div_(2.0)
    return unit.clamp_(0.0, 1.0)


def _write_yuv420(rgb_cthw: torch.Tensor, bits: int, out: torch.Tensor) -> None:
    """RGB in [0, 1] -> BT.709 limited range 4:2:0 codes, rounded to nearest.

    Source: ITU-R BT.709-6 sections 3.2-3.5 (matrix, quantisation). Chroma is sited as H.264 assumes
    by default (chroma_sample_loc_type 0: on the left luma column, midway between two rows), hence
    the (1, 2, 1) / 4 filter across and the plain mean down.
    """
    height, width = rgb_cthw.shape[-2:]
    even_height, even_width = even_size(height, width)
    if (even_height, even_width) != (height, width):
        pad = (0, even_width - width, 0, even_height - height)
        rgb_cthw = torch.nn.functional.pad(rgb_cthw, pad, mode="replicate")
    red, green, blue = rgb_cthw
    luma = red.mul(KR).add_(green.mul(KG)).add_(blue.mul(KB))
    step = float(1 << (bits - 8))  # one 8-bit code in codes of this depth
    out_y, out_u, out_v = planes(out, even_height, even_width)
    for colour, scale, out_chroma in ((blue, CB_SCALE, out_u), (red, CR_SCALE, out_v)):
        chroma = _halve((colour - luma).mul_(scale))
        out_chroma.copy_(chroma.mul_(224.0 * step).add_(128.0 * step).round_())
    out_y.copy_(luma.mul_(219.0 * step).add_(16.0 * step).round_())


def _halve(plane_thw: torch.Tensor) -> torch.Tensor:
    """(T, H, W) -> (T, H/2, W/2), sited on the left column of each pair (see `_write_yuv420`)."""
    rows = plane_thw[:, 0::2].add(plane_thw[:, 1::2]).mul_(0.5)
    centre, right = rows[..., 0::2], rows[..., 1::2]
    left = torch.cat((rows[..., :1], right[..., :-1]), dim=-1)  # the first column repeats beyond the edge
    return left.add_(right).mul_(0.25).add_(centre.mul(0.5))
