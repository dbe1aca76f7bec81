"""ComfyUI's own switches: whatever they change, ours and the stock node give the same, in one server."""

import os
import signal

import flags
import pytest
from graph import Graph, assert_clean, run

COMBINATIONS = {"float32": flags.FLOAT32, "float16": flags.FLOAT16, "bfloat16": flags.BFLOAT16}


# On a CPU, VAEs run in float32 anyway.
@pytest.fixture(scope="module", params=[pytest.param("float32", marks=pytest.mark.nightly), "float16", "bfloat16"])
def flagged(request, start_server):
    """A server with some of the flags."""
    if request.param == "bfloat16":
        yield request.getfixturevalue("fp16_server")
        return
    with start_server(*COMBINATIONS[request.param]) as server:
        yield server


@pytest.mark.parametrize("kind, channels, size", [("wan 2.1", 16, 4), ("wan 2.2", 48, 2), ("image", 4, 4)])
def test_the_same_as_stock_under_the_same_flags(flagged, seed, kind, channels, size):
    graph = Graph()
    vae = graph("AFPTestVAE", kind=kind, seed=seed)
    shape = {"channels": channels, "latent_frames": 0 if kind == "image" else 5, "height": size, "width": size}
    samples = graph("AFPTestLatent", batch=1, seed=seed, **shape)
    stock = graph("VAEDecode", samples=samples, vae=vae)
    ours = graph("AsyncVAEDecodeVideo", samples=samples, vae=vae, decoder="exact")
    compared = graph("AFPTestCompareImages", a=ours, b=stock)
    video = graph("AsyncVAEDecodeToVideo", samples=samples, vae=vae, fps=16, decoder="exact")
    parts = graph("GetVideoComponents", video=video)
    through_video = graph("AFPTestCompareImages", a=parts[0], b=stock)
    saver = graph("SaveVideoStreaming", video=video, filename_prefix="flags", format="mp4 (h264)", quality="high")
    outcome = run(flagged, graph)
    for node in (compared, through_video):
        comparison = outcome.comparison(node)
        assert comparison["equal"] and comparison["distinct_values"] > 100
        assert len(set(comparison["dtypes"])) == len(set(comparison["devices"])) == 1
    assert outcome.report(saver)["frames"] == (1 if kind == "image" else 17)
    assert_clean(flagged)


@pytest.mark.parametrize("flagged", ["float16"], indirect=True)
def test_sigterm_ends_a_server_with_nothing_to_save_at_once(flagged):
    """The last test of this file: the server is not needed any more."""
    os.kill(flagged.process.pid, signal.SIGTERM)
    assert flagged.process.wait(60) == -signal.SIGTERM
