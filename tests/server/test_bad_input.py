"""Input that cannot work: refused before any decode, with a message that says what is wrong and what to do."""

import pytest
from graph import Graph, assert_clean, linked, refusal, state


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
    assert f"decodes {expected} channels, the latent has {channels}" in message
    assert str(expected) in message
    assert "VAE" in message
    assert_nothing_was_decoded(server, name)


def video_refusal(
    server,
    seed: int,
    name: str,
    audio_fault: str | None = None,
    prefix: str = "bad",
    from_another_node: dict | None = None,
    **inputs,
) -> str:
    """What the user sees; of the saver's inputs, those in `from_another_node` are not typed."""
    graph = Graph()
    vae = graph("AFPTestVAE", kind="wan 2.1", seed=seed, name=name)
    samples = graph("AFPTestLatent", batch=1, channels=16, latent_frames=2, height=4, width=4, seed=seed)
    if audio_fault:
        inputs["audio"] = graph("AFPTestAudio", seconds=1.0, fault=audio_fault)
    video = graph("AsyncVAEDecodeToVideo", samples=samples, vae=vae, **{"fps": 16, **inputs})
    typed = {"video": video, "filename_prefix": prefix, "format": "mp4 (h264)", "quality": "high"}
    given = {name: linked(graph, value) for name, value in (from_another_node or {}).items()}
    graph("SaveVideoStreaming", **typed | given)
    return refusal(server, graph)


@pytest.mark.parametrize("fps", [0, -1, 1e9, float("nan"), float("inf")])
def test_fps(server, seed, fps):
    message = video_refusal(server, seed, f"fps {seed}", fps=fps)
    assert "fps" in message
    assert_nothing_was_decoded(server, f"fps {seed}")


@pytest.mark.parametrize("fault", ["no waveform", "no sample rate"])
def test_audio_without_samples(server, seed, fault):
    message = video_refusal(server, seed, f"audio {seed}", audio_fault=fault)
    assert "audio" in message
    assert "sample" in message
    assert_nothing_was_decoded(server, f"audio {seed}")


@pytest.mark.parametrize("prefix", ["../../x", "/tmp/x", "a/../../x"])
@pytest.mark.parametrize("typed", [True, False])
def test_prefix_that_leaves_the_output_folder(server, seed, prefix, typed):
    """One that is typed is refused before the models run; one that another node makes, before the decode."""
    given = {"prefix": prefix} if typed else {"from_another_node": {"filename_prefix": prefix}}
    message = video_refusal(server, seed, f"prefix {seed}", **given)
    assert prefix in message
    assert "output folder" in message
    assert ("Custom validation failed" in message) == typed
    assert_nothing_was_decoded(server, f"prefix {seed}")
    assert not (server.base / "x_00001_.mp4").exists()


@pytest.mark.parametrize(
    "inputs, expected",
    [
        ({"format": "avi"}, "format can be mp4 (h264), "),
        ({"quality": "best"}, "quality can be very high, high, medium, low, lossless; got best"),
        ({"speed": "ludicrous"}, "speed can be slow, medium, fast, fastest; got ludicrous"),
        ({"bit_depth": "9"}, "bit_depth can be auto, 8, 10, 12, 16; got 9"),
        ({"format": "mp4 (av1)", "bit_depth": "12"}, "mp4 (av1) at 4:2:0 has the bit depths 8, 10; got 12"),
        ({"format": "mp4 (av1)", "chroma": "4:4:4"}, "mp4 (av1) has the chroma 4:2:0; got 4:4:4"),
        ({"color": "BT.2020"}, "color can be BT.709, BT.709 full range, BT.601, BT.601 full range; got BT.2020"),
        ({"audio_length": "half"}, "audio_length can be video, longest, shortest; got half"),
        ({"audio_codec": "mp3"}, "audio_codec can be auto, aac, opus, flac, pcm; got mp3"),
        ({"audio_codec": "pcm"}, "mp4 (h264) can have sound as aac, opus, flac; got pcm"),
        ({"repeat": 1001}, "repeat can be a whole number from 0 to 1000, got 1001"),
        # ComfyUI's worker dies of a message that cannot be logged.
        ({"format": "half\ud800"}, "got half\\ud800"),
        ({"format": ["mp4 (h264)"]}, "got ['mp4 (h264)']"),
        ({"filename_prefix": 7}, "filename_prefix 7 does not name a place"),
        ({"quality": None}, "quality is None"),
        ({"video": "clip.mp4"}, "video is str"),
        ({"video": None}, "connect a video, or images"),
        ({"crf": 52}, "mp4 (h264) has CRFs from 0 to 51, got 52"),
        ({"crf": "x"}, "crf can be -1, for what quality says, or 0 to 63, got x"),
        ({"dither": "no"}, "dither can be true or false, got no"),
    ],
    ids=str,
)
def test_choice_of_the_saver_that_another_node_makes(server, seed, inputs, expected):
    """Known only at run time: refused then, as it would have been when it was queued, before the decode."""
    message = video_refusal(server, seed, f"linked {seed}", from_another_node=inputs)
    assert expected in message
    assert "Custom validation failed" not in message
    assert_nothing_was_decoded(server, f"linked {seed}")


TILES = {"tile_size": 512, "overlap": 64, "temporal_size": 64, "temporal_overlap": 8}
DECODES = {
    "AsyncVAEDecodeVideo": {},
    "AsyncVAEDecodeToVideo": {"fps": 16},
    "AsyncVAEDecodeTiled": TILES,
    "AsyncVAEDecodeTiledToVideo": {**TILES, "fps": 16},
}


@pytest.mark.parametrize("node", DECODES)
@pytest.mark.parametrize("vae", ["wan_2.1_vae.safetensors", None])
def test_what_is_no_vae(server, seed, node, vae):
    graph = Graph()
    samples = graph("AFPTestLatent", batch=1, channels=16, latent_frames=2, height=4, width=4, seed=seed)
    graph("PreviewAny", source=graph(node, samples=samples, vae=linked(graph, vae), **DECODES[node]))
    assert f"vae is {type(vae).__name__}" in refusal(server, graph)


@pytest.mark.parametrize("node", ["AsyncVAEDecodeVideo", "AsyncVAEDecodeToVideo"])
def test_decoder_that_another_node_names(server, seed, node):
    graph = Graph()
    name = f"decoder {seed}"
    vae = graph("AFPTestVAE", kind="wan 2.1", seed=seed, name=name)
    samples = graph("AFPTestLatent", batch=1, channels=16, latent_frames=2, height=4, width=4, seed=seed)
    more = {"fps": 16} if node == "AsyncVAEDecodeToVideo" else {}
    graph("PreviewAny", source=graph(node, samples=samples, vae=vae, decoder=linked(graph, "quick"), **more))
    assert "decoder can be auto, exact, fast; got quick" in refusal(server, graph)
    assert_nothing_was_decoded(server, name)


def test_prefix_below_something_that_is_no_folder(server, seed):
    """Not an escape: the message must not say so, but name what is in the way."""
    (server.output_dir / f"file_{seed}.mp4").write_bytes(b"not a folder")
    message = video_refusal(server, seed, f"prefix {seed}", prefix=f"file_{seed}.mp4/x")
    assert f"file_{seed}.mp4" in message
    assert "inside the output folder" not in message
    assert_nothing_was_decoded(server, f"prefix {seed}")
