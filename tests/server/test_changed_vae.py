"""Wan VAEs that something changed: not as this pack knows them, or on another device."""

import pytest
from graph import Graph, assert_clean, run, skip_if_missing

FRAMES = 17
REASONS = {
    "another_class": "another node or pack replaced the VAE's decode",
    "another_decode": "another node or pack replaced the VAE's decode",
    "no_head": "exact failed: AttributeError",
    "more_frames": "exact failed: this ComfyUI decodes in a way this version of the pack does not know",
}
both_versions = pytest.mark.parametrize("kind, channels, size", [("wan 2.1", 16, 4), ("wan 2.2", 48, 2)])


def decoded_as_stock(server, graph, vae, channels, size, seed):
    """Decode to an IMAGE and to a file; the frames must be the stock node's."""
    samples = graph("AFPTestLatent", batch=1, channels=channels, latent_frames=5, height=size, width=size, seed=seed)
    ours = graph("AsyncVAEDecodeVideo", samples=samples, vae=vae, decoder="exact")
    stock = graph("VAEDecode", samples=samples, vae=vae)
    compared = graph("AFPTestCompareImages", a=ours, b=stock)
    video = graph("AsyncVAEDecodeToVideo", samples=samples, vae=vae, fps=16, decoder="exact")
    saver = graph(
        "SaveVideoStreaming", video=video, filename_prefix=f"changed_{seed}", format="mp4 (h264)", quality="high"
    )
    outcome = run(server, graph)
    comparison = outcome.comparison(compared)
    assert comparison["equal"] and comparison["distinct_values"] > 100 and comparison["shapes"][0][0] == FRAMES
    assert outcome.report(saver)["frames"] == FRAMES
    assert_clean(server)
    return outcome


@pytest.mark.parametrize("change, reason", REASONS.items())
@both_versions
def test_the_same_pixels_as_the_stock_nodes(server, seed, kind, channels, size, change, reason):
    """The shapes that are not known go the stock way, and the log says why."""
    graph = Graph()
    vae = graph("AFPTestChangeVAE", vae=graph("AFPTestVAE", kind=kind, seed=seed), change=change)
    outcome = decoded_as_stock(server, graph, vae, channels, size, seed)
    assert [line[: len(reason)] for line in outcome.stock_decodes] == [reason] * 2
    assert outcome.exact_decodes == []


@pytest.mark.parametrize("selected", ["default", "gpu:0", "gpu:1"])
@both_versions
def test_a_selected_device(server, seed, kind, channels, size, selected):
    """ComfyUI's own node for it; a device that is not there changes nothing."""
    skip_if_missing(server, "SelectVAEDevice")
    graph = Graph()
    vae = graph("SelectVAEDevice", vae=graph("AFPTestVAE", kind=kind, seed=seed), device=selected)
    outcome = decoded_as_stock(server, graph, vae, channels, size, seed)
    assert len(outcome.exact_decodes) == 2 and outcome.stock_decodes == []


@both_versions
def test_moved_to_the_cpu(server, seed, kind, channels, size):
    """As some packs do, past ComfyUI, which with dynamic VRAM does not survive it:
    so this is for servers on the CPU.
    """
    graph = Graph()
    vae = graph("AFPTestChangeVAE", vae=graph("AFPTestVAE", kind=kind, seed=seed), change="to_cpu")
    outcome = decoded_as_stock(server, graph, vae, channels, size, seed)
    assert len(outcome.exact_decodes) == 2 and outcome.stock_decodes == []
