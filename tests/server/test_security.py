"""What SECURITY.md promises, through a real server: crafted inputs are refused or handled, and it goes on."""

import fuzzing
import pytest
from graph import Graph, assert_clean, refusal, run

HANDLED = {"nan", "infinite"}  # pictures of some colour, as the stock nodes make them
LATENTS = [
    "no dict",
    "no samples",
    "no tensor",
    "whole numbers",
    "rank 2",
    "rank 7",
    "no frames",
    "no height",
    "endless",
    "nan",
    "infinite",
]
VIDEOS = [
    "no tensor",
    "rank 3",
    "no frames",
    "no width",
    "one channel",
    "whole numbers",
    "nan",
    "infinite",
    "rate 0",
    "rate -1",
    "rate nan",
    "rate infinite",
    "rate of text",
    "sound",
]


def assert_refused(server, graph: Graph) -> None:
    message = refusal(server, graph)
    assert len(message.split()) > 6, f"says too little: {message}"
    assert_clean(server)


@pytest.mark.parametrize("node", ["AsyncVAEDecodeVideo", "AsyncVAEDecodeToVideo"])
@pytest.mark.parametrize("fault", LATENTS)
def test_crafted_latent(server, seed, node, fault):
    graph = Graph()
    vae = graph("AFPTestVAE", kind="wan 2.1", seed=seed)
    samples = graph("AFPTestBadLatent", fault=fault)
    if node == "AsyncVAEDecodeVideo":
        graph("PreviewAny", source=graph(node, samples=samples, vae=vae))
    else:
        video = graph(node, samples=samples, vae=vae, fps=16)
        graph("SaveVideoStreaming", video=video, filename_prefix=f"x_{seed}", format="mp4 (h264)", quality="high")
    if fault in HANDLED:
        run(server, graph)
    else:
        assert_refused(server, graph)


@pytest.mark.parametrize("fault", VIDEOS)
def test_crafted_video(server, seed, fault):
    graph = Graph()
    video = graph("AFPTestBadVideo", fault=fault)
    graph("SaveVideoStreaming", video=video, filename_prefix=f"x_{seed}", format="mp4 (h264)", quality="high")
    if fault in HANDLED:
        run(server, graph)
    else:
        assert_refused(server, graph)


def test_link_in_the_output_folder_that_leads_out(server, seed):
    outside = server.base / f"outside_{seed}"
    outside.mkdir()
    (server.output_dir / f"link_{seed}").symlink_to(outside)
    graph = Graph()
    video = graph("AFPTestBadVideo", fault="nan")
    graph("SaveVideoStreaming", video=video, filename_prefix=f"link_{seed}/x", format="mp4 (h264)", quality="high")
    assert "output folder" in refusal(server, graph)
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("prefix", ["C:x", "..\\x", "half\ud800", "a\0b", "\x1b[2J"])
def test_prefixes(server, prefix):
    graph = Graph()
    video = graph("AFPTestBadVideo", fault="nan")
    graph("SaveVideoStreaming", video=video, filename_prefix=prefix, format="mp4 (h264)", quality="high")
    assert "output folder" in refusal(server, graph)


def test_fuzz(server):
    """Some of what benchmarks/fuzz does for ten minutes."""
    counts = fuzzing.fuzz(server, seconds=60, seed=7, prompts=60)
    assert sum(counts.values()) == 60 and min(counts.values()) > 0, counts
    now = [path.name for path in server.output_dir.rglob("*.part")]
    assert now == []
