"""Any size, length, frame rate and sound, from any source, through the real nodes:
a correct file or a clear refusal.
"""

import importlib
import itertools
from fractions import Fraction

import av
import host
import pytest
from graph import Graph, Link, run
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

frames_until = importlib.import_module("async_frame_pipeline.pipeline.sinks.video_file").frames_until
FORMATS = ["mp4 (h264)", "mp4 (h265)", "mp4 (av1)", "mkv (h264)", "mkv (ffv1)", "webm (vp9)", "mov (prores)", "gif"]
# What is said where a format, or an encoder, does not have what was asked for.
REFUSALS = ["cannot be opened for", "plays at most", "needs at least 32 pixels", "channels cannot be written"]
_names = itertools.count(1)

sides = st.one_of(st.integers(1, 20), st.sampled_from([31, 33, 48, 64, 97, 130, 256]))
# Create Video has 1 to 120; Async VAE Decode to Video has more.
rates = st.one_of(st.integers(1, 120).map(float), st.sampled_from([23.976, 29.97, 12.5, 59.94, 1.001]))
fast_rates = st.one_of(rates, st.sampled_from([0.5, 144.0, 239.76, 240.0]))
sounds = st.one_of(
    st.none(),
    st.tuples(st.floats(0.001, 4.0), st.sampled_from([8000, 11025, 22050, 44100, 48000, 96000]), st.integers(1, 9)),
)


@st.composite
def cases(draw) -> dict:
    kind = draw(st.sampled_from(["latents", "images", "file"]))
    large = draw(st.integers(0, 11)) == 0
    case = {
        "kind": kind,
        "format": draw(st.sampled_from(FORMATS)),
        "sound": draw(sounds),
        "audio_length": draw(st.sampled_from(["video", "longest", "shortest"])),
        "ping_pong": draw(st.booleans()),
        "repeat": draw(st.sampled_from([0, 0, 0, 2])),
        "keep_unfinished": draw(st.booleans()),
        "fps": draw(fast_rates if kind == "latents" else rates),
    }
    if kind == "latents":
        frames = 4 * draw(st.one_of(st.integers(1, 4), st.just(60))) - 3
        size = (8 * draw(st.integers(1, 6)), 8 * draw(st.integers(1, 6)))
    elif large:
        frames, size = draw(st.integers(1, 2)), (2160, 3840)
    else:
        frames, size = draw(st.one_of(st.integers(1, 12), st.sampled_from([100, 333]))), (draw(sides), draw(sides))
    return case | {"frames": frames, "height": size[0], "width": size[1]}


def source(graph: Graph, case: dict) -> Link:
    """The case's VIDEO."""
    sound = {}
    if case["sound"] is not None:
        seconds, rate, channels = case["sound"]
        sound = {"audio": graph("AFPTestAudio", seconds=max(seconds, 1 / rate), sample_rate=rate, channels=channels)}
    if case["kind"] == "latents":
        size = {"latent_frames": (case["frames"] + 3) // 4, "height": case["height"] // 8, "width": case["width"] // 8}
        samples = graph("AFPTestLatent", batch=1, channels=16, seed=next(_names), **size)
        vae = graph("AFPTestVAE", kind="wan 2.1", seed=1, name="any")
        return graph("AsyncVAEDecodeToVideo", samples=samples, vae=vae, fps=case["fps"], **sound)
    images = graph("AFPTestPatches", frames=case["frames"], height=case["height"], width=case["width"])
    video = graph("CreateVideo", images=images, fps=case["fps"], **sound)
    if case["kind"] == "file":
        # Read back by our own nodes, a few frames at a time.
        between = {"format": "mkv (ffv1)", "chroma": "4:4:4", "quality": "high", "audio_length": "longest"}
        video = graph("SaveVideoStreaming", video=video, filename_prefix=f"between_{next(_names)}", **between)[0]
    return video


SETTINGS = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=20, **SETTINGS)
@given(case=cases())
@example(
    case={
        "kind": "images",
        "format": "mp4 (h264)",
        "sound": (0.5, 48000, 2),
        "audio_length": "video",
        "ping_pong": False,
        "repeat": 0,
        "keep_unfinished": False,
        "fps": 24.0,
        "frames": 1,
        "height": 1,
        "width": 1,
    }
)
@example(
    case={
        "kind": "file",
        "format": "mp4 (h265)",
        "sound": (2.0, 44100, 6),
        "audio_length": "longest",
        "ping_pong": True,
        "repeat": 2,
        "keep_unfinished": True,
        "fps": 23.976,
        "frames": 2,
        "height": 2160,
        "width": 3840,
    }
)
@example(
    case={
        "kind": "latents",
        "format": "webm (vp9)",
        "sound": (0.01, 8000, 1),
        "audio_length": "shortest",
        "ping_pong": True,
        "repeat": 0,
        "keep_unfinished": True,
        "fps": 240.0,
        "frames": 237,
        "height": 16,
        "width": 8,
    }
)
def test_any_video(server, case):
    check(server, case)


@pytest.mark.nightly
@settings(max_examples=200, **SETTINGS)
@given(case=cases())
def test_many_videos(server, case):
    check(server, case)


def check(server, case: dict) -> None:
    graph = Graph()
    prefix = f"any_{next(_names)}"
    how = {name: case[name] for name in ("format", "audio_length", "ping_pong", "repeat", "keep_unfinished")}
    saver = graph(
        "SaveVideoStreaming", video=source(graph, case), filename_prefix=prefix, quality="high", speed="fastest", **how
    )
    try:
        outcome = run(server, graph)
    except host.PromptFailed as refused:
        message = refused.error["exception_message"]
        assert any(said in message for said in REFUSALS), message
        assert not list(server.output_dir.rglob(f"*{prefix}*")), "debris"
        return
    file = outcome.ui(saver)["images"][0]
    frames, seconds = expected(case)
    fps = Fraction(round(case["fps"] * 1000), 1000)
    path = server.output_dir / file["subfolder"] / file["filename"]
    with av.open(str(path)) as container:
        times = [frame.pts * frame.time_base for frame in container.decode(video=0)]
    assert len(times) == frames
    # Matroska counts milliseconds, GIF hundredths; what comes out of a Matroska file has its clock's rate.
    exact = Fraction(1, 90) if case["format"] == "gif" else Fraction(2, 1000)
    assert all(abs(time - i / fps) <= exact + i / fps / 5000 for i, time in enumerate(times))
    if case["sound"] is not None and case["format"] != "gif":
        with av.open(str(path)) as container:
            stream = container.streams.audio[0]
            heard = Fraction(sum(frame.samples for frame in container.decode(stream)), stream.rate)
            assert stream.codec_context.channels == case["sound"][2]
        # To a frame of the codec at either end.
        assert abs(heard - seconds) <= Fraction(2 * 2048, stream.rate) + seconds / 5000
    for left in server.output_dir.glob("between_*"):
        left.unlink()
    path.unlink()


def expected(case: dict) -> tuple[int, Fraction]:
    """Frames in the file, and the length of its sound."""
    fps, frames = Fraction(round(case["fps"] * 1000), 1000), case["frames"]
    sound = Fraction(0)
    if case["sound"] is not None:
        seconds, rate, _ = case["sound"]
        sound = Fraction(max(1, round(max(seconds, 1 / rate) * rate)), rate)
        if case["kind"] == "file":
            sound = max(sound, frames / fps)  # the file between was padded
    if case["ping_pong"]:
        frames = max(frames, 2 * frames - 2)
    if case["format"] != "gif":
        frames *= max(1, case["repeat"])
    if case["audio_length"] == "shortest" and sound:
        frames = min(frames, frames_until(sound, fps))
    seconds = frames / fps
    return frames, max(seconds, sound) if case["audio_length"] == "longest" else seconds


def test_the_cases_are_what_they_should_be():
    """Of each kind there are some; the rarest is drawn where it is not an example."""
    seen = []

    @settings(max_examples=40, **SETTINGS)
    @given(case=cases())
    def collect(case):
        seen.append(case)

    collect()
    assert {case["kind"] for case in seen} == {"latents", "images", "file"}
    assert len({case["format"] for case in seen}) >= len(FORMATS) - 1
    assert pytest.approx(0.5, abs=0.35) == sum(case["sound"] is not None for case in seen) / len(seen)
