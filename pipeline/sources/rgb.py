"""Decoded pictures, turned upright and into float RGB by their own colour tags."""

from __future__ import annotations

import functools
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from ..stated import BT2020
from .stated import PRIMARIES, TRANSFERS, UNKNOWN, is_mirrored, quarter_turns

# swscale trades up to three codes for speed otherwise.
EXACT = "accurate_rnd+full_chroma_int+full_chroma_inp+bicubic"


def bits_of(pixels: av.VideoFormat) -> int:
    """Bits of each colour."""
    return max(component.bits for component in pixels.components)


def has_alpha(pixels: av.VideoFormat) -> bool:
    """Whether there is transparency in it, as there may be in every palette."""
    return pixels.name == "pal8" or any(component.is_alpha for component in pixels.components)


@functools.cache
def converts_colours() -> bool:
    """Whether this FFmpeg can turn colours into others, as it does from 8 on."""
    try:
        av.filter.Graph().add("scale", "out_primaries=bt709")
    except (av.error.FFmpegError, ValueError):
        return False
    return True


def chroma_place(codec: str, frame: av.VideoFrame) -> str:
    """Options of FFmpeg's `scale` for where chroma sits among pixels that share it: by itself it takes the middle.

    PyAV does not tell what a file says of it: on the left, as in MPEG-2 and all since; in BT.2020 at the top left
    (ITU-R BT.2100-2, table 6); with JPEG and MPEG-1 in the middle. In turned pictures the left is no longer there.
    """
    shared_across, shared_down = frame.format.chroma_width(8) < 8, frame.format.chroma_height(8) < 8
    if not shared_across or quarter_turns(frame) or is_mirrored(frame) or codec in ("mjpeg", "mpeg1video"):
        return ""
    top = shared_down and int(frame.colorspace) == BT2020
    return ":in_h_chr_pos=0" + (":in_v_chr_pos=0" if top else "")


class ToRGB:
    """Turns the pictures of a stream upright and into float RGB; those of interlaced video into whole ones.

    Args:
        frame: the first one.
        time_base: of the stream.
        alpha: whether to give transparency too.
        size: (height, width) to scale them to.
        chroma: see `chroma_place`.
        to_bt709: what converts their colours, see `Stated`; none to leave them.
    """

    def __init__(
        self,
        frame: av.VideoFrame,
        time_base: Fraction,
        alpha: bool,
        size: tuple[int, int],
        chroma: str = "",
        to_bt709: str = "",
    ):
        self._format, self._scale = _planes_for(frame, alpha, to_bt709)
        suffixes = {"f32le": np.float32, "le": np.uint16, "": np.uint8}
        self._dtype = next(dtype for suffix, dtype in suffixes.items() if self._format.endswith(suffix))
        self._graph = av.filter.Graph()
        shape = {"width": frame.width, "height": frame.height}
        nodes = [self._graph.add_buffer(**shape, format=frame.format.name, time_base=time_base)]
        if frame.interlaced_frame:
            nodes.append(self._graph.add("bwdif", "mode=send_frame:deint=interlaced"))
        if is_mirrored(frame):
            nodes.append(self._graph.add("vflip"))
        nodes += [self._graph.add("transpose", "cclock") for _ in range(quarter_turns(frame))]
        # `scale` refuses what it does not know, also where it is not to convert it.
        tags = (("color_primaries", PRIMARIES), ("color_trc", TRANSFERS))
        unknown = [tag for tag, known in tags if getattr(frame, tag, 0) not in (*UNKNOWN, *known)]
        if unknown:
            nodes.append(self._graph.add("setparams", ":".join(f"{tag}=unknown" for tag in unknown)))
        colours = f":{to_bt709}" if to_bt709 else ""
        nodes.append(self._graph.add("scale", f"{size[1]}:{size[0]}:out_range=full:flags={EXACT}{chroma}{colours}"))
        nodes.append(self._graph.add("format", self._format))
        self._graph.link_nodes(*nodes, self._graph.add("buffersink")).configure()

    def __call__(self, frame: av.VideoFrame | None) -> list[np.ndarray]:
        """Those that are ready, each (3 or 4, H, W) float32 in [0, 1]: that of the frame, or the one before; the last
        for None."""
        self._graph.push(frame)
        ready: list[np.ndarray] = []
        while True:
            try:
                planes = self._graph.pull().planes
            except (BlockingIOError, EOFError):
                return ready
            green, blue, red, *rest = (
                np.frombuffer(p, self._dtype).reshape(p.height, -1)[:, : p.width] for p in planes
            )
            ready.append(np.stack([red, green, blue, *rest]).astype(np.float32) * np.float32(self._scale))


def _planes_for(frame: av.VideoFrame, alpha: bool, to_bt709: str) -> tuple[str, float]:
    """FFmpeg's name of the planar RGB to convert to, and what is white in it becomes 1 by."""
    letters, pixels = "gbrap" if alpha else "gbrp", frame.format
    bits = bits_of(pixels)
    if to_bt709:
        return letters + "16le", 1.0 / 65535
    is_grey = len(pixels.components) <= 2 and pixels.name != "pal8"
    if (pixels.is_rgb or pixels.name == "pal8" or is_grey) and bits <= 16:
        # Into planes and nothing else: through floats, swscale would be a code off.
        bits = max(8, bits)
        return letters + (f"{bits}le" if bits > 8 else ""), 1.0 / ((1 << bits) - 1)
    if pixels.is_rgb or is_grey:  # floats
        return letters + "f32le", 1.0
    full = frame.color_range == ColorRange.JPEG or pixels.name.startswith("yuvj")
    return letters + "f32le", 1.0 / _float_white(bits if full else 0)


@functools.cache
def _float_white(bits: int) -> float:
    """What swscale makes of white: with FFmpeg 8, 255 * 256 / 65535, which darkens a picture by up to an 8-bit code.

    Args:
        bits: of full range; 0 for limited range, which makes no difference between depths.
    """
    name, dtype = (f"yuv444p{bits}le", np.uint16) if bits > 8 else ("yuv444p", np.uint8)
    white = av.VideoFrame(16, 16, name)
    codes = ((1 << bits) - 1, 1 << (bits - 1), 1 << (bits - 1)) if bits else (235, 128, 128)
    for plane, code in zip(white.planes, codes):
        plane.update(
            np.full(plane.buffer_size // (1 + (bits > 8)), code, np.uint16 if bits > 8 else np.uint8).tobytes()
        )
    white.colorspace, white.color_range = Colorspace.ITU709, ColorRange.JPEG if bits else ColorRange.MPEG
    graph = av.filter.Graph()
    nodes = [graph.add_buffer(width=16, height=16, format=name, time_base=Fraction(1))]
    nodes += [graph.add("scale", f"out_range=full:flags={EXACT}"), graph.add("format", "gbrpf32le")]
    graph.link_nodes(*nodes, graph.add("buffersink")).configure()
    graph.push(white)
    return float(np.frombuffer(graph.pull().planes[0], np.float32)[0])
