"""Every family in a real server: as an IMAGE and through the saver, the pixels and frames of VAE Decode."""

import pytest
from graph import Graph, assert_clean, run

# Kind, channels and latent frames (0: a batch of three images), frames.
STREAMED = [
    ("wan 2.2", 48, 2, 5),
    ("ltx", 128, 2, 9),
    ("taehv", 16, 3, 9),
    ("hunyuan 1.0", 16, 3, 9),
    ("hunyuan 1.5", 32, 3, 9),
    ("minimax h3", 24, 8, 26),
    ("cogvideox", 16, 4, 16),
    ("seedvr2", 16, 3, 9),
]
LATE = [("mochi", 12, 2, 7), ("cosmos", 16, 2, 9), ("svd", 4, 0, 3)]


@pytest.mark.parametrize("flags", ["server", "fp16_server"], ids=["float32", "bfloat16"])
def test_the_same_pixels_as_the_stock_node(request, seed, flags):
    server = request.getfixturevalue(flags)
    graph, compared, savers = Graph(), {}, {}
    for kind, channels, latent_frames, _ in STREAMED + LATE:
        vae = graph("AFPTestVAE", kind=kind, seed=seed)
        shape = {"batch": 1 if latent_frames else 3, "channels": channels, "latent_frames": latent_frames}
        samples = graph("AFPTestLatent", **shape, height=2, width=3, seed=seed)
        ours = graph("AsyncVAEDecodeVideo", samples=samples, vae=vae, decoder="exact")
        compared[kind] = graph("AFPTestCompareImages", a=ours, b=graph("VAEDecode", samples=samples, vae=vae))
        video = graph("AsyncVAEDecodeToVideo", samples=samples, vae=vae, fps=16, decoder="exact")
        savers[kind] = graph("SaveVideoStreaming", video=video, filename_prefix="families", format="mp4 (h264)")
    outcome = run(server, graph)
    for kind, _, _, frames in STREAMED + LATE:
        comparison = outcome.comparison(compared[kind])
        assert comparison["equal"] and comparison["distinct_values"] > 50, kind
        assert comparison["shapes"][0][0] == frames and outcome.report(savers[kind])["frames"] == frames, kind
    assert len(outcome.exact_decodes) == 2 * len(STREAMED)
    assert len(outcome.late_decodes) == 2 * len(LATE) and outcome.stock_decodes == []
    assert_clean(server)
