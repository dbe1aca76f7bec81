"""The fast decoder on a GPU: kernels against their references, and errors no larger than the stock decoder's."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from async_frame_pipeline.pipeline.decoders.fast import kernels, weights
from async_frame_pipeline.pipeline.decoders.fast.network import WanDecoder

from ..unit import stock_wan

SAMPLE = Path(__file__).resolve().parents[2] / "workflows" / "sample"
# One step of bfloat16 at the largest values here: kernel and reference round the same float32 up or down.
BF16_STEP = 2**-6


def noise(device, *shape, dtype=torch.bfloat16):
    return torch.randn(shape, device=device, dtype=dtype)


@pytest.mark.parametrize("channels", [3, 12, 96, 192, 384, 1024])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (2, 33, 18)])
@pytest.mark.parametrize("what", ["norm", "add", "add and norm"])
def test_norm_silu_is_its_reference(device, channels, shape, what):
    a = noise(device, *shape, channels + 5)  # with padding that must not be read
    bias, gamma = noise(device, channels, dtype=torch.float32), noise(device, channels, dtype=torch.float32)
    residual = noise(device, *shape, channels)
    outs = []
    for step in (kernels.norm_silu, kernels._norm_silu_reference):
        x = torch.full_like(residual, 9.0) if "add" in what else None
        y = torch.full_like(residual, 9.0) if "norm" in what else None
        step(a, bias, residual if "add" in what else None, gamma if y is not None else None, x, y)
        outs.append([out for out in (x, y) if out is not None])
    for got, wanted in zip(*outs):
        torch.testing.assert_close(got, wanted, atol=1e-2, rtol=BF16_STEP)


def test_the_sum_may_replace_the_residual(device):
    a, residual = noise(device, 2, 3, 5, 96), noise(device, 2, 3, 5, 96)
    wanted = torch.empty_like(residual)
    kernels._norm_silu_reference(a, None, residual, None, wanted, None)
    kernels.norm_silu(a, None, residual, None, residual, None)
    assert torch.equal(residual, wanted)


@pytest.mark.parametrize("channels", [3, 96, 512])
@pytest.mark.parametrize("shortcut", [False, True])
@pytest.mark.parametrize(("offset", "step"), [(0, 1), (1, 2)])
def test_depth_to_space_is_its_reference(device, channels, shortcut, offset, step):
    phases, bias = noise(device, 3, 6, 8, 4 * channels), noise(device, channels, dtype=torch.float32)
    source = noise(device, 3, 5, 7, 2 * channels) if shortcut else None
    outs = []
    for spread in (kernels.depth_to_space, kernels._depth_to_space_reference):
        out = torch.full((3 * step, 10, 14, channels), 9.0, device=device, dtype=torch.bfloat16)
        spread(phases, bias, out, offset, step, source, (offset, 2))
        outs.append(out)
    assert torch.equal(*outs)


@pytest.mark.parametrize(("channels", "outputs"), [(12, 3), (96, 3), (256, 12)])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (9, 150), (4, 128)])
def test_head_is_a_convolution(device, channels, outputs, height, width):
    window, bias = noise(device, 5, height, width, channels), noise(device, outputs, dtype=torch.float32)
    weight = (noise(device, outputs, channels, 3, 3, 3).float() * (27 * channels) ** -0.5).to(torch.bfloat16)
    wanted = torch.nn.functional.conv3d(window.double().permute(3, 0, 1, 2)[None], weight.double(), bias.double(), padding=(0, 1, 1))
    got = kernels.head(window, weight, bias)
    torch.testing.assert_close(got.double(), wanted[0], atol=1e-2, rtol=BF16_STEP)


def decode(decoder, latents):
    decoder.reset()
    return torch.cat([decoder.step(latents[:, :, t]) for t in range(latents.shape[2])], dim=1)


@pytest.mark.parametrize(("version", "width"), [("2.1", 96), ("2.1", 12), ("2.2", 256), ("2.2", 16)])
def test_its_error_is_no_larger_than_the_stock_decoders(device, version, width):
    """Both in bfloat16, against the stock module in float32 with the same weights; random latents."""
    vae = stock_wan.module(version, width).to(torch.bfloat16).to(device)
    latents = stock_wan.latents(version, 5, 12, 20).to(device, torch.bfloat16)
    stock = vae.decode(latents)[0].float()
    fast = decode(WanDecoder(weights.load(vae.state_dict(), device, torch.bfloat16)), latents).float()
    torch.backends.cudnn.allow_tf32 = False
    exact = vae.float().decode(latents.float())[0]
    error, stock_error = (fast - exact).abs(), (stock - exact).abs()
    assert error.square().mean() <= stock_error.square().mean()
    # The largest of some million errors is a matter of luck to a few percent.
    assert error.max() <= 1.1 * stock_error.max()


def test_its_error_is_no_larger_on_natural_latents(device):
    """The bundled latents of a real clip and the tiny VAE that decodes them to a picture."""
    state = safetensors.torch.load_file(SAMPLE / "tiny_wan_vae.safetensors")
    latents = safetensors.torch.load_file(SAMPLE / "bunny_33f.latent")["latent_tensor"]
    vae = stock_wan.module("2.1", 12)
    vae.load_state_dict(state)
    vae = vae.to(device, torch.bfloat16)
    latents = latents.to(device, torch.bfloat16)
    stock = vae.decode(latents)[0].float()
    fast = decode(WanDecoder(weights.load(vae.state_dict(), device, torch.bfloat16)), latents).float()
    torch.backends.cudnn.allow_tf32 = False
    exact = vae.float().decode(latents.float())[0]
    assert (fast - exact).square().mean() <= (stock - exact).square().mean()
    assert (fast - exact).abs().max() <= 1.1 * (stock - exact).abs().max()


@pytest.mark.parametrize("version", ["2.1", "2.2"])
def test_the_same_latents_give_the_same_bits(device, version):
    vae, latents = stock_wan.module(version, 16), stock_wan.latents(version, 5, 6, 10).to(device, torch.bfloat16)
    decoder = WanDecoder(weights.load(vae.state_dict(), device, torch.bfloat16))
    whole = decode(decoder, latents)
    assert torch.equal(decode(decoder, latents), whole)
    assert torch.equal(decode(decoder, latents[:, :, :3]), whole[:, :9])
    decoder.reset()
    assert torch.equal(decoder.step(latents[:, :, 0]), whole[:, :1])
