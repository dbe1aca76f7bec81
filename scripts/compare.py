"""Reopen two video files and compare their pictures; runs on the host's Python (PyAV, numpy).

    python compare.py ours.mp4 stock.mp4

Prints one JSON object: {"videos": [{frames, width, height, fps, seconds}, ...], "psnr": dB over all frames}.
"""

import json
import sys
from collections.abc import Iterator

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace


def frames_rgb(path: str) -> Iterator[np.ndarray]:
    """Decode to (H, W, 3) uint8 RGB, by the matrix the file is tagged with.

    A file without a tag is read as BT.601, limited range: that is how ComfyUI's own saver converts its
    pictures (swscale's default for RGB input), and it does not say so in the file. Read as BT.709, which is
    what players assume at HD sizes, the same file shows shifted greens and reds.
    """
    with av.open(path) as container:
        for frame in container.decode(video=0):
            tagged_709 = frame.colorspace == Colorspace.ITU709
            full_range = frame.color_range == ColorRange.JPEG
            yield frame.to_ndarray(
                format="rgb24",
                src_colorspace=Colorspace.ITU709 if tagged_709 else Colorspace.ITU601,
                src_color_range=ColorRange.JPEG if full_range else ColorRange.MPEG,
                dst_color_range=ColorRange.JPEG,
            )


def facts(path: str) -> dict:
    """Frame count (by decoding), size, rate and length of a file's video stream."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        return {
            "frames": sum(1 for _ in container.decode(stream)),
            "width": stream.codec_context.width,
            "height": stream.codec_context.height,
            "fps": float(stream.average_rate),
            "seconds": float(stream.duration * stream.time_base),
        }


def psnr(path_a: str, path_b: str) -> float:
    """Peak signal-to-noise ratio in dB over all frames, in RGB; infinite where they are equal."""
    squares, count = 0.0, 0
    for a, b in zip(frames_rgb(path_a), frames_rgb(path_b), strict=True):
        squares += float(np.square(a.astype(np.float32) - b).sum(dtype=np.float64))
        count += a.size
    return float("inf") if squares == 0 else 10 * float(np.log10(255**2 * count / squares))


if __name__ == "__main__":
    videos = [facts(path) for path in sys.argv[1:3]]
    same_size = len({(v["frames"], v["width"], v["height"]) for v in videos}) == 1
    json.dump({"videos": videos, "psnr": psnr(*sys.argv[1:3]) if same_size else None}, sys.stdout)
