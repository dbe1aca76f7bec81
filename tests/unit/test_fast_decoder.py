"""The fast decoder's reference path, in float32 on the CPU, against ComfyUI's own module."""

import pytest
import torch
from async_frame_pipeline.pipeline.decoders.fast import kernels, weights
from async_frame_pipeline.pipeline.decoders.fast.network import WanDecoder

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
@pytest.mark.parametrize("frames", range(1, 10))
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
def test_padded_channels_change_nothing(version, monkeypatch):
    monkeypatch.setattr(weights, "PADDED_CHANNELS", {12: 16, 24: 32})
    vae, latents = stock_wan.module(version, 12), stock_wan.latents(version, 3, 2, 3)
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
