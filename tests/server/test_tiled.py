"""VAE Decode (Tiled) in a real server: as an IMAGE and through the saver, its pixels and frames."""

from graph import Graph, assert_clean, run

# Kind, channels, pixels of a latent, and the templates' settings, scaled to latents of 5x7: in time, and side by side.
STREAMED = [
    ("ltx", 128, 32, (96, 64, 4096, 64)),
    ("ltx", 128, 32, (128, 32, 64, 16)),
    ("wan 2.1", 16, 8, (64, 16, 8, 4)),
    ("hunyuan 1.0", 16, 8, (64, 16, 4096, 8)),
]
SIZES = ("tile_size", "overlap", "temporal_size", "temporal_overlap")


def test_the_same_pixels_as_the_stock_node(server, seed):
    graph, compared, savers = Graph(), [], []
    for kind, channels, scale, sizes in [*STREAMED, ("image", 4, 8, (64, 0, 8, 4))]:
        frames = 0 if kind == "image" else 9 if kind == "ltx" else 5
        vae = graph("AFPTestVAE", kind=kind, seed=seed)
        height, width = (5, 7) if scale == 32 else (9, 11)
        shape = {"batch": 1, "channels": channels, "latent_frames": frames, "height": height, "width": width}
        samples = graph("AFPTestLatent", **shape, seed=seed)
        asked = {"samples": samples, "vae": vae, **dict(zip(SIZES, sizes))}
        ours, stock = graph("AsyncVAEDecodeTiled", **asked), graph("VAEDecodeTiled", **asked)
        compared.append((ours, graph("AFPTestCompareImages", a=ours, b=stock)))
        if kind != "image":
            video = graph("AsyncVAEDecodeTiledToVideo", **asked, fps=24)
            savers.append(graph("SaveVideoStreaming", video=video, filename_prefix="tiled", format="mp4 (h264)"))
    outcome = run(server, graph)
    for (ours, comparison), way in zip(compared, ["tiled, streamed"] * len(STREAMED) + ["stock"], strict=True):
        seen = outcome.comparison(comparison)
        assert seen["equal"] and seen["distinct_values"] > 50
        assert outcome.report(ours)["decoder"] == way
    for (_, comparison), saver in zip(compared, savers):
        report = outcome.report(saver)
        assert report["decoder"] == "tiled, streamed"
        assert report["frames"] == outcome.comparison(comparison)["shapes"][0][0]
        assert "would have fitted without tiles" in report["verdict"]
    assert_clean(server)
