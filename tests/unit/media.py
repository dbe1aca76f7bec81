"""Small files written by PyAV, whose pictures tell their number and whose sound is known to the sample."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import psutil

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
) -> Path:
    """Write pictures of one grey each, see `numbers_of`, and sound.

    Args:
        codec, pixels: if none is given, lossless ones of RGB.
        size: (height, width).
        alpha: of all pixels, 0 to 255; None for pictures without.
        sounds: streams of sound, (channels, n) int16 each.
    """
    if not codec:
        codec, pixels = {".mkv": ("ffv1", "bgr0"), ".mov": ("qtrle", "rgb24")}[path.suffix]
    with av.open(str(path), "w", options=options or {}) as container:
        height, width = size
        if frames:
            video = container.add_stream(codec, rate=fps)
            video.width, video.height, video.pix_fmt = width, height, pixels
        layouts = [{1: "mono", 2: "stereo"}[len(samples)] for samples in sounds]
        tracks = [container.add_stream(sound_codec, rate=rate, layout=layout) for layout in layouts]
        for number in range(frames):
            grey = np.full((height, width, 3 if alpha is None else 4), number * STEP % 256, np.uint8)
            if alpha is not None:
                grey[..., 3] = alpha
            frame = av.VideoFrame.from_ndarray(grey, "rgb24" if alpha is None else "rgba").reformat(format=pixels)
            frame.pts, frame.time_base = number, 1 / Fraction(fps)
            container.mux(video.encode(frame))
        if frames:
            container.mux(video.encode(None))
        for track, samples in zip(tracks, sounds):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T).reshape(1, -1), "s16", track.layout.name)
            frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
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
