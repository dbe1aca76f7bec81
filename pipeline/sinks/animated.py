"""Frames into an animated WebP or GIF: pictures that move, without sound, for ever unless told otherwise."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av

from ..video_spec import VideoSpec
from .metadata import add_to_webp
from .video_file import VideoFileSink

# GIF89a counts in hundredths of a second, WebP in thousandths.
TICKS_PER_SECOND = {"gif": 100, "webp": 1000}
# Browsers show a GIF frame of less than 2/100 s for 10/100 s.
MAX_GIF_FPS = 50
MAX_SIDE = {"gif": 65535, "webp": 16383}
GIF_COLOURS = {"very high": 256, "high": 256, "medium": 128, "low": 64}
GIF_DITHER = {"very high": "sierra2_4a", "high": "sierra2_4a", "medium": "bayer:bayer_scale=3", "low": "none"}


class AnimatedPictureSink(VideoFileSink):
    """Writes an animated WebP or GIF.

    GIF: every frame gets a palette of its own, since one for all would need all frames first.
    WebP: libwebp puts the file together when it has all frames; until then it holds them compressed.

    Raises, at `open`:
        ValueError: a frame rate or size that the format does not have.
    """

    def open(self, spec: VideoSpec) -> None:
        kind = self._options.choice.format.container
        if kind == "gif" and self._options.fps > MAX_GIF_FPS:
            raise ValueError(
                f"GIF plays at most {MAX_GIF_FPS} frames a second, got {float(self._options.fps):g}. "
                "Choose webp (animated) or a video format, or a lower frame rate."
            )
        if max(spec.height, spec.width) > MAX_SIDE[kind]:
            raise ValueError(f"{kind} ends at {MAX_SIDE[kind]} pixels a side, got {spec.width}x{spec.height}")
        self._palette: _Palette | None = None
        super().open(spec)
        if kind == "gif":
            self._palette = _Palette(self._video.width, self._video.height, self._options.choice)

    @property
    def _time_base(self) -> Fraction:
        return Fraction(1, TICKS_PER_SECOND[self._options.choice.format.container])

    def _container_options(self) -> dict[str, str]:
        plays = self._options.repeat
        if self._options.choice.format.container == "webp":
            return {"loop": str(plays)}
        # In a GIF stands how often it starts again; -1 leaves that out.
        last = self._ticks(self._frames) - self._ticks(self._frames - 1)
        return {"loop": str(plays - 1 if plays > 1 else {0: 0, 1: -1}[plays]), "final_delay": str(last)}

    def _stream_name(self) -> str:
        return "pal8" if self._options.choice.format.container == "gif" else super()._stream_name()

    def _encodable(self, frame: av.VideoFrame | None) -> list[av.VideoFrame]:
        if self._palette is None:
            return [] if frame is None else [frame]
        return self._palette.apply(frame)

    def _repeat(self) -> None:
        """It is the player who repeats."""
        self._packets = []

    def _complete(self, path: Path) -> None:
        if self._options.metadata and self._options.choice.format.container == "webp":
            add_to_webp(path, self._options.metadata)


class _Palette:
    """FFmpeg's filters that find the colours of each frame and reduce it to them."""

    def __init__(self, width: int, height: int, choice):
        self._graph = graph = av.filter.Graph()
        source = graph.add_buffer(
            width=width, height=height, format=choice.pixel_format.av_name, time_base=Fraction(1, TICKS_PER_SECOND["gif"])
        )
        split = graph.add("split")
        transparent = int(choice.alpha)
        find = graph.add(
            "palettegen", f"stats_mode=single:max_colors={GIF_COLOURS[choice.quality]}:reserve_transparent={transparent}"
        )
        use = graph.add("paletteuse", f"new=1:dither={GIF_DITHER[choice.quality]}:alpha_threshold=128")
        sink = graph.add("buffersink")
        source.link_to(split)
        split.link_to(find, 0, 0)
        split.link_to(use, 1, 0)
        find.link_to(use, 0, 1)
        use.link_to(sink)
        graph.configure()

    def apply(self, frame: av.VideoFrame | None) -> list[av.VideoFrame]:
        """Reduced frames that are ready; None says that no more come."""
        self._graph.push(frame)
        ready = []
        while True:
            try:
                ready.append(self._graph.pull())
            except (BlockingIOError, EOFError):
                return ready
