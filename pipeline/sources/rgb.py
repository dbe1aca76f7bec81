"""Decoded pictures, turned upright and into float RGB by their own colour tags."""

from __future__ import annotations

import functools
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

# swscale trades up to three codes for speed otherwise.
EXACT = "accurate_rnd+full_chroma_int+full_chroma_inp+bicubic"


def bits_of(pixels: av.VideoFormat) -> int:
    """Bits of each colour."""
    return max(component.bits for component in pixels.components)


def has_alpha(pixels: av.VideoFormat) -> bool:
    """Whether there is transparency in it, as there may be in every palette."""
    return pixels.name == "pal8" or any(component.is_alpha for component in pixels.components)


class ToRGB:
    """Turns the pictures of a stream upright and into float RGB.

    Args:
        frame: the first one.
        time_base: of the stream.
        alpha: whether to give transparency too.
    """

    def __init__(self, frame: av.VideoFrame, time_base: Fraction, alpha: bool):
        letters = "gbrap" if alpha else "gbrp"
        if frame.format.is_rgb or frame.format.name == "pal8":
            # Into planes and nothing else: through floats, swscale would be a code off.
            bits = bits_of(frame.format)
            self._format, self._scale = letters + (f"{bits}le" if bits > 8 else ""), 1.0 / ((1 << bits) - 1)
        else:
            self._format, self._scale = letters + "f32le", 1.0 / _float_white()
        suffixes = {"f32le": np.float32, "le": np.uint16, "": np.uint8}
        self._dtype = next(dtype for suffix, dtype in suffixes.items() if self._format.endswith(suffix))
        self._graph = av.filter.Graph()
        size = {"width": frame.width, "height": frame.height}
        nodes = [self._graph.add_buffer(**size, format=frame.format.name, time_base=time_base)]
        nodes += [self._graph.add("transpose", "cclock") for _ in range(round(frame.rotation / 90) % 4)]
        nodes += [self._graph.add("scale", f"out_range=full:flags={EXACT}"), self._graph.add("format", self._format)]
        self._graph.link_nodes(*nodes, self._graph.add("buffersink")).configure()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """(3 or 4, H, W) float32 in [0, 1]."""
        self._graph.push(frame)
        planes = self._graph.pull().planes
        green, blue, red, *rest = (np.frombuffer(p, self._dtype).reshape(p.height, -1)[:, : p.width] for p in planes)
        return np.stack([red, green, blue, *rest]).astype(np.float32) * np.float32(self._scale)


@functools.cache
def _float_white() -> float:
    """What swscale makes of white: with FFmpeg 8, 255 * 256 / 65535, which darkens a picture by up to an 8-bit code."""
    white = av.VideoFrame(16, 16, "yuv444p")
    for plane, code in zip(white.planes, (235, 128, 128)):
        plane.update(bytes([code]) * plane.buffer_size)
    white.colorspace, white.color_range = Colorspace.ITU709, ColorRange.MPEG
    graph = av.filter.Graph()
    nodes = [graph.add_buffer(width=16, height=16, format="yuv444p", time_base=Fraction(1))]
    nodes += [graph.add("scale", f"out_range=full:flags={EXACT}"), graph.add("format", "gbrpf32le")]
    graph.link_nodes(*nodes, graph.add("buffersink")).configure()
    graph.push(white)
    return float(np.frombuffer(graph.pull().planes[0], np.float32)[0])
