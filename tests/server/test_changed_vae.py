"""Wan VAEs that are not as this pack knows them: decoded as the stock nodes do, and the log says why."""

import pytest
from graph import Graph, assert_clean, run

FRAMES = 17
REASONS = {
    "another_class": "LaterWanVAE is not a Wan video VAE",
    "another_decode": "another node or pack replaced the VAE's decode",
    "no_head": "streaming this ComfyUI's Wan decoder failed: AttributeError",
    "more_frames": "streaming this ComfyUI's Wan decoder failed: the decoder delivered",
    "to_cpu": None,
}


@pytest.mark.parametrize("change, reason", REASONS.items())
@pytest.mark.parametrize("kind, channels, size", [("wan 2.1", 16, 4), ("wan 2.2", 48, 2)])
def test_the_same_pixels_as_the_stock_nodes(server, seed, kind, channels, size, change, reason):
    graph = Graph()
    vae = graph("AFPTestChangeVAE", vae=graph("AFPTestVAE", kind=kind, seed=seed), change=change)
    samples = graph("AFPTestLatent", batch=1, channels=channels, latent_frames=5, height=size, width=size, seed=seed)
    ours = graph("AsyncVAEDecodeVideo", samples=samples, vae=vae, decoder="exact")
    stock = graph("VAEDecode", samples=samples, vae=vae)
    compared = graph("AFPTestCompareImages", a=ours, b=stock)
    video = graph("AsyncVAEDecodeToVideo", samples=samples, vae=vae, fps=16, decoder="exact")
    saver = graph("SaveVideoStreaming", video=video, filename_prefix=f"changed_{seed}", format="mp4 (h264)", quality="high")
    outcome = run(server, graph)
    comparison = outcome.comparison(compared)
    assert comparison["equal"] and comparison["distinct_values"] > 20 and comparison["shapes"][0][0] == FRAMES
    [report] = outcome.ui(saver)["async_frame_pipeline"]
    assert report["frames"] == FRAMES
    if reason is None:
        assert len(outcome.exact_decodes) == 2 and outcome.stock_decodes == []
    else:
        assert [line[: len(reason)] for line in outcome.stock_decodes] == [reason] * 2
        assert outcome.exact_decodes == []
    assert_clean(server)
