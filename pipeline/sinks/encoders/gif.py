"""GIF by FFmpeg. Every frame gets a palette of its own, since one for all would need all frames first."""

from fractions import Fraction
from typing import ClassVar, cast

import av

from ...pixels import PixelFormat
from .base import Encoder, Prepare, Wanted

COLOURS = {"very high": 256, "high": 256, "medium": 128, "low": 64}
DITHER = {"very high": "sierra2_4a", "high": "sierra2_4a", "medium": "bayer:bayer_scale=3", "low": "none"}


class Gif(Encoder):
    name = "gif"
    depths: ClassVar = {"rgb": (8,)}
    alpha = ("rgb",)
    lossless = False
    largest_side = 65535
    takes_threads = False

    def options(self, wanted: Wanted, height: int, width: int, frames: int, threads: int) -> dict[str, str]:
        return {}

    def takes(self, pixels: PixelFormat) -> str:
        return "pal8"

    def prepare(self, wanted: Wanted, height: int, width: int, tick: Fraction) -> Prepare:
        """FFmpeg's filters that find the colours of each frame and reduce it to them."""
        graph = av.filter.Graph()
        pixels = av.VideoFormat(self.pixel_format(wanted).av_name)
        source = graph.add_buffer(width=width, height=height, format=pixels, time_base=tick)
        split = graph.add("split")
        find = graph.add(
            "palettegen",
            f"stats_mode=single:max_colors={COLOURS[wanted.quality]}:reserve_transparent={int(wanted.alpha)}",
        )
        use = graph.add("paletteuse", f"new=1:dither={DITHER[wanted.quality]}:alpha_threshold=128")
        sink = graph.add("buffersink")
        source.link_to(split)
        split.link_to(find, 0, 0)
        split.link_to(use, 1, 0)
        find.link_to(use, 0, 1)
        use.link_to(sink)
        graph.configure()

        def reduced(frame: av.VideoFrame | None) -> list[av.VideoFrame]:
            graph.push(frame)
            ready = []
            while True:
                try:
                    ready.append(cast(av.VideoFrame, graph.pull()))
                except (BlockingIOError, EOFError):
                    return ready

        return reduced
