"""Reading files with Debian's ffmpeg and ffprobe: a reader that shares no code with the PyAV that wrote them."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

# Rounds as exactly as swscale can; by default it trades up to three codes for speed.
EXACT = "accurate_rnd+full_chroma_int+full_chroma_inp+bicubic"


def program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.fail(f"these tests read files with {name}, which is not here: apt-get install ffmpeg", pytrace=False)
    return path


@functools.cache
def probe(path: Path) -> tuple[dict, dict | None, dict]:
    """What ffprobe says of (the video stream, the sound or None, the container);
    "nb_read_frames" is counted by decoding.

    Asked once for each file: finished files do not change.
    """
    shown = ["-show_streams", "-show_format", "-count_frames", "-of", "json"]
    told = json.loads(_run("ffprobe", *shown, path))
    streams = {stream["codec_type"]: stream for stream in told["streams"]}
    return streams["video"], streams.get("audio"), told["format"]


def rgb(path: Path, alpha: bool = False, decoder: str | None = None) -> np.ndarray:
    """All frames as ffmpeg decodes them and converts them by the file's colour tags.

    Args:
        alpha: with transparency.
        decoder: one of ffmpeg's, where its first choice does not do.
    Returns:
        (T, H, W, 3 or 4) float32 in [0, 1].
    """
    [pictures] = _read(path, decoder, [_Rgb(path, alpha)])
    return pictures


def codes(path: Path, pixels: str, decoder: str | None = None) -> np.ndarray:
    """All frames as they are stored, in the file's own planar format `pixels`: (T, n) uint8 or uint16."""
    [stored] = _read(path, decoder, [_Codes(path, pixels)])
    return stored


def sound(path: Path) -> np.ndarray:
    """(samples, channels) float32, as ffmpeg decodes it."""
    [samples] = _read(path, None, [_Sound(path)])
    return samples


def read(
    path: Path, alpha: bool = False, pixels: str | None = None, decoder: str | None = None
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """What `rgb`, `codes` (None without `pixels`) and `sound` (None where there is none) give.

    By one process, which takes longer to start than to read a short file.
    """
    wanted = [_Rgb(path, alpha), _Codes(path, pixels) if pixels else None, _Sound(path) if probe(path)[1] else None]
    there = iter(_read(path, decoder, [each for each in wanted if each]))
    return tuple(each and next(there) for each in wanted)


class _Pictures:
    """An output of ffmpeg's, and what to make of it."""

    def __init__(self, path: Path, pixels: str):
        self._video = probe(path)[0]
        # Where chroma is shared, ffmpeg 5 takes it to sit between two columns, whatever the file says.
        left = ":in_h_chr_pos=0" if any(shared in self._video["pix_fmt"] for shared in ("420", "422")) else ""
        self.arguments = [
            "-map",
            "0:v",
            "-vsync",
            "0",
            "-vf",
            f"scale=flags={EXACT}{left}",
            "-f",
            "rawvideo",
            "-pix_fmt",
            pixels,
        ]


class _Rgb(_Pictures):
    def __init__(self, path: Path, alpha: bool):
        super().__init__(path, "gbrapf32le" if alpha else "gbrpf32le")
        self._planes = [2, 0, 1, 3] if alpha else [2, 0, 1]

    def array(self, raw: bytes) -> np.ndarray:
        shape = -1, len(self._planes), self._video["height"], self._video["width"]
        planes = np.frombuffer(raw, np.float32).reshape(shape)
        return np.moveaxis(planes[:, self._planes], 1, -1)


class _Codes(_Pictures):
    def __init__(self, path: Path, pixels: str):
        super().__init__(path, pixels)
        self._dtype = np.uint16 if pixels.endswith("le") else np.uint8

    def array(self, raw: bytes) -> np.ndarray:
        return np.frombuffer(raw, self._dtype).reshape(int(self._video["nb_read_frames"]), -1)


class _Sound:
    arguments = ["-map", "0:a", "-f", "f32le"]

    def __init__(self, path: Path):
        self._channels = probe(path)[1]["channels"]

    def array(self, raw: bytes) -> np.ndarray:
        return np.frombuffer(raw, np.float32).reshape(-1, self._channels)


def _read(path: Path, decoder: str | None, outputs: list) -> list[np.ndarray]:
    choice = ["-c:v", decoder] if decoder else []
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, str(i)) for i in range(len(outputs))]
        told = [argument for each, file in zip(outputs, files) for argument in (*each.arguments, file)]
        _run("ffmpeg", *choice, "-i", path, *told)
        return [each.array(file.read_bytes()) for each, file in zip(outputs, files)]


def seconds(stream: dict, container: dict) -> Fraction:
    """Length of a stream; Matroska tells the container's only."""
    return Fraction(stream.get("duration") or container["duration"])


def _run(name: str, *arguments: object) -> bytes:
    done = subprocess.run([program(name), "-v", "error", *map(str, arguments)], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout
