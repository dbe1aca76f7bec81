"""Reading files with Debian's ffmpeg and ffprobe: a reader that shares no code with the PyAV that wrote them."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
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
    """What ffprobe says of (the video stream, the sound or None, the container); "nb_read_frames" is counted by decoding.

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
    video, _, _ = probe(path)
    raw = _decoded(path, "gbrapf32le" if alpha else "gbrpf32le", decoder)
    planes = np.frombuffer(raw, np.float32).reshape(-1, 4 if alpha else 3, video["height"], video["width"])
    return np.moveaxis(planes[:, [2, 0, 1, 3][: planes.shape[1]]], 1, -1)


def codes(path: Path, pixels: str, decoder: str | None = None) -> np.ndarray:
    """All frames as they are stored, in the file's own planar format `pixels`: (T, n) uint8 or uint16."""
    video, _, _ = probe(path)
    raw = np.frombuffer(_decoded(path, pixels, decoder), np.uint16 if pixels.endswith("le") else np.uint8)
    return raw.reshape(int(video["nb_read_frames"]), -1)


def _decoded(path: Path, pixels: str, decoder: str | None) -> bytes:
    choice = ["-c:v", decoder] if decoder else []
    # Where chroma is shared, ffmpeg 5 takes it to sit between two columns, whatever the file says.
    left = ":in_h_chr_pos=0" if any(shared in probe(path)[0]["pix_fmt"] for shared in ("420", "422")) else ""
    return _run(
        "ffmpeg", *choice, "-i", path, "-map", "0:v", "-vsync", "0", "-vf", f"scale=flags={EXACT}{left}",
        "-f", "rawvideo", "-pix_fmt", pixels, "-",
    )  # fmt: skip


def sound(path: Path) -> np.ndarray:
    """(samples, channels) float32, as ffmpeg decodes it."""
    _, audio, _ = probe(path)
    raw = _run("ffmpeg", "-i", path, "-map", "0:a", "-f", "f32le", "-")
    return np.frombuffer(raw, np.float32).reshape(-1, audio["channels"])


def seconds(stream: dict, container: dict) -> Fraction:
    """Length of a stream; Matroska tells the container's only."""
    return Fraction(stream.get("duration") or container["duration"])


def _run(name: str, *arguments: object) -> bytes:
    done = subprocess.run([program(name), "-v", "error", *map(str, arguments)], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout
