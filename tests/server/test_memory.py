"""Saving needs no frame tensor: the server's memory does not grow with the length of the video."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from graph import Graph, run

SIZE = 16  # latent; 128x128 pixels
SHORT, MIDDLE, LONG = 10, 100, 200  # latent frames


@pytest.fixture(scope="module")
def server(start_server):
    """A server of this file's own: what another test took and gave back would hide what these take."""
    with start_server() as server:
        yield server


def image_bytes(latent_frames: int) -> int:
    """Size of the whole video as an IMAGE."""
    return (4 * latent_frames - 3) * (8 * SIZE) ** 2 * 3 * 4


def peak_bytes(server, graph: Graph) -> int:
    """The largest resident size of the server process while it runs a prompt."""
    process = Path("/proc") / str(server.process.pid)
    (process / "clear_refs").write_text("5")  # resets VmHWM to the present size
    run(server, graph)
    [line] = [line for line in (process / "status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def save(latent_frames: int, seed: int, decoder: str | None) -> Graph:
    """By one of ours, or by the stock nodes."""
    graph = Graph()
    vae = graph("AFPTestVAE", kind="wan 2.1", seed=1, name="memory")
    size = {"latent_frames": latent_frames, "height": SIZE, "width": SIZE}
    samples = graph("AFPTestLatent", batch=1, channels=16, seed=seed, **size)
    if decoder:
        video = graph("AsyncVAEDecodeToVideo", samples=samples, vae=vae, fps=16, decoder=decoder)
    else:
        video = graph("CreateVideo", images=graph("VAEDecode", samples=samples, vae=vae), fps=16)
    graph("SaveVideoStreaming", video=video, filename_prefix="memory", format="mp4 (h264)", quality="low")
    return graph


SOUND_RATE, SOUND_SECONDS = 48000, {"short": 20, "long": 600}


def write_clip(path: Path, seconds: int) -> None:
    """Two small frames a second, and stereo sound."""
    second = (np.sin(np.arange(SOUND_RATE) * 0.03) * 1e4).astype(np.int16).repeat(2)
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=2)
        video.width = video.height = 64
        sound = container.add_stream("pcm_s16le", rate=SOUND_RATE, layout="stereo")
        for i in range(2 * seconds):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), i % 256, np.uint8), "rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 2)
            container.mux(video.encode(frame))
            if i % 2 == 0:
                piece = av.AudioFrame.from_ndarray(second[None], "s16", "stereo")
                piece.sample_rate, piece.pts, piece.time_base = SOUND_RATE, i // 2 * SOUND_RATE, Fraction(1, SOUND_RATE)
                container.mux(sound.encode(piece))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))


@pytest.mark.parametrize("length", ["video", pytest.param("longest", marks=pytest.mark.nightly)])
def test_a_loaded_file_is_held_neither_in_frames_nor_in_sound(server, length):
    """Ten minutes against twenty seconds: the sound of ten minutes would be 230 MB."""
    peaks = {}
    for name, seconds in [("warm-up", SOUND_SECONDS["short"]), *SOUND_SECONDS.items()]:
        write_clip(server.base / "input" / f"{name}.mkv", seconds)
        graph = Graph()
        video = graph("LoadVideo", file=f"{name}.mkv")
        graph(
            "SaveVideoStreaming",
            video=video,
            filename_prefix=f"{length}_{name}",
            format="mkv (h264)",
            quality="low",
            speed="fastest",
            audio_length=length,
        )
        peaks[name] = peak_bytes(server, graph)
        [path] = server.output_dir.glob(f"{length}_{name}*.mkv")
        with av.open(str(path)) as container:
            assert container.duration / av.time_base == pytest.approx(seconds, abs=0.1)
    held = 4 * 2 * SOUND_RATE * SOUND_SECONDS["long"]
    assert peaks["long"] - peaks["short"] < held / 10, {name: peak // 10**6 for name, peak in peaks.items()}


@pytest.mark.parametrize("decoder", ["fast", "exact"])
def test_peak_does_not_grow_with_the_length(server, decoder):
    """200 latent frames against 10, within 10 %.

    Exact also catches what only fragments memory: one small tensor kept per chunk, between the decoder's large and
    short-lived ones, lets glibc's heap grow by 5 MB per latent frame. Tighter than 10 % would measure glibc's mood:
    the same prompt varies by 5 %.
    """
    run(server, save(SHORT, 1, decoder))  # what is allocated once: threads, kernels, encoder, the fast weights
    short = peak_bytes(server, save(SHORT, 2, decoder))
    long = peak_bytes(server, save(LONG, 3, decoder))
    assert long <= 1.10 * short
    assert 0.10 * short < 0.75 * image_bytes(LONG), "the bound is too wide to notice the frames"


@pytest.mark.nightly
def test_this_measure_sees_frames_that_are_in_memory(server):
    """The last of this file: what it took, the process may keep."""
    short = peak_bytes(server, save(SHORT, 4, "exact"))
    stock = peak_bytes(server, save(MIDDLE, 5, None))
    assert stock - short >= 0.9 * image_bytes(MIDDLE)
