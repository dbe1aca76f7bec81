"""Any VIDEO as a stream of frames: a latent, frames in memory, or a file; the last two without a copy of the whole."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
import torch
from av.video.reformatter import ColorRange, Colorspace
from comfy_api.latest import InputImpl

from ..pipeline.engine import FrameCountError
from ..pipeline.report import Report
from ..pipeline.sinks import Sink
from ..pipeline.sinks.tensor import TensorSink
from ..pipeline.video_spec import VideoSpec
from . import decoding
from .comfyui import lanes
from .file_audio import FileAudio, seek
from .latent_video import LatentVideo, checked_audio, checked_fps
from .log import say

# swscale trades up to three codes for speed otherwise.
EXACT = "accurate_rnd+full_chroma_int+full_chroma_inp+bicubic"


@dataclass
class LatentSource:
    """A VIDEO of this pack: decoded into the sinks.

    Attributes, of every source:
        frames, height, width, fps, bit_depth, audio: of the video.
        alpha: whether it has transparency.
    """

    video: LatentVideo

    def __post_init__(self):
        self.width, self.height = self.video.get_dimensions()
        self.frames = self.video.get_frame_count()
        self.fps = self.video.get_frame_rate()
        self.bit_depth = self.video.get_bit_depth()
        self.audio = self.video.audio
        self.alpha = False

    def run(self, sinks: Sequence[Sink], frames: int, alpha: bool, spectators: Sequence[Sink] = ()) -> Report:
        """Send the first `frames` frames through the lanes, with or without alpha; returns the report."""
        return self.video.decode_into(sinks, frames, spectators)

    def image_sink(self) -> TensorSink:
        """A sink that collects the frames as an IMAGE, to be one of those of `run`."""
        return TensorSink(self.video.image_dtype())


class ImageSource:
    """Frames that are already in memory, with sound: fed in chunks, which are views of them."""

    def __init__(self, video):
        components = video.get_components()
        images = components.images
        decoding.check_image(images)
        self._images = images
        # (T, H, W) or (T, H, W, 1); newer ComfyUIs keep the transparency of files there.
        alpha = getattr(components, "alpha", None)
        self._alpha = alpha.reshape(*images.shape[:3], 1) if alpha is not None and alpha.numel() == images[..., 0].numel() else None
        self.frames, self.height, self.width = images.shape[:3]
        self.fps = exact_fps(components.frame_rate)
        self.bit_depth = bit_depth_of(video)
        self.audio = checked_audio(components.audio)
        self.alpha = self._alpha is not None or images.shape[-1] > 3

    def run(self, sinks: Sequence[Sink], frames: int, alpha: bool, spectators: Sequence[Sink] = ()) -> Report:
        return decoding.write_frames(self._images[:frames], sinks, alpha, self._alpha, spectators)

    def image_sink(self) -> None:
        """The frames are an IMAGE already: see `images`."""

    @property
    def images(self) -> torch.Tensor:
        return self._images


class FileSource:
    """A video file, or the part of it that the VIDEO is trimmed to, decoded a few frames at a time.

    Frames are those that begin in the part; times are taken to be regular, as ComfyUI does.

    Args:
        window: of the VIDEO, from `trim_window`.
    Raises:
        ValueError: no video in it.
    """

    def __init__(self, video, window: tuple[float, float]):
        self._video = video
        start, duration = window
        self._start, self._end = start, start + duration if duration else math.inf
        with self._open() as container:
            stream = self._stream(container)
            rotated = self._first_frame().rotation % 180 != 0
            size = (stream.codec_context.height, stream.codec_context.width)
            self.height, self.width = reversed(size) if rotated else size
            self.fps = exact_fps(stream.average_rate or 1)
            components = stream.codec_context.format.components
            self.bit_depth = max(component.bits for component in components)
            self.alpha = any(component.is_alpha for component in components) or stream.codec_context.format.name == "pal8"
            self.frames = self._count(container, stream)
        audio = FileAudio(self._open, self._start, self._end)
        self.audio = None if audio.is_silent else audio

    def run(self, sinks: Sequence[Sink], frames: int, alpha: bool, spectators: Sequence[Sink] = ()) -> Report:
        spec = VideoSpec(frames, self.height, self.width, torch.device("cpu"), zero_centred=False, alpha=alpha)

        def feed(submit):
            left = frames
            for picture in self._pictures(alpha):
                submit(torch.from_numpy(picture)[:, None])
                left -= 1
                if not left:
                    return

        try:
            with lanes.reading():
                return lanes.run(feed, spec, sinks, frames_per_slot=1, spectators=spectators)
        except FrameCountError as error:
            # A damaged file: the packets promise other frames than come out of them.
            say(f"reading the whole video into memory first: {error}")
            whole = ImageSource(self._video)
            return whole.run(sinks, min(frames, whole.frames), alpha and whole.alpha, spectators)

    def image_sink(self) -> TensorSink:
        return TensorSink(alpha=False)

    def _open(self) -> av.container.InputContainer:
        source = self._video.get_stream_source()
        # Frames and sound are read side by side, each at a place of its own.
        return av.open(io.BytesIO(source.getvalue()) if isinstance(source, io.BytesIO) else source)

    def _stream(self, container) -> av.VideoStream:
        if not container.streams.video:
            raise ValueError("The file has no video in it.")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        return stream

    def _first_frame(self) -> av.VideoFrame:
        with self._open() as container:
            for frame in container.decode(self._stream(container)):
                return frame
        raise ValueError("The file's video has no frame that can be decoded.")

    def _inside(self, pts: int | None, stream) -> bool:
        # As ComfyUI cuts: in ticks, rounded down.
        start = int(self._start / stream.time_base)
        return pts is None or (pts >= start and (math.isinf(self._end) or pts < int(self._end / stream.time_base)))

    def _count(self, container, stream) -> int:
        seek(container, stream, self._start)
        frames = sum(1 for packet in container.demux(stream) if packet.size and self._inside(packet.pts, stream))
        if frames < 1:
            raise ValueError(f"The video has no frames between {self._start:g} and {self._end:g} seconds.")
        return frames

    def _pictures(self, alpha: bool) -> Iterator[np.ndarray]:
        """(3 or 4, H, W) float32 in [0, 1], one frame after another."""
        with self._open() as container:
            stream = self._stream(container)
            seek(container, stream, self._start)
            convert = None
            for frame in container.decode(stream):
                if self._inside(frame.pts, stream):
                    convert = convert or _ToRGB(frame, stream.time_base, alpha)
                    yield convert(frame)


def source_of(video):
    """What a VIDEO is to be read from.

    Raises:
        ValueError: it has nothing that could be saved.
    """
    if isinstance(video, LatentVideo):
        return LatentSource(video)
    # A subclass may mean something else by it.
    if type(video) is InputImpl.VideoFromFile and (window := trim_window(video)) is not None:
        return FileSource(video, window)
    if not hasattr(video, "get_components"):
        raise ValueError(f"video is {type(video).__name__}, which holds no frames. Connect a VIDEO.")
    return ImageSource(video)


def trim_window(video) -> tuple[float, float] | None:
    """Which part of its file a VideoFromFile is: start and duration in seconds, a duration of 0 for all the rest.

    None where that cannot be known.
    """
    if hasattr(video, "get_active_trim_window"):
        return video.get_active_trim_window()
    # Older ComfyUIs keep it to themselves.
    start = getattr(video, "_VideoFromFile__start_time", None)
    duration = getattr(video, "_VideoFromFile__duration", None)
    if start is None or duration is None:
        return None
    if start < 0:  # from the end of the file
        start = max(0.0, InputImpl.VideoFromFile(video.get_stream_source()).get_duration() + start)
    return float(start), float(duration)


def exact_fps(rate) -> Fraction:
    """A frame rate as a fraction that containers can hold: 24000/1001 as it is, 23.976 as 2997/125.

    Raises:
        ValueError: see `checked_fps`.
    """
    checked_fps(float(rate))
    return Fraction(rate).limit_denominator(10_000)


def bit_depth_of(video) -> int:
    """Bits of each colour of a VIDEO's files; older ComfyUIs know 8 only."""
    return video.get_bit_depth() if hasattr(video, "get_bit_depth") else 8


class _ToRGB:
    """Turns decoded frames upright and into float RGB, by the frames' own colour tags.

    Args:
        frame: the first one.
        time_base: of the frames.
        alpha: keep transparency.
    """

    def __init__(self, frame: av.VideoFrame, time_base: Fraction, alpha: bool):
        letters = "gbrap" if alpha else "gbrp"
        if frame.format.is_rgb or frame.format.name == "pal8":
            # Into planes and nothing else: through floats, swscale would be a code off.
            bits = max(component.bits for component in frame.format.components)
            self._format, self._scale = letters + (f"{bits}le" if bits > 8 else ""), 1.0 / ((1 << bits) - 1)
        else:
            self._format, self._scale = letters + "f32le", 1.0 / _float_white()
        self._dtype = np.float32 if self._format.endswith("f32le") else np.uint16 if self._format.endswith("le") else np.uint8
        self._graph = av.filter.Graph()
        nodes = [self._graph.add_buffer(width=frame.width, height=frame.height, format=frame.format.name, time_base=time_base)]
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
    """What swscale makes of white: with FFmpeg 8, 255 * 256 / 65535, which darkens a picture by up to one 8-bit code."""
    white = av.VideoFrame(16, 16, "yuv444p")
    for plane, code in zip(white.planes, (235, 128, 128)):
        plane.update(bytes([code]) * plane.buffer_size)
    white.colorspace, white.color_range = Colorspace.ITU709, ColorRange.MPEG
    graph = av.filter.Graph()
    nodes = [graph.add_buffer(width=16, height=16, format="yuv444p", time_base=Fraction(1))]
    nodes += [graph.add("scale", f"out_range=full:flags={EXACT}"), graph.add("format", "gbrpf32le"), graph.add("buffersink")]
    graph.link_nodes(*nodes).configure()
    graph.push(white)
    return float(np.frombuffer(graph.pull().planes[0], np.float32)[0])
