"""The facts of a file that was saved: for the node, for programs and for the log."""

from __future__ import annotations

from pathlib import Path

from ..pipeline.sinks.formats import FileSink
from ..pipeline.sinks.video_file import VideoOptions


def facts(sink: FileSink, options: VideoOptions, width: int, height: int, subfolder: str, kind: str) -> dict:
    """What a published sink has written, ready for JSON.

    "filename", "subfolder" and "type" are those of /view, for a folder of its first picture; "path" is absolute.
    "codec" and "sound" (None without) are named as in the formats.

    Args:
        width, height: of the frames.
        subfolder, kind: where it is, below ComfyUI's "output" or "temp" folder.
    """
    path, choice = sink.path, options.choice
    assert path is not None, "it is published"
    shown = _first_picture(path) if path.is_dir() else path
    sound = options.sound_codec
    seconds = sink.frames / options.fps
    if sound is not None and options.whole_audio:
        seconds = max(seconds, options.audio.seconds)
    return {
        "filename": shown.name,
        "subfolder": "/".join(part for part in (subfolder, path.name if path.is_dir() else "") if part),
        "type": kind,
        "path": str(path.absolute()),
        "format": choice.format.name,
        "codec": choice.format.codec,
        "bit_depth": choice.bit_depth,
        "chroma": choice.chroma,
        "sound": sound,
        "width": width,
        "height": height,
        "frames": sink.frames,
        "fps": float(options.fps),
        "seconds": float(seconds),
        "bytes": sum(each.stat().st_size for each in path.iterdir()) if path.is_dir() else path.stat().st_size,
        "plays": choice.plays,
    }


def line(file: dict) -> str:
    """The same for the log."""
    sound = f", sound {file['sound']}" if file["sound"] else ""
    return (
        f"saved {file['path']}: {file['width']}x{file['height']}, {file['frames']} frames, {file['fps']:g} fps, "
        f"{file['seconds']:.2f} s, {file['codec']} {file['bit_depth']} bit {file['chroma']}{sound}, "
        f"{_size(file['bytes'])}"
    )


def _first_picture(folder: Path) -> Path:
    return min(folder.iterdir())


def _size(number: int) -> str:
    return f"{number / 1e6:.1f} MB" if number >= 1e6 else f"{number / 1e3:.1f} kB"
