"""Input that cannot work: refused before any decode, with a message that says what is wrong and what to do."""

import pytest
from graph import Graph, assert_clean, refusal, state


def assert_nothing_was_decoded(server, name: str) -> None:
    watched = state(server)["vaes"].get(name)  # None where the prompt was refused before it ran at all
    assert watched is None or watched["decoder_calls"] == 0
    assert_clean(server)


@pytest.mark.parametrize("node", ["AsyncVAEDecodeVideo", "AsyncVAEDecodeToVideo"])
@pytest.mark.parametrize("kind, channels, expected", [("wan 2.1", 48, 16), ("wan 2.2", 16, 48), ("wan 2.1", 4, 16)])
def test_latent_of_another_model(server, seed, node, kind, channels, expected):
    name = f"mismatch {seed}"
    graph = Graph()
    vae = graph("AFPTestVAE", kind=kind, seed=seed, name=name)
    samples = graph("AFPTestLatent", batch=1, channels=channels, latent_frames=2, height=4, width=4, seed=seed)
    more = {"fps": 16} if node == "AsyncVAEDecodeToVideo" else {}
    graph("PreviewAny", source=graph(node, samples=samples, vae=vae, **more))
    message = refusal(server, graph)
    assert f"{channels} channels" in message
    assert str(expected) in message
    assert "VAE" in message
    assert_nothing_was_decoded(server, name)


def video_refusal(server, seed: int, name: str, audio_fault: str | None = None, prefix: str = "bad", **inputs) -> str:
    graph = Graph()
    vae = graph("AFPTestVAE", kind="wan 2.1", seed=seed, name=name)
    samples = graph("AFPTestLatent", batch=1, channels=16, latent_frames=2, height=4, width=4, seed=seed)
    if audio_fault:
        inputs["audio"] = graph("AFPTestAudio", seconds=1.0, fault=audio_fault)
    video = graph("AsyncVAEDecodeToVideo", samples=samples, vae=vae, **{"fps": 16, **inputs})
    graph("SaveVideoStreaming", video=video, filename_prefix=prefix, format="mp4 (h264)", quality="high")
    return refusal(server, graph)


@pytest.mark.parametrize("fps", [0, -1, 1e9, float("nan"), float("inf")])
def test_fps(server, seed, fps):
    message = video_refusal(server, seed, f"fps {seed}", fps=fps)
    assert "fps" in message
    assert_nothing_was_decoded(server, f"fps {seed}")


@pytest.mark.parametrize("fault", ["no waveform", "no sample rate", "no samples"])
def test_audio_without_samples(server, seed, fault):
    message = video_refusal(server, seed, f"audio {seed}", audio_fault=fault)
    assert "audio" in message
    assert "sample" in message
    assert_nothing_was_decoded(server, f"audio {seed}")


@pytest.mark.parametrize("prefix", ["../../x", "/tmp/x", "a/../../x"])
def test_prefix_that_leaves_the_output_folder(server, seed, prefix):
    message = video_refusal(server, seed, f"prefix {seed}", prefix=prefix)
    assert prefix in message
    assert "output folder" in message
    assert_nothing_was_decoded(server, f"prefix {seed}")
    assert not (server.base / "x_00001_.mp4").exists()


def test_prefix_below_something_that_is_no_folder(server, seed):
    """Not an escape: the message must not say so, but name what is in the way."""
    (server.output_dir / f"file_{seed}.mp4").write_bytes(b"not a folder")
    message = video_refusal(server, seed, f"prefix {seed}", prefix=f"file_{seed}.mp4/x")
    assert f"file_{seed}.mp4" in message
    assert "inside the output folder" not in message
    assert_nothing_was_decoded(server, f"prefix {seed}")
