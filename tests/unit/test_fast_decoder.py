"""The fast decoder's reference path, in float32 on the CPU, against ComfyUI's own module."""

import pytest
import torch
from async_frame_pipeline.pipeline.decoders.fast import kernels, weights, winograd
from async_frame_pipeline.pipeline.decoders.away import Away
from async_frame_pipeline.pipeline.decoders.fast.network import Bands, WanDecoder

from . import stock_wan

CPU = torch.device("cpu")
# Both sum the same products in another order: float32 leaves about 3e-6 of outputs near 3. bf16 would leave 1e-2.
TOLERANCE = 2e-5
VERSIONS = pytest.mark.parametrize("version", ["2.1", "2.2"])


def fast_decoder(vae) -> WanDecoder:
    return WanDecoder(weights.load(vae.state_dict(), CPU, torch.float32))


def decode(decoder, latents_bcthw):
    decoder.reset()
    return torch.cat([decoder.step(latents_bcthw[:, :, t]) for t in range(latents_bcthw.shape[2])], dim=1)


@VERSIONS
@pytest.mark.parametrize("frames", [1, 2, 3, 9, *(pytest.param(n, marks=pytest.mark.nightly) for n in range(4, 9))])
def test_every_length_is_the_stock_decode(version, frames):
    vae, latents = stock_wan.module(version, 8), stock_wan.latents(version, frames, 2, 3)
    wanted = vae.decode(latents)[0]
    got = decode(fast_decoder(vae), latents)
    assert got.shape == wanted.shape
    torch.testing.assert_close(got, wanted, atol=TOLERANCE, rtol=0)


@VERSIONS
@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 7), (4, 1)])
@pytest.mark.parametrize("channels", [4, 12])
def test_odd_sizes_and_widths(version, height, width, channels):
    vae, latents = stock_wan.module(version, channels), stock_wan.latents(version, 3, height, width)
    torch.testing.assert_close(decode(fast_decoder(vae), latents), vae.decode(latents)[0], atol=TOLERANCE, rtol=0)


@VERSIONS
def test_a_video_leaves_nothing_for_the_next(version):
    vae, latents = stock_wan.module(version, 8), stock_wan.latents(version, 4, 2, 3)
    decoder = fast_decoder(vae)
    first = decode(decoder, latents)
    decoder.step(stock_wan.latents(version, 1, 2, 3)[:, :, 0])  # broken off in the middle
    assert torch.equal(decode(decoder, latents), first)


@VERSIONS
def test_a_video_of_another_size_can_follow(version):
    vae = stock_wan.module(version, 8)
    decoder = fast_decoder(vae)
    decode(decoder, stock_wan.latents(version, 2, 2, 3))
    other = stock_wan.latents(version, 2, 4, 2)
    torch.testing.assert_close(decode(decoder, other), vae.decode(other)[0], atol=TOLERANCE, rtol=0)


@VERSIONS
def test_the_future_does_not_change_the_past(version):
    """Causal: a longer clip begins with the same bits."""
    vae, latents = stock_wan.module(version, 8), stock_wan.latents(version, 5, 2, 3)
    decoder = fast_decoder(vae)
    whole = decode(decoder, latents)
    part = decode(decoder, latents[:, :, :3])
    assert torch.equal(whole[:, : part.shape[1]], part)


def test_a_state_dict_of_something_else_is_refused():
    with pytest.raises(ValueError, match="not the state dict of a Wan 2.1 or 2.2 VAE: conv2.weight is missing"):
        weights.load({"decoder.conv_in.weight": torch.zeros(1)}, CPU, torch.float32)


def test_folded_upsampling_is_doubling_and_convolving():
    weight, bias = torch.randn(5, 3, 3, 3), torch.randn(5)
    x = torch.randn(2, 4, 6, 3)  # (T, H, W, C)
    doubled = torch.nn.functional.interpolate(x.permute(0, 3, 1, 2), scale_factor=2, mode="nearest-exact")
    wanted = torch.nn.functional.conv2d(doubled, weight, bias, padding=1).permute(0, 2, 3, 1)
    phases = torch.nn.functional.conv2d(x.permute(0, 3, 1, 2), weights._fold_upsampling(weight), padding=1)
    got = torch.full((2, 8, 12, 5), 7.0)
    kernels.depth_to_space(phases.permute(0, 2, 3, 1).contiguous(), bias, got, 0, 1, None, (0, 1))
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("frames", [2, 4])
def test_products_of_points_are_a_convolution(frames):
    """Exactly: in float64 nothing is left of the transforms."""
    taps, seen = torch.randn(3, dtype=torch.float64), torch.randn(frames + 2, dtype=torch.float64)
    points = (
        winograd.matrix(winograd.INPUT[frames], seen) @ seen * (winograd.matrix(winograd.WEIGHT[frames], taps) @ taps)
    )
    wanted = torch.stack([(taps * seen[t : t + 3]).sum() for t in range(frames)])
    torch.testing.assert_close(winograd.matrix(winograd.OUTPUT[frames], points) @ points, wanted, atol=1e-12, rtol=0)


@pytest.mark.parametrize("frames", [2, 4])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e4])
def test_no_product_can_leave_float16(frames, size):
    """The worst input there can be: every frame's pixel as long as allowed, and in line with the largest weights."""
    weight, longest = torch.randn(5, 7, 3, 3, 3) * size, 30.0
    points, scale = winograd.weight_points(weight, frames, longest)
    for point, row in zip(points, winograd.INPUT[frames]):
        inputs = sum(map(abs, row)) * longest * torch.nn.functional.normalize(point, dim=1)
        assert torch.isfinite(inputs.half()).all() and torch.isfinite(point.half()).all()
        assert torch.isfinite((inputs * point).sum(dim=(1, 2, 3)).half()).all()
    # Scaled by a power of two, which is undone exactly.
    assert torch.equal(points[-1] * scale, weight[:, :, 2])


@pytest.mark.parametrize("gamma", [1e5, float("nan")])
def test_weights_too_large_for_float16_are_refused(gamma):
    state = stock_wan.module("2.1", 8).state_dict()
    state["decoder.head.0.gamma"][3] = gamma
    with pytest.raises(ValueError, match="too large for float16"):
        weights.load(state, CPU, torch.float16)


@VERSIONS
@pytest.mark.parametrize(
    "bands", [(Bands(2), Bands(3)), (Bands(1), Bands(2, away=1)), (Bands(3, away=3), Bands(4, away=2))]
)
@pytest.mark.parametrize("height", [5, 9])
def test_in_bands_it_is_the_same(version, bands, height):
    vae, latents = stock_wan.module(version, 8), stock_wan.latents(version, 4, height, 2)
    state = weights.load(vae.state_dict(), CPU, torch.float32)
    wanted = decode(WanDecoder(state), latents)
    torch.testing.assert_close(decode(WanDecoder(state, bands, Away(CPU)), latents), wanted, atol=1e-5, rtol=0)
