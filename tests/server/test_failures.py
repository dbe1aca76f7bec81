"""When something goes wrong in the middle: what the user sees, and that nothing stays behind."""

import contextlib
import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import host
import pytest
from graph import Graph, Link, assert_clean, linked, run, state
from mp4 import read

CONSUMERS = ["SaveVideoStreaming", "SaveVideo", "GetVideoComponents", "AsyncVAEDecodeVideo"]
SAVERS = CONSUMERS[:2]


def latent(graph: Graph, seed: int, **shape: int) -> Link:
    return graph("AFPTestLatent", **{"batch": 1, "channels": 16, "seed": seed, **shape})


def consume(graph: Graph, consumer: str, samples: Link, vae: Link, prefix: str, decoder: str = "auto") -> Link:
    """Decode through one of our nodes, into one of its consumers; returns the node in which decoding happens."""
    if consumer == "AsyncVAEDecodeVideo":
        node = graph("AsyncVAEDecodeVideo", samples=samples, vae=vae, decoder=decoder)
        graph("AFPTestCompareImages", a=node, b=node)
        return node
    video = graph("AsyncVAEDecodeToVideo", samples=samples, vae=vae, fps=16, decoder=decoder)
    if consumer == "GetVideoComponents":
        node = graph("GetVideoComponents", video=video)
        graph("AFPTestCompareImages", a=node[0], b=node[0])
        return node
    how = {"format": "mp4 (h264)", "quality": "very high"}  # a constant rate factor of 14
    if consumer == "SaveVideo":
        how = {"format": "mp4", "codec": "h264", "codec.encoding": "re-encode", "codec.encoding.crf": 14}
    return graph(consumer, video=video, filename_prefix=prefix, **how)


def saved_file(server, outcome, node: Link) -> Path:
    [file] = outcome.ui(node)["images"]
    return server.output_dir / file["subfolder"] / file["filename"]


def wait_for(path: Path, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} never came"
        time.sleep(0.02)


def skip_if_quality_is_fixed(server, saver: str) -> None:
    """Older ComfyUIs' Save Video has no quality to choose, which these tests count on."""
    if saver == "SaveVideo" and '"encoding"' not in json.dumps(server.get("/object_info/SaveVideo")):
        pytest.skip("this ComfyUI's Save Video has no quality to choose")


@contextlib.contextmanager
def full_disk(server, free_bytes: int) -> Iterator[None]:
    """Let no file of the server grow beyond its log plus `free_bytes`: writes then fail as on a full disk."""
    pid = server.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    limit = server.log_path.stat().st_size + free_bytes
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("consumer", CONSUMERS)
def test_interrupt_in_mid_decode(server, seed, consumer):
    graph = Graph()
    vae = graph("AFPTestVAE", kind="wan 2.1", seed=seed, name=f"held {seed}", hold_at=3)
    samples = latent(graph, seed, latent_frames=9, height=4, width=4)
    consume(graph, consumer, samples, vae, f"interrupted_{seed}", "exact")  # the VAE's own decoder is what is held
    prompt_id = server.submit(graph.prompt)
    wait_for(server.base / f"hold-held {seed}.reached")
    server.interrupt()
    (server.base / f"hold-held {seed}.go").touch()
    events = [event for event, _ in server.wait(prompt_id)["status"]["messages"]]
    assert "execution_interrupted" in events
    assert "execution_error" not in events
    assert state(server)["vaes"][f"held {seed}"]["decoder_calls"] < 5, "the decode went on to its end"
    assert_clean(server)
    assert list(server.output_dir.rglob(f"interrupted_{seed}*")) == []

    run(server, graph)
    assert_clean(server)


@pytest.mark.parametrize("saver", SAVERS)
def test_disk_full_in_mid_file(quiet_server, saver):
    graph = Graph()
    # This seed's pictures make a file of 197 kB, nearly three times what there is room for; others make 40 kB.
    vae = graph("AFPTestVAE", kind="wan 2.1", seed=1)
    samples = latent(graph, 1, latent_frames=30, height=16, width=16)
    node = consume(graph, saver, samples, vae, "full")
    server = quiet_server
    skip_if_quality_is_fixed(server, saver)
    with full_disk(server, free_bytes=65536), pytest.raises(host.PromptFailed) as failed:
        server.run(graph.prompt)
    assert failed.value.error["node_id"] == node.node
    assert "File too large" in failed.value.error["exception_message"]
    assert any("pipeline" in line for line in failed.value.error["traceback"])
    assert_clean(server)
    assert list(server.output_dir.rglob("full*")) == []

    outcome = run(server, graph)
    path = saved_file(server, outcome, node)
    assert len(read(path).pts) == 117
    path.unlink()


@pytest.mark.parametrize("saver", SAVERS)
def test_encoder_that_cannot_open(server, seed, saver):
    """H.264 ends at 16384 pixels: said before the decode, not after it."""
    graph = Graph()
    vae = graph("AFPTestVAE", kind="wan 2.1", seed=seed, name=f"wide {seed}")
    node = consume(graph, saver, latent(graph, seed, latent_frames=2, height=2, width=2080), vae, f"wide_{seed}")
    with pytest.raises(host.PromptFailed) as failed:
        server.run(graph.prompt)
    assert failed.value.error["node_id"] == node.node
    assert "16640x16" in failed.value.error["exception_message"], "the message should name the size that is too large"
    assert state(server)["vaes"][f"wide {seed}"]["decoder_calls"] == 0
    assert_clean(server)
    assert list(server.output_dir.rglob(f"wide_{seed}*")) == []

    graph = Graph()
    vae = graph("AFPTestVAE", kind="wan 2.1", seed=seed, name=f"narrow {seed}")
    node = consume(graph, saver, latent(graph, seed, latent_frames=2, height=2, width=2), vae, f"narrow_{seed}")
    assert len(read(saved_file(server, run(server, graph), node)).pts) == 5


@pytest.mark.parametrize("saver", SAVERS)
def test_out_of_memory_while_saving_restarts_the_file(server, seed, saver):
    """The file holds the stock node's tiled pictures from the first frame on, none of those from before."""
    skip_if_quality_is_fixed(server, saver)
    graph = Graph()
    samples = latent(graph, seed, latent_frames=5, height=6, width=48)
    vaes = [
        graph("AFPTestVAE", kind="wan 2.1", seed=seed, name=f"oom {seed} {which}", oom_at=2, oom_times=times)
        # Ours tries once more before it decodes in tiles; that fails at once.
        for which, times in (("ours", 2), ("stock", 1))
    ]
    ours = consume(graph, saver, samples, vaes[0], f"oom_{seed}", "exact")
    stock_video = graph("CreateVideo", images=graph("VAEDecode", samples=samples, vae=vaes[1]), fps=16)
    reference = graph(
        "SaveVideoStreaming",
        video=stock_video,
        filename_prefix=f"reference_{seed}",
        format="mp4 (h264)",
        quality="very high",
    )
    outcome = run(server, graph)
    video, expected = (read(saved_file(server, outcome, node)) for node in (ours, reference))
    assert len(video.pts) == 17
    assert video.frames_equal(expected)
    assert_clean(server)


def test_error_in_one_consumer_leaves_the_video_usable_for_another(server, seed):
    """A failed save never costs the generation: the same VIDEO, saved again, is whole."""
    graph = Graph()
    vae = graph("AFPTestVAE", kind="wan 2.1", seed=seed)
    video = graph(
        "AsyncVAEDecodeToVideo", samples=latent(graph, seed, latent_frames=3, height=4, width=4), vae=vae, fps=16
    )
    prefix = linked(graph, "../outside")  # one that is typed is refused before anything runs
    node = graph("SaveVideoStreaming", video=video, filename_prefix=prefix, format="mp4 (h264)", quality="high")
    with pytest.raises(host.PromptFailed):
        server.run(graph.prompt)
    graph.prompt[node.node]["inputs"]["filename_prefix"] = f"inside_{seed}"
    assert len(read(saved_file(server, run(server, graph), node)).pts) == 9
