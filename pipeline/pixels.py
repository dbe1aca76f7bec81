"""Decoder output -> the pixels a sink asked for, in one place, on the device the frames are on.

Owns every number about colour. The arithmetic is written as separate elementwise torch operations
in float32: each rounds alike on CPU and CUDA (no fused multiply-add, no division by a scalar, which
CUDA replaces by a reciprocal), so both devices give the same bits.
"""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch

# Luma weights of R, G and B. ITU-R BT.709-6, section 3; ITU-R BT.601-7, section 2.5.1; ITU-R BT.2020-2, table 4.
MATRICES = {"bt709": (0.2126, 0.7152, 0.0722), "bt601": (0.299, 0.587, 0.114), "bt2020": (0.2627, 0.6780, 0.0593)}
# log2 of how many columns and rows share one chroma sample.
SUBSAMPLING = {"yuv420": (1, 1), "yuv422": (1, 0), "yuv444": (0, 0)}
# Order of the samples; "bgr" always has a fourth byte.
ORDERS = {"rgb": (0, 1, 2), "bgr": (2, 1, 0), "gbr": (1, 2, 0)}

HALF_MAX = 65504.0

Plane = Any  # a torch.Tensor or a NumPy array
Planes = Any  # several


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """How a sink wants its frames.

    Attributes:
        layout: "image": (T, H, W, C) float in [0, 1], bit for bit what ComfyUI's VAE post-processing gives.
            "rgb": (T, H, W, C) integers. "bgr": the same the other way round, always with a fourth byte, 255 without
            alpha. "gbr": (T, n) planar G, B, R of one frame after another. "yuv420", "yuv422", "yuv444": (T, n)
            planar Y, U, V of one frame after another, at `stored_size`. "linear": (T, n) planar G, B, R half floats of
            one frame after another, in linear light, times alpha where there is one; NaN is 0.
        bits: per component; of "image" 32 or 16, of "linear" 16. Above 8, integers are held in int16, of 16 bits as
            their bits.
        alpha: a fourth component; all opaque where the frames have none. Full range always.
        matrix: a key of MATRICES, for YUV.
        full_range: YUV codes from 0 to 2^bits - 1, not 16 to 235 (chroma 240) times 2^(bits - 8).
        dither: ordered dithering in place of rounding to nearest; not for "image" and "linear".
        primaries, transfer: which colours R, G and B stand for, see `Stated`: told, not converted to.
    """

    layout: str
    bits: int = 8
    alpha: bool = False
    matrix: str = "bt709"
    full_range: bool = False
    dither: bool = False
    primaries: int = 0
    transfer: int = 0

    RGB_F32: ClassVar[PixelFormat]
    RGB_F16: ClassVar[PixelFormat]
    RGB24: ClassVar[PixelFormat]
    YUV420P: ClassVar[PixelFormat]
    YUV420P10: ClassVar[PixelFormat]

    @property
    def dtype(self) -> torch.dtype:
        if self.layout == "image":
            return {32: torch.float32, 16: torch.float16}[self.bits]
        if self.layout == "linear":
            return torch.float16
        return torch.uint8 if self.bits == 8 else torch.int16

    @property
    def is_yuv(self) -> bool:
        return self.layout in SUBSAMPLING

    @property
    def components(self) -> int:
        return 4 if self.alpha or self.layout == "bgr" else 3

    @property
    def av_name(self) -> str:
        """FFmpeg's name of this pixel format; "image" has none."""
        depth = f"{self.bits}le" if self.bits > 8 else ""
        if self.is_yuv:
            return f"yuv{'a' if self.alpha else ''}{self.layout[3:]}p{depth}"
        return {
            "rgb": {8: ("rgb24", "rgba"), 16: ("rgb48le", "rgba64le")}.get(self.bits, ("", ""))[self.alpha],
            "bgr": "bgra" if self.alpha else "bgr0",
            "gbr": f"gbr{'a' if self.alpha else ''}p{depth}",
            "linear": f"gbr{'a' if self.alpha else ''}pf32le",  # FFmpeg takes halves as floats
        }[self.layout]

    def stored_size(self, height: int, width: int) -> tuple[int, int]:
        """The size frames are stored at: where chroma is shared, odd sizes grow by one repeated row or column."""
        across, down = SUBSAMPLING.get(self.layout, (0, 0))
        return height + (height & down), width + (width & across)

    def frame_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Shape of one frame of `height` x `width` pixels in this format."""
        if self.layout in ("image", "rgb", "bgr"):
            return (height, width, self.components)
        return (sum(rows * columns for rows, columns in self._plane_sizes(*self.stored_size(height, width))),)

    def planes(self, packed: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, ...]:
        """The planes of packed frames, as views.

        Args:
            packed: (T, *frame_shape(height, width)).
            height, width: of the frames before they were stored.
        Returns:
            Planar layouts: (T, h, w) each, chroma at its own size, alpha last. Else `packed` alone.
        """
        if self.layout in ("image", "rgb", "bgr"):
            return (packed,)
        views, start = [], 0
        for rows, columns in self._plane_sizes(*self.stored_size(height, width)):
            views.append(packed[:, start : start + rows * columns].view(-1, rows, columns))
            start += rows * columns
        return tuple(views)

    def _plane_sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        across, down = SUBSAMPLING.get(self.layout, (0, 0))
        small = (height >> down, width >> across)
        return [(height, width), small, small] + [(height, width)] * self.alpha


PixelFormat.RGB_F32 = PixelFormat("image", 32)
PixelFormat.RGB_F16 = PixelFormat("image", 16)
PixelFormat.RGB24 = PixelFormat("rgb")
PixelFormat.YUV420P = PixelFormat("yuv420")
PixelFormat.YUV420P10 = PixelFormat("yuv420", 10)


def convert(
    frames_cthw: torch.Tensor, zero_centred: bool, pixel_format: PixelFormat, out: torch.Tensor, clamped: bool = True
) -> None:
    """Write decoder output into a sink's pixel format.

    Args:
        frames_cthw: (3 or 4, T, H, W), any float dtype, R, G, B and perhaps alpha; left unchanged.
        zero_centred: whether the values span [-1, 1] or [0, 1].
        pixel_format: what to write. An alpha it has no place for is left out.
        out: (T, *pixel_format.frame_shape(H, W)) of `pixel_format.dtype`, on the frames' device.
        clamped: False leaves values outside as they are in "image" and "linear"; all other formats clamp them.

    NaN stays NaN in "image", as in ComfyUI, and becomes 0 in all others.
    Stream: runs on the caller's current stream; never synchronises.
    """
    frames_cthw = frames_cthw[: 4 if pixel_format.alpha else 3]
    if frames_cthw.device.type == "cpu" and pixel_format.layout not in ("image", "linear"):
        _write_bands(frames_cthw, zero_centred, pixel_format, out)
        return
    if frames_cthw.device.type == "cpu" and frames_cthw.shape[1] > 1:
        # The intermediate values of one frame stay in the caches; those of four do not.
        for i in range(frames_cthw.shape[1]):
            convert(frames_cthw[:, i : i + 1], zero_centred, pixel_format, out[i : i + 1], clamped)
        return
    if pixel_format.layout == "image":
        unit = _unit(frames_cthw, zero_centred, pixel_format.dtype, clamped=clamped).permute(1, 2, 3, 0)
        out[..., : unit.shape[-1]].copy_(unit)
        out[..., unit.shape[-1] :] = 1.0
        return
    planes = pixel_format.planes(out, *frames_cthw.shape[-2:])
    if pixel_format.layout == "linear":
        unit_cthw = _unit(frames_cthw, zero_centred, torch.float32, torch.contiguous_format, clamped).nan_to_num_(0.0)
        _write_linear(unit_cthw, planes)
        return
    # Plane by plane: those of an IMAGE lie pixel by pixel.
    unit_cthw = _unit(frames_cthw, zero_centred, torch.float32, torch.contiguous_format).nan_to_num_(nan=0.0)
    _write(unit_cthw, pixel_format, planes)


# Note [Bands on the CPU]
#     There, a frame is written in bands of rows, several at a time, and by NumPy. What is between the steps stays in a
#     core's cache, and in memory that is there already: what a step allocates may be mapped anew, which takes longer
#     than the step, and threads wait for each other to map. And torch would share every step out among threads of its
#     own, which wait for each other after each, and for long beside an encoder on all cores; below what it shares out
#     (32768 values) calling it takes longer than the work. So does calling NumPy for small bands, and only one thread
#     calls at a time. For 3840x2160 to 4:2:0 that is 46 ms of CPU a frame, before it was 160 (EPYC 9xx4, 2026-11-26).
BAND_VALUES = 1 << 18
MOST_THREADS = 4


def _write_bands(frames_cthw: torch.Tensor, zero_centred: bool, pixel_format: PixelFormat, out: torch.Tensor) -> None:
    """`convert` to integers on the CPU: see Note [Bands on the CPU]."""
    frames, height, width = frames_cthw.shape[1:]
    # The dither repeats after 8 rows, and chroma has one for two.
    step = 16 if pixel_format.dither else 2
    rows = max(step, BAND_VALUES // width // step * step)
    source = frames_cthw.detach()
    source_cthw = (source.float() if source.dtype == torch.bfloat16 else source).numpy()
    planes = [plane.numpy() for plane in pixel_format.planes(out, height, width)]
    down = SUBSAMPLING.get(pixel_format.layout, (0, 0))[1]
    shared = (0, down, down, 0) if pixel_format.is_yuv else (0,) * len(planes)

    bands = [(frame, top) for frame in range(frames) for top in range(0, height, rows)]
    threads = min(MOST_THREADS, os.cpu_count() or 1, len(bands))
    # For each thread, and the caller's, the colours of a band and room for one more. All of one piece, since NumPy asks
    # for huge pages for that.
    free = list(np.empty((threads + 1, len(source_cthw) + 1, 1, min(rows, height), width), np.float32))

    def write(at: tuple[int, int]) -> None:
        frame, top = at
        bottom = top + rows if top + rows < height else height + 1  # the last one's with the row that odd sizes grow by
        band_cthw = source_cthw[:, frame : frame + 1, top : top + rows]
        room = free.pop()
        *colours, spare_thw = room[:, :, : band_cthw.shape[2]]
        for i, (unit_thw, plane_thw) in enumerate(zip(colours, band_cthw)):
            np.copyto(unit_thw, plane_thw)
            if zero_centred and i < 3:
                unit_thw += 1.0
                unit_thw /= 2.0
            np.clip(unit_thw, 0.0, 1.0, out=unit_thw)
            if np.isnan(unit_thw.max()):
                np.nan_to_num(unit_thw, copy=False, nan=0.0)
        own = tuple(plane[frame : frame + 1, top >> by : bottom >> by] for plane, by in zip(planes, shared))
        _write(colours, pixel_format, own, spare_thw)
        free.append(room)

    if threads == 1:
        for at in bands:
            write(at)
        return
    # Of this call only, so that nothing of a run outlives it: 1 ms for four frames, which take 28 (1280x720).
    with ThreadPoolExecutor(threads, "async-frame-pipeline pixels") as pool:
        try:
            written = pool.map(write, bands)
        except RuntimeError:  # at the end of the process no thread begins anything: the run still ends as it should
            written = map(write, bands)
        for _ in written:
            pass


def _write(colours: Planes, pixel_format: PixelFormat, planes: Planes, spare: Plane | None = None) -> None:
    """R, G, B and perhaps alpha in [0, 1], float32 (T, H, W) each and spent -> codes, of torch or all of NumPy.

    Written in what both have, which gives the same bits. `spare` is room for one more; None to make it.
    """
    alpha_thw = colours[3] if len(colours) == 4 else None
    if pixel_format.is_yuv:
        _write_yuv(colours, pixel_format, planes, spare)
        alpha_plane = planes[3] if pixel_format.alpha else None
    elif pixel_format.layout == "gbr":
        for plane, colour in zip(planes, ORDERS["gbr"]):
            _store(colours[colour], _full(pixel_format), 0.0, pixel_format, plane)
        alpha_plane = planes[3] if pixel_format.alpha else None
    else:
        [out] = planes
        for i, colour in enumerate(ORDERS[pixel_format.layout]):
            _store(colours[colour], _full(pixel_format), 0.0, pixel_format, out[..., i])
        alpha_plane = out[..., 3] if pixel_format.components == 4 else None
    if alpha_plane is None:
        return
    if alpha_thw is None:
        # All bits set: 16-bit codes are held in int16.
        alpha_plane[...] = -1 if pixel_format.bits == 16 else int(_full(pixel_format))
    else:
        rows, columns = alpha_plane.shape[-2:]
        padded = _grow(alpha_thw, rows, columns)
        # Never dithered: a grain in what is to be opaque would show through.
        _store(padded, _full(pixel_format), 0.0, replace(pixel_format, dither=False), alpha_plane)


def _unit(
    frames_cthw: torch.Tensor,
    zero_centred: bool,
    dtype: torch.dtype,
    layout: torch.memory_format = torch.preserve_format,
    clamped: bool = True,
) -> torch.Tensor:
    """Frames in [0, 1], with the operations, their order and their dtype as in ComfyUI's VAE."""
    unit = frames_cthw.to(dtype, copy=True, memory_format=layout)
    if zero_centred:
        unit[:3].add_(1.0).div_(2.0)
    return unit.clamp_(0.0, 1.0) if clamped else unit


def _full(pixel_format: PixelFormat) -> float:
    """The largest code."""
    return float((1 << pixel_format.bits) - 1)


def _store(values: Plane, scale: float, offset: float, pixel_format: PixelFormat, out: Plane) -> None:
    """values * scale + offset, rounded, as codes into `out`; spends `values`."""
    values *= scale
    values += offset
    if pixel_format.dither:
        values += _dithered(values)
    codes = _of(values).round(values, out=values)
    if offset and pixel_format.full_range:
        codes = codes.clip(0.0, _full(pixel_format))  # chroma would end half a code beyond the largest
    if pixel_format.bits == 16:
        # Above 32767 a float does not convert to int16; an int32 wraps, which leaves the bits as they are.
        codes = codes.to(torch.int32) if isinstance(codes, torch.Tensor) else codes.astype(np.int32)
    out[...] = codes


def _of(plane: Plane) -> Any:
    """The module that has the functions for it."""
    return torch if isinstance(plane, torch.Tensor) else np


def _dithered(values: Plane) -> Plane:
    """What is added to a plane of this size."""
    height, width = values.shape[-2:]
    if isinstance(values, torch.Tensor):
        return _dither(values.device).repeat(-(-height // 8), -(-width // 8))[:height, :width]
    return _dithered_band(height, width)


@functools.lru_cache(maxsize=4)  # a band of luma and of chroma, and the last ones of a frame
def _dithered_band(height: int, width: int) -> np.ndarray:
    return _dithered(torch.empty(height, width)).numpy()


@functools.cache  # made once: copying it to the GPU would wait for the GPU
def _dither(device: torch.device) -> torch.Tensor:
    """(8, 8) in (-0.5, 0.5): each of 64 thresholds once. The same for every frame, so that nothing shimmers.

    Source: Bayer 1973, "An optimum method for two-level rendition of continuous-tone pictures".
    """
    ranks = torch.zeros(1, 1)
    for _ in range(3):
        ranks = torch.cat([torch.cat([4 * ranks + row[i] for i in range(2)], dim=1) for row in ((0, 2), (3, 1))])
    return ((ranks + 0.5) / 64 - 0.5).to(device)


def _grow(plane_thw: Plane, height: int, width: int) -> Plane:
    """(T, H, W) with its last row and column repeated up to this size."""
    if plane_thw.shape[-2:] == (height, width):
        return plane_thw
    below, right = height - plane_thw.shape[-2], width - plane_thw.shape[-1]
    if isinstance(plane_thw, torch.Tensor):
        return torch.nn.functional.pad(plane_thw[None], (0, right, 0, below), mode="replicate")[0]
    return np.pad(plane_thw, ((0, 0), (0, below), (0, right)), mode="edge")


def _write_yuv(colours: Planes, pixel_format: PixelFormat, planes: Planes, spare: Plane | None = None) -> None:
    """RGB in [0, 1] -> Y, U, V codes.

    Source: ITU-R BT.709-6 sections 3.2-3.5, BT.601-7 section 2.5 and BT.2020-2 table 4 (matrix, quantisation); full
    range as in ITU-T H.273, equations 29-31. Chroma is sited as H.264 assumes by default (chroma_sample_loc_type 0: on
    the left luma column, midway between two rows where rows share it), hence the (1, 2, 1) / 4 filter across and the
    plain mean down.
    """
    out_y, out_u, out_v = planes[:3]
    red, green, blue = (_grow(colour, *out_y.shape[-2:]) for colour in colours[:3])
    if spare is None or spare.shape != green.shape:
        spare = _of(green).empty_like(green)
    multiply = _of(green).multiply
    kr, kg, kb = MATRICES[pixel_format.matrix]
    luma = green
    luma *= kg
    luma += multiply(red, kr, out=spare)
    luma += multiply(blue, kb, out=spare)
    step = float(1 << (pixel_format.bits - 8))  # one 8-bit code in codes of this depth
    full = _full(pixel_format)
    luma_scale, luma_offset = (full, 0.0) if pixel_format.full_range else (219.0 * step, 16.0 * step)
    chroma_scale = full if pixel_format.full_range else 224.0 * step
    across, down = SUBSAMPLING[pixel_format.layout]
    for colour, weight, out_chroma in ((blue, kb, out_u), (red, kr, out_v)):
        chroma = colour
        chroma -= luma
        chroma *= 1.0 / (2.0 * (1.0 - weight))
        if down:
            lower, chroma = chroma[:, 1::2], chroma[:, 0::2]
            chroma += lower
            chroma *= 0.5
        if across:
            chroma = _halve_across(chroma, spare)
        _store(chroma, chroma_scale, 128.0 * step, pixel_format, out_chroma)
    _store(luma, luma_scale, luma_offset, pixel_format, out_y)


def _write_linear(unit_cthw: torch.Tensor, planes: tuple[torch.Tensor, ...]) -> None:
    """RGB, and perhaps alpha, as for a display of sRGB -> linear light, times alpha.

    Source: IEC 61966-2-1, section 5.2; below 0 mirrored, as in scRGB (IEC 61966-2-2). OpenEXR's colours have the
    primaries of BT.709, as sRGB's, where nothing is said, and are premultiplied.
    """
    alpha_thw = unit_cthw[3].clamp_(0.0, 1.0) if unit_cthw.shape[0] == 4 else None
    for plane, colour in zip(planes, ORDERS["gbr"]):
        size = unit_cthw[colour].abs()
        light = torch.where(size <= 0.04045, size / 12.92, ((size + 0.055) / 1.055) ** 2.4)
        light.copysign_(unit_cthw[colour]).clamp_(-HALF_MAX, HALF_MAX)
        plane.copy_(light if alpha_thw is None else light.mul_(alpha_thw))
    if len(planes) == 4:
        planes[3].copy_(alpha_thw) if alpha_thw is not None else planes[3].fill_(1.0)


def displayable(packed: torch.Tensor, pixel_format: PixelFormat) -> tuple[torch.Tensor, PixelFormat]:
    """Packed frames that are to be looked at, and their format: of linear light as RGB of 8 bits, all others as is.

    Args:
        packed: (T, *frame_shape) on the CPU.
    """
    if pixel_format.layout != "linear":
        return packed, pixel_format
    return _displayed()[packed.view(torch.int16).int() & 0xFFFF], PixelFormat("gbr", 8, pixel_format.alpha)


@functools.cache
def _displayed() -> torch.Tensor:
    """(65536,) code of sRGB for the bits of every half float; the other way round than `_write_linear`."""
    light = torch.arange(65536).to(torch.int16).view(torch.float16).float().nan_to_num(0.0).clamp(0.0, 1.0)
    code = torch.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return (code * 255).round().to(torch.uint8)


def _halve_across(rows: Plane, spare: Plane) -> Plane:
    """(T, H, W) -> (T, H, W/2), sited on the left column of each pair (see `_write_yuv`); spends `rows`."""
    left, right = rows[..., 0::2], rows[..., 1::2]
    sides = spare[:, : rows.shape[1], : right.shape[2]]
    sides[...] = right  # on the right of each; the one on the left of the first is the first itself
    sides[..., 1:] += right[..., :-1]
    sides[..., :1] += left[..., :1]
    sides *= 0.25
    left *= 0.5
    sides += left
    return sides
