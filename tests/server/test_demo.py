"""The first thing a newcomer runs."""

import re
import subprocess
import sys
from pathlib import Path

import host
from mp4 import read


def test_demo_makes_both_videos_and_compares_them():
    done = subprocess.run([sys.executable, host.REPO / "scripts" / "demo"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    frames = 33 if "on the GPU" in done.stdout else 13
    ours, stock = (read(Path(path)) for path in re.findall(r"/.*\.mp4", done.stdout))
    for video in (ours, stock):
        assert (len(video.pts), video.width, video.height, video.fps) == (frames, 480, 272, 16)
    assert done.stdout.count(f"{frames} frames, 480x272, 16 fps") == 2
    [psnr] = re.findall(r"PSNR between the two files: ([\d.]+) dB", done.stdout)
    # 37.5 dB between two encodings of the same pictures; 33.4 dB where ours is read with the wrong matrix.
    assert float(psnr) > 35
    assert f"{frames} frames in" in done.stdout, "no lane report"
