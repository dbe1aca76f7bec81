"""Small files written by PyAV, whose pictures tell their number and whose sound is known to the sample."""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType

import av
import numpy as np
import psutil

CLOCK = Fraction(1, 90_000)
STEP = 6  # codes between two pictures, more than any codec here is off


def write_file(
    path: Path,
    frames: int,
    fps=Fraction(8),
    codec: str = "",
    pixels: str = "",
    size: tuple[int, int] = (32, 48),
    alpha: int | None = None,
    sounds: tuple[np.ndarray, ...] = (),
    sound_codec: str = "pcm_s16le",
    rate: int = 8000,
    options: dict | None = None,
    times: Sequence[float] = (),
    last: float = 0,
    sound_at: float = 0,
    prepare: Callable[[av.VideoStream, list[av.AudioStream]], None] = lambda video, tracks: None,
    tags: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Write pictures of one grey each, see `numbers_of`, and sound.

    Args:
        codec, pixels: if none is given, lossless ones of RGB.
        size: (height, width).
        alpha: of all pixels, 0 to 255; None for pictures without.
        sounds: streams of sound, (channels, n) int16 each.
        times: in seconds, when each picture begins, where that is not regular.
        last: how long the last one is shown, in seconds, where that is not as long as the others.
        sound_at: in seconds, when the sound begins.
        prepare: called with the streams before anything is written.
        tags: of the file.
    """
    if not codec:
        codec, pixels = {".mkv": ("ffv1", "bgr0"), ".mov": ("qtrle", "rgb24")}[path.suffix]
    with av.open(str(path), "w", options=options or {}) as container:
        height, width = size
        if frames:
            video = container.add_stream(codec, rate=fps)
            video.width, video.height, video.pix_fmt = width, height, pixels
            if times:
                video.codec_context.time_base = CLOCK
        layouts = [{1: "mono", 2: "stereo"}[len(samples)] for samples in sounds]
        tracks = [container.add_stream(sound_codec, rate=rate, layout=layout) for layout in layouts]
        if frames:
            prepare(video, tracks)
        container.metadata.update(tags)
        packets = []
        for number in range(frames):
            grey = np.full((height, width, 3 if alpha is None else 4), number * STEP % 256, np.uint8)
            if alpha is not None:
                grey[..., 3] = alpha
            frame = av.VideoFrame.from_ndarray(grey, "rgb24" if alpha is None else "rgba").reformat(format=pixels)
            frame.pts, frame.time_base = number, 1 / Fraction(fps)
            if times:
                frame.pts, frame.time_base = round(times[number] / CLOCK), CLOCK
            packets += video.encode(frame)
        if frames:
            packets += video.encode(None)
        if packets and last:
            max(packets, key=lambda packet: packet.pts).duration = round(last / packets[0].time_base)
        container.mux(packets)
        for track, samples in zip(tracks, sounds):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T).reshape(1, -1), "s16", track.layout.name)
            frame.sample_rate, frame.pts, frame.time_base = rate, round(sound_at * rate), Fraction(1, rate)
            container.mux(track.encode(frame))
            container.mux(track.encode(None))
    return path


def ramp(samples: int, channels: int = 1) -> np.ndarray:
    """(channels, samples) int16, every sample another."""
    return np.stack([np.arange(samples) * (channel + 1) - 16000 for channel in range(channels)]).astype(np.int16)


def numbers_of(chunks) -> list[int]:
    """Which pictures of `write_file` these (C, T, H, W) chunks are."""
    return [round(float(picture[:3].mean()) * 255 / STEP) for chunk in chunks for picture in chunk.unbind(1)]


def chunks_of(source) -> list:
    chunks = []
    source.decode(lambda chunk: chunks.append(chunk.clone()))
    return chunks


def times_open(path: Path) -> int:
    """How often this process has the file open now."""
    return sum(Path(file.path) == path for file in psutil.Process().open_files())
