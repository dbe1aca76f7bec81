"""What a VIDEO is read from: the latent behind it, its file, or the frames it gives. Runs it into sinks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from comfy_api.latest import InputImpl, Types

from ..pipeline.ends import Ends
from ..pipeline.engine import FrameCountError
from ..pipeline.report import Report
from ..pipeline.sinks import Sink
from ..pipeline.sinks.tensor import TensorSink
from ..pipeline.sources import Source, spec_of
from ..pipeline.sources.file import FileSource
from ..pipeline.sources.images import ImageSource, check_image
from ..pipeline.stated import Stated
from .checked import checked_audio, checked_fps
from .comfyui import lanes
from .latent_video import LatentVideo
from .log import say


@dataclass
class LatentSource:
    """A VIDEO of this pack. It says of itself what a `Source` does, but a ladder of decoders runs it."""

    video: LatentVideo

    def __post_init__(self):
        self.width, self.height = self.video.get_dimensions()
        self.frames = self.video.get_frame_count()
        self.fps = self.video.get_frame_rate()
        self.bit_depth = self.video.get_bit_depth()
        self.sound = self.video.audio
        self.alpha = False
        self.stated = Stated()
        self.frames_thwc = None


def images_source(images: torch.Tensor, fps: float) -> ImageSource:
    """Images, which are not copied; a fourth channel is transparency.

    Raises:
        ValueError: no images, or no frame rate.
    """
    return ImageSource(images, checked_fps(fps))


def video_of(images: torch.Tensor, fps: Fraction, audio: dict | None):
    """The same without transparency, of which the stock nodes know nothing, as the VIDEO that Create Video makes."""
    images = images[..., :3]
    return InputImpl.VideoFromComponents(Types.VideoComponents(images=images, audio=audio, frame_rate=fps))


def source_of(video) -> LatentSource | Source:
    """What a VIDEO is to be read from.

    Raises:
        ValueError: it has nothing that could be saved.
    """
    if isinstance(video, LatentVideo):
        return LatentSource(video)
    # A subclass may mean something else by it.
    if type(video) is InputImpl.VideoFromFile and (window := trim_window(video)) is not None:
        start, duration = window
        return FileSource(video.get_stream_source(), start, start + duration if duration else math.inf)
    if not hasattr(video, "get_components"):
        raise ValueError(f"video is {type(video).__name__}, which holds no frames. Connect a VIDEO.")
    return _components_of(video)


def run(
    source: LatentSource | Source,
    sinks: Sequence[Sink],
    frames: int,
    spectators: Sequence[Sink] = (),
    ends: Ends | None = None,
) -> Report:
    """Send the first `frames` frames through the lanes; what a sink has no place for, such as alpha, is left out."""
    if isinstance(source, LatentSource):
        return source.video.decode_into(sinks, frames, spectators, ends)
    is_whole = frames == source.frames
    try:
        return _run(source, sinks, frames, spectators, ends)
    except FrameCountError as error:
        if not isinstance(source, FileSource):
            raise
        say(f"the file is damaged, counting its frames: {error}")
        source.count_by_decoding()
    return _run(source, sinks, source.frames if is_whole else min(frames, source.frames), spectators, ends)


def image_sink(source: LatentSource | Source) -> TensorSink | None:
    """A sink that collects the frames as an IMAGE, to be one of those of `run`; None where they are one already."""
    if source.frames_thwc is not None:
        return None
    return TensorSink(image_dtype(source))


def image_dtype(source: LatentSource | Source) -> torch.dtype:
    """What its frames are as an IMAGE."""
    return source.video.image_dtype() if isinstance(source, LatentSource) else torch.float32


def _run(source: Source, sinks: Sequence[Sink], frames: int, spectators: Sequence[Sink], ends: Ends | None) -> Report:
    part = None if frames == source.frames else (0, frames)
    with lanes.reading():
        return lanes.run(
            source.decode,
            spec_of(source),
            sinks,
            source.chunk_frames,
            already_decoded=source.frames_thwc is not None,
            spectators=spectators,
            frames=part,
            ends=ends,
        )


def _components_of(video) -> ImageSource:
    components = video.get_components()
    images = components.images
    check_image(images)
    # (T, H, W) or (T, H, W, 1); newer ComfyUIs keep the transparency of files there.
    alpha = getattr(components, "alpha", None)
    if alpha is not None:
        alpha = alpha.reshape(*images.shape[:3], 1) if alpha.numel() == images[..., 0].numel() else None
    # Older ComfyUIs know 8 bits only.
    bit_depth = video.get_bit_depth() if hasattr(video, "get_bit_depth") else 8
    sound = checked_audio(components.audio)
    return ImageSource(images, components.frame_rate, alpha_thw1=alpha, bit_depth=bit_depth, sound=sound)


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
