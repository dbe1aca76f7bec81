"""What there is on disk of a video whose server is killed in the middle of saving it."""

import os
import signal
import sys
from fractions import Fraction
from pathlib import Path

import av
import pytest
from graph import Graph
from test_failures import wait_for

sys.path.append(str(Path(__file__).resolve().parent.parent))

import ffmpeg  # noqa: E402

FPS = 16
LATENT_FRAMES, FRAMES = 40, 157
# Each frame and each piece of sound is one write: this one comes in the middle of the video.
HELD_WRITE = 190


@pytest.mark.parametrize("format", ["mp4 (h264)", "mp4 (h265)", "mkv (h264)", "webm (vp9)", "mov (prores)"])
def test_a_killed_server_leaves_a_video_that_plays_up_to_the_last_second(start_server, format):
    graph = Graph()
    size = {"batch": 1, "channels": 16, "latent_frames": LATENT_FRAMES, "height": 6, "width": 8}
    held = graph("AFPTestFault", samples=graph("AFPTestLatent", seed=1, **size), lane="mux", at=HELD_WRITE, fault="hold")
    video = graph(
        "AsyncVAEDecodeToVideo", samples=held, vae=graph("AFPTestVAE", kind="wan 2.1", seed=1), fps=FPS,
        audio=graph("AFPTestAudio", seconds=20.0),
    )  # fmt: skip
    graph(
        "SaveVideoStreaming", video=video, filename_prefix="killed", format=format, quality="high", speed="fast",
        keep_unfinished=True,
    )  # fmt: skip
    with start_server() as server:
        server.submit(graph.prompt)
        wait_for(server.base / "hold-fault.reached")
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        [path] = server.output_dir.iterdir()
        left_encoder = {round(float(line) * FPS) for line in (server.base / "packets.txt").read_text().split()}
    assert path.stem == "killed_00001_.unfinished"
    # Frames leave the encoder in another order than they are shown in: those before the first that is missing can be played.
    whole = next(i for i in range(FRAMES) if i not in left_encoder)
    assert FRAMES / 3 < whole < FRAMES, "it should be in the middle"

    with av.open(str(path)) as container:
        times = [frame.pts * frame.time_base for frame in container.decode(video=0)]
    with av.open(str(path)) as container:
        rate = container.streams.audio[0].rate
        sound_seconds = sum(frame.samples for frame in container.decode(audio=0)) / rate
    shown = next(i for i in range(len(times) + 1) if i == len(times) or abs(times[i] - Fraction(i, FPS)) > Fraction(1, 1000))
    assert shown >= whole - FPS
    assert sound_seconds >= whole / FPS - 1

    stream, audio, _ = ffmpeg.probe(path)
    assert int(stream["nb_read_frames"]) >= whole - FPS
    assert len(ffmpeg.sound(path)) / int(audio["sample_rate"]) >= whole / FPS - 1
    assert len(ffmpeg.rgb(path)) >= whole - FPS
