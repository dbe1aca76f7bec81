"""AsyncVAEDecodeVideo against the stock VAEDecode, in the same prompt: the same pixels, bit for bit."""

import pytest
from graph import Graph, Outcome, run


def decode_both_ways(server, seed: int, kind: str, wrapped: bool = False, **latent: object) -> tuple[dict, Outcome]:
    """Decode one latent with both nodes; returns the comparison and the outcome."""
    shape = {"batch": 1, "seed": seed, **latent}
    graph = Graph()
    vae = graph("AFPTestVAE", kind=kind, seed=seed, wrapped=wrapped)
    samples = graph("AFPTestLatent", **shape)
    stock = graph("VAEDecode", samples=samples, vae=vae)
    ours = graph("AsyncVAEDecodeVideo", samples=samples, vae=vae, decoder="exact")
    compared = graph("AFPTestCompareImages", a=ours, b=stock)
    outcome = run(server, graph)
    return outcome.comparison(compared), outcome


def assert_same(comparison: dict, frames: int, height: int, width: int, dtype: str = "torch.float32") -> None:
    assert comparison["shapes"] == [[frames, height, width, 3]] * 2
    assert comparison["dtypes"] == [dtype] * 2
    assert len(set(comparison["devices"])) == 1
    assert not comparison["has_nan"]
    assert comparison["distinct_values"] > 100, "a picture of one colour would prove nothing"
    assert comparison["equal"], f"largest difference {comparison['max_difference']}"


def assert_took_the_exact_path(outcome: Outcome, frames: int) -> None:
    assert outcome.stock_decodes == []
    [line] = outcome.exact_decodes
    assert str(frames) in line.split()


def assert_went_the_stock_way(outcome: Outcome) -> None:
    assert outcome.exact_decodes == []
    [reason] = outcome.stock_decodes
    assert reason


# 1: no cache at all; 2 and even numbers: the last chunk is a single latent; 21: the usual 81 frames.
@pytest.mark.parametrize("latent_frames", [1, 2, 3, 5, 9, 21])
def test_wan_21(server, seed, latent_frames):
    frames = 4 * latent_frames - 3
    comparison, outcome = decode_both_ways(
        server, seed, "wan 2.1", channels=16, latent_frames=latent_frames, height=4, width=6
    )
    assert_same(comparison, frames, 32, 48)
    assert_took_the_exact_path(outcome, frames)


@pytest.mark.parametrize("latent_frames", [1, 2, 5])
def test_wan_22(server, seed, latent_frames):
    frames = 4 * latent_frames - 3
    comparison, outcome = decode_both_ways(
        server, seed, "wan 2.2", channels=48, latent_frames=latent_frames, height=2, width=3
    )
    assert_same(comparison, frames, 32, 48)
    assert_took_the_exact_path(outcome, frames)


def test_bundled_wan_21(server):
    """The shipped VAE, whose wider layers take other CPU kernels than the tests' own."""
    graph = Graph()
    sample = graph("SampleVideoLatent")
    samples = graph("AFPTestCropLatent", samples=sample[0], latent_frames=3, height=10, width=12)
    stock = graph("VAEDecode", samples=samples, vae=sample[1])
    ours = graph("AsyncVAEDecodeVideo", samples=samples, vae=sample[1], decoder="exact")
    compared = graph("AFPTestCompareImages", a=ours, b=stock)
    outcome = run(server, graph)
    assert_same(outcome.comparison(compared), 9, 80, 96)
    assert_took_the_exact_path(outcome, 9)


def test_odd_latent_sizes(server, seed):
    comparison, outcome = decode_both_ways(server, seed, "wan 2.1", channels=16, latent_frames=3, height=3, width=5)
    assert_same(comparison, 9, 24, 40)
    assert_took_the_exact_path(outcome, 9)


@pytest.mark.parametrize("kind, channels", [("wan 2.1", 16), ("wan 2.2", 48)])
def test_decoder_whose_forward_another_pack_replaced(server, seed, kind, channels):
    comparison, _ = decode_both_ways(
        server, seed, kind, wrapped=True, channels=channels, latent_frames=5, height=2, width=3
    )
    scale = 8 if kind == "wan 2.1" else 16
    assert_same(comparison, 17, 2 * scale, 3 * scale)


@pytest.mark.parametrize("kind, channels, scale", [("wan 2.1", 16, 8), ("wan 2.2", 48, 16)])
def test_batch_of_two_videos(server, seed, kind, channels, scale):
    comparison, _ = decode_both_ways(server, seed, kind, batch=2, channels=channels, latent_frames=3, height=2, width=3)
    assert_same(comparison, 2 * 9, 2 * scale, 3 * scale)


@pytest.mark.parametrize("kind, channels, size, frames", [("wan 2.1", 16, (4, 4), 9), ("ltx", 128, (1, 2), 17)])
def test_nested_latent(server, seed, kind, channels, size, frames):
    """As the models with sound give it."""
    comparison, outcome = decode_both_ways(
        server, seed, kind, channels=channels, latent_frames=3, height=size[0], width=size[1], nested=True
    )
    assert_same(comparison, frames, 32, 32 if kind == "wan 2.1" else 64)
    assert_took_the_exact_path(outcome, frames)


@pytest.mark.parametrize("batch", [1, 3])
def test_image_vae(server, seed, batch):
    comparison, outcome = decode_both_ways(
        server, seed, "image", batch=batch, channels=4, latent_frames=0, height=4, width=5
    )
    assert_same(comparison, batch, 32, 40)
    assert len(outcome.late_decodes) == 1 and outcome.stock_decodes == []


def test_taehv(server, seed):
    comparison, outcome = decode_both_ways(server, seed, "taehv", channels=16, latent_frames=3, height=4, width=5)
    assert_same(comparison, 9, 32, 40)
    assert_took_the_exact_path(outcome, 9)


@pytest.mark.parametrize("latent_frames", [1, 2, 5])
def test_ltx(server, seed, latent_frames):
    frames = 8 * latent_frames - 7
    comparison, outcome = decode_both_ways(
        server, seed, "ltx", channels=128, latent_frames=latent_frames, height=2, width=3
    )
    assert_same(comparison, frames, 64, 96)
    assert_took_the_exact_path(outcome, frames)


def test_ltx_with_fp16_intermediates(fp16_server, seed):
    comparison, outcome = decode_both_ways(fp16_server, seed, "ltx", channels=128, latent_frames=3, height=2, width=2)
    assert_same(comparison, 17, 64, 64, dtype="torch.float16")
    assert_took_the_exact_path(outcome, 17)


@pytest.mark.parametrize("latent_frames", [1, 2, 5])
def test_fp16_intermediates(fp16_server, seed, latent_frames):
    frames = 4 * latent_frames - 3
    comparison, outcome = decode_both_ways(
        fp16_server, seed, "wan 2.1", channels=16, latent_frames=latent_frames, height=4, width=4
    )
    assert_same(comparison, frames, 32, 32, dtype="torch.float16")
    assert_took_the_exact_path(outcome, frames)


def test_deterministic_server_takes_the_stock_way(deterministic_server, seed):
    comparison, outcome = decode_both_ways(
        deterministic_server, seed, "wan 2.1", channels=16, latent_frames=3, height=4, width=4
    )
    assert_same(comparison, 9, 32, 32)
    assert_went_the_stock_way(outcome)


def test_out_of_memory_falls_back_to_stock_tiling(server, seed):
    """Both nodes run out of memory at chunk 2, ours in its second attempt too;
    the third decode shows that tiling differs.
    """
    graph = Graph()
    samples = graph("AFPTestLatent", batch=1, channels=16, latent_frames=5, height=6, width=48, seed=seed)
    failing = [
        graph("AFPTestVAE", kind="wan 2.1", seed=seed, oom_at=2, oom_times=1 + i, name=f"oom {i}") for i in range(2)
    ]
    sound = graph("AFPTestVAE", kind="wan 2.1", seed=seed, name="sound")
    stock = graph("VAEDecode", samples=samples, vae=failing[0])
    ours = graph("AsyncVAEDecodeVideo", samples=samples, vae=failing[1], decoder="exact")
    untiled = graph("VAEDecode", samples=samples, vae=sound)
    compared = graph("AFPTestCompareImages", a=ours, b=stock)
    control = graph("AFPTestCompareImages", a=untiled, b=stock)
    outcome = run(server, graph)
    assert_same(outcome.comparison(compared), 17, 48, 384)
    assert not outcome.comparison(control)["equal"]
    assert len([line for line in outcome.our_log if "decoding in tiles as the stock node does" in line]) == 1
