"""What there is on disk of a video whose server is killed in the middle of saving it."""

import os
import shutil
import signal
import sys
from fractions import Fraction
from pathlib import Path

import av
import pytest
from graph import Graph, assert_clean
from resume import assert_rescued, disarm
from test_failures import wait_for

sys.path.append(str(Path(__file__).resolve().parent.parent))

import ffmpeg

FPS = 16
FRAMES = 157
LATENT = {"batch": 1, "channels": 16, "latent_frames": 40, "height": 6, "width": 8, "seed": 1}
# Each frame and each piece of sound is one write: this one comes in the middle of the video.
HELD_WRITE = 190


def submit(server, prefix: str, format: str) -> str:
    """Queue a prompt that stands still in the middle of writing its file; returns its id when it does."""
    for name in ("hold-fault.reached", "hold-fault.go", "packets.txt"):
        (server.base / name).unlink(missing_ok=True)
    graph = Graph()
    held = graph("AFPTestFault", samples=graph("AFPTestLatent", **LATENT), lane="mux", at=HELD_WRITE, fault="hold")
    video = graph(
        "AsyncVAEDecodeToVideo",
        samples=held,
        vae=graph("AFPTestVAE", kind="wan 2.1", seed=1),
        fps=FPS,
        audio=graph("AFPTestAudio", seconds=20.0),
        save_latents_first=True,
    )
    graph(
        "SaveVideoStreaming",
        video=video,
        filename_prefix=prefix,
        format=format,
        quality="high",
        speed="fast",
        keep_unfinished=True,
        preview=False,  # whose packets would count too
    )
    prompt_id = server.submit(graph.prompt)
    wait_for(server.base / "hold-fault.reached")
    return prompt_id


@pytest.mark.parametrize("format", ["mp4 (h264)", "mp4 (h265)", "mkv (h264)", "webm (vp9)", "mov (prores)"])
def test_what_a_killed_server_leaves_plays_up_to_the_last_second(server, seed, tmp_path, format):
    """A copy of the file while the server is writing it; that a kill leaves the same, the test below shows."""
    prompt_id = submit(server, f"killed_{seed}", format)
    [unfinished] = server.output_dir.glob(f"killed_{seed}_*")
    path = Path(shutil.copy(unfinished, tmp_path))
    left_encoder = {round(float(line) * FPS) for line in (server.base / "packets.txt").read_text().split()}
    server.interrupt()
    (server.base / "hold-fault.go").touch()
    server.wait(prompt_id)
    disarm(server)
    assert_clean(server)
    unfinished.unlink()
    assert path.stem == f"killed_{seed}_00001_.unfinished"
    # Frames leave the encoder in another order than they are shown in:
    # those before the first that is missing can be played.
    whole = next(i for i in range(FRAMES) if i not in left_encoder)
    assert FRAMES / 3 < whole < FRAMES, "it should be in the middle"

    with av.open(str(path)) as container:
        times = [frame.pts * frame.time_base for frame in container.decode(video=0)]
    with av.open(str(path)) as container:
        rate = container.streams.audio[0].rate
        sound_seconds = sum(frame.samples for frame in container.decode(audio=0)) / rate
    shown = next(
        i for i in range(len(times) + 1) if i == len(times) or abs(times[i] - Fraction(i, FPS)) > Fraction(1, 1000)
    )
    assert shown >= whole - FPS
    assert sound_seconds >= whole / FPS - 1

    stream, audio, _ = ffmpeg.probe(path)
    assert int(stream["nb_read_frames"]) >= whole - FPS
    assert len(ffmpeg.sound(path)) / int(audio["sample_rate"]) >= whole / FPS - 1
    assert len(ffmpeg.rgb(path)) >= whole - FPS


def test_a_killed_server_leaves_all_that_was_written(start_server):
    with start_server() as server:
        submit(server, "killed", "mp4 (h264)")
        [path] = server.output_dir.iterdir()
        [latents] = (server.base / "input").glob("*.latent")
        before = path.read_bytes()
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        assert path.read_bytes() == before and len(before) > 0
        assert_rescued(latents, LATENT)
