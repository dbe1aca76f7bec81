"""The fast decoder of LTX in float32 on the CPU, by its kernels' references, against ComfyUI's own module."""

import pytest
import torch
from async_frame_pipeline.pipeline.decoders.fast import cuda, kernels, ltx, ltx_weights, trust
from async_frame_pipeline.pipeline.decoders.fast.ltx import LtxDecoder
from async_frame_pipeline.pipeline.decoders.fast.plan import GAPS_WHOLE, WORKSPACES

from . import stock_ltx

CPU = torch.device("cpu")
TOLERANCE = 5e-5


def fast_decoder(vae) -> LtxDecoder:
    return LtxDecoder(ltx_weights.load(vae.state_dict(), vae.config, CPU, torch.float32))


def decode(decoder, latents):
    return torch.cat(list(decoder.push(latents, last=True)), dim=1)


def assert_stock(frames, vae, latents):
    torch.testing.assert_close(frames, stock_ltx.stock_decode(vae, latents), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("version", stock_ltx.VERSIONS)
@pytest.mark.parametrize(
    "frames", [1, 2, 3, 9, *(pytest.param(n, marks=pytest.mark.nightly) for n in (4, 5, 6, 7, 8, 17))]
)
def test_every_length_is_the_stock_decode(version, frames):
    vae, latents = stock_ltx.module(version, 8), stock_ltx.latents(frames, 2, 3)
    assert_stock(decode(fast_decoder(vae), latents), vae, latents)


@pytest.mark.parametrize(("version", "frames"), [("reflects", 3), ("2", 19)])
def test_as_deep_as_the_published_ones(version, frames):
    """Frames come out 22 latent frames late: the groups of a batch that lie before the video are many, and left out."""
    vae, latents = stock_ltx.module(version, 8, layers=5), stock_ltx.latents(frames, 2, 2)
    assert_stock(decode(fast_decoder(vae), latents), vae, latents)


@pytest.mark.parametrize("version", ["2", "2.3", "causal"])
@pytest.mark.parametrize(("frames", "last_frames"), [(4, 4), (16, 8)])
def test_other_batches_give_the_same_frames(version, frames, last_frames, monkeypatch):
    """The smallest begin and end wherever a batch can."""
    monkeypatch.setattr(ltx, "FRAMES", frames)
    monkeypatch.setattr(ltx, "LAST_FRAMES", last_frames)
    vae, latents = stock_ltx.module(version, 8), stock_ltx.latents(10, 2, 2)
    assert_stock(decode(fast_decoder(vae), latents), vae, latents)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 3)])
def test_odd_sizes(height, width):
    vae, latents = stock_ltx.module("2", 16), stock_ltx.latents(2, height, width)
    assert_stock(decode(fast_decoder(vae), latents), vae, latents)


def test_a_frame_without_a_mirror_image_is_refused():
    """As torch refuses it in the stock module."""
    vae, latents = stock_ltx.module("reflects", 8), stock_ltx.latents(2, 1, 4)
    with pytest.raises(RuntimeError, match="[Pp]adding size"):
        vae.decode(latents)
    with pytest.raises(ValueError, match="at least 2x2"):
        decode(fast_decoder(vae), latents)


@pytest.mark.parametrize("sizes", [[1] * 11, [8, 3], [2, 9], [10, 1]], ids=str)
def test_any_pieces_give_the_same_bits(sizes):
    vae, latents = stock_ltx.module("2", 8), stock_ltx.latents(11, 2, 2)
    decoder = fast_decoder(vae)
    whole, pieces, at = decode(decoder, latents), [], 0
    for size in sizes:
        pieces += decoder.push(latents[:, :, at : at + size], last=at + size == 11)
        at += size
    assert torch.equal(torch.cat(pieces, dim=1), whole)


def test_a_video_leaves_nothing_for_the_next():
    vae, latents = stock_ltx.module("2", 8), stock_ltx.latents(3, 2, 2)
    decoder = fast_decoder(vae)
    first = decode(decoder, latents)
    assert torch.equal(decode(decoder, latents), first)
    next(decoder.push(stock_ltx.latents(9, 2, 2), last=False))  # broken off in the middle
    decoder.reset()
    assert torch.equal(decode(decoder, latents), first)
    other = stock_ltx.latents(2, 4, 3)
    torch.testing.assert_close(decode(decoder, other), vae.decode(other)[0], atol=TOLERANCE, rtol=0)


def test_the_latent_stays_as_it_is():
    vae, latents = stock_ltx.module("2", 8), stock_ltx.latents(3, 2, 2)
    before = latents.clone()
    decode(fast_decoder(vae), latents)
    assert torch.equal(latents, before)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"norm_layer": "group_norm"}, "norm_layer group_norm"),
        ({"timestep_conditioning": True}, "decoder.timestep_scale_multiplier is missing"),
        ({"spatial_padding_mode": "replicate"}, "spatial_padding_mode replicate"),
        ({"decoder_blocks": [["res_x_y", 1]]}, "a block of kind res_x_y"),
        ({"decoder_blocks": [["res_x", {"num_layers": 1, "inject_noise": True}]]}, "noise in their blocks"),
        ({"decoder_blocks": [["res_x", {"num_layers": 1}]]}, "does not know: decoder.up_blocks.1"),
        ({"decoder_blocks": [["res_x", {"num_layers": 2}]]}, "up_blocks.0.res_blocks.1.conv1.conv.weight is missing"),
    ],
)
def test_another_vae_is_refused(change, why):
    vae = stock_ltx.module("2", 8)
    with pytest.raises(ValueError, match=why):
        ltx_weights.load(vae.state_dict(), vae.config | change, CPU, torch.float32)


def test_weights_that_are_no_numbers_are_refused():
    state = stock_ltx.module("2", 8).state_dict()
    state["decoder.up_blocks.0.res_blocks.0.conv1.conv.weight"].fill_(torch.inf)
    with pytest.raises(ValueError, match="not finite"):
        ltx_weights.load(state, stock_ltx.config("2", 8, 1), CPU, torch.float32)


@pytest.mark.parametrize("layer", ["conv_in", "up_blocks.1.conv", "up_blocks.4.res_blocks.0.conv2"])
def test_what_leaves_the_range_of_float16_is_seen_in_the_frames(layer):
    """Wherever it does."""
    vae, latents = stock_ltx.module("2", 8), stock_ltx.latents(3, 2, 2)
    state = vae.state_dict()
    bias = state[f"decoder.{layer}.conv.bias"]

    def decode_all():
        return list(
            trust.finite(LtxDecoder(ltx_weights.load(state, vae.config, CPU, torch.float16)).push(latents, True))
        )

    assert decode_all()
    bias[-1] = 2e6
    assert vae.decode(latents).isfinite().all()
    with pytest.raises(OverflowError, match="range of float16"):
        decode_all()


def published(version, monkeypatch) -> ltx_weights.Weights:
    """Weights of the published size, without data."""
    # What these find in the data.
    monkeypatch.setattr(ltx_weights, "fit", lambda weight, longest: (weight, 1.0))
    monkeypatch.setattr(ltx_weights, "weight_points", lambda weight, frames, longest: ([weight[:, :, 0]] * 6, 1.0))
    with torch.device("meta"):
        vae = stock_ltx.stock.VideoVAE(config=stock_ltx.config(version, 128, 5))
    return ltx_weights.load(vae.state_dict(), vae.config, torch.device("meta"), torch.float16)


@pytest.mark.parametrize("version", ["2", "reflects"])
def test_its_memory_does_not_grow_with_the_video(version, monkeypatch):
    weights, peaks = published(version, monkeypatch), []
    for frames in (40, 80):
        monkeypatch.setattr(ltx, "COUNTED", (frames,))
        peaks.append(ltx.needed(weights, 22, 40, joins=True))
    assert peaks[1] <= 1.01 * peaks[0]
    assert peaks[0] < 2.94e9  # what the stock modules take of an H100 with their caches in copies


@pytest.mark.parametrize("version", ["2", "2.3", "reflects", "causal"])
def test_no_length_takes_more_than_what_is_counted(version, monkeypatch):
    weights = published(version, monkeypatch)
    counted = ltx.needed(weights, 22, 40, joins=True)
    for frames in (1, 7, 8, 9, 14, 18, 26, 34):
        monkeypatch.setattr(ltx, "COUNTED", (frames,))
        assert ltx.needed(weights, 22, 40, joins=True) <= counted, frames


@pytest.mark.parametrize("frames", [1, 5, 19])
def test_what_is_counted_is_what_tensors_with_data_take(frames, monkeypatch):
    vae, latents = stock_ltx.module("2", 8, layers=2), stock_ltx.latents(frames, 4, 6)
    weights = ltx_weights.load(vae.state_dict(), vae.config, CPU, torch.float32)
    monkeypatch.setattr(ltx, "COUNTED", (frames,))
    counted = ltx.needed(weights, 4, 6, joins=True)
    monkeypatch.setattr(kernels, "_on", lambda tensor: cuda)
    monkeypatch.setattr(cuda, "_launch", lambda name, threads, args, **made_for: None)
    with ltx._Counter() as counter:
        counter.peak = counter.held = 0
        for _ in LtxDecoder(weights).push(latents, last=True):
            pass
    assert counter.peak == pytest.approx((counted - WORKSPACES) / GAPS_WHOLE, rel=0.02)
