"""The fast decoder on a GPU: kernels against their references, and errors no larger than the stock decoder's."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from async_frame_pipeline.pipeline.decoders.away import Away
from async_frame_pipeline.pipeline.decoders.fast import cuda, kernels, reference, weights
from async_frame_pipeline.pipeline.decoders.fast.network import Bands, WanDecoder

from ..unit import stock_wan

SAMPLE = Path(__file__).resolve().parents[2] / "workflows" / "sample"
# A step of float16 at the largest values here: kernel and reference round the same float32 up or down.
STEP = 2**-9


def noise(device, *shape, dtype=torch.float16):
    return torch.randn(shape, device=device, dtype=dtype)


CHANNELS = pytest.mark.parametrize("channels", [3, 12, 96, 192, 384, 1024])
SHAPES = pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 7), (33, 18)])


def on_both(kernel, device, make_arguments):
    """A kernel's outputs on the GPU and from its reference on the CPU: pairs of tensors on the CPU."""
    arguments, outputs = make_arguments(device)
    copies = {id(None): None}

    def copy(value):
        if isinstance(value, list):
            return [copy(item) for item in value]
        if isinstance(value, torch.Tensor):
            return copies.setdefault(id(value), value.cpu())
        return value

    reference = {name: copy(value) for name, value in arguments.items()}
    wanted = [copies[id(output)] for output in outputs]
    kernel(**arguments)
    kernel(**reference)
    return zip([output.cpu() for output in outputs], wanted)


@pytest.mark.parametrize("channels", [12, 384])
@pytest.mark.parametrize("pixels", [1, 127, 128, 131, 3520])
def test_attention_is_its_reference(device, monkeypatch, channels, pixels):
    """In several pieces, with scores large enough for one pixel to outweigh the others, and far below zero."""
    monkeypatch.setattr(cuda, "SCORES_BYTES", 4 * pixels * 40)
    q, k, v = (noise(device, pixels, 3 * channels) * 2).chunk(3, dim=-1)
    k[:, 0] -= 30
    wanted = kernels.attention(q.cpu(), k.cpu(), v.cpu())
    torch.testing.assert_close(kernels.attention(q, k, v).cpu(), wanted, atol=5e-3, rtol=STEP)


def test_a_launch_that_the_driver_refuses_is_an_error(device):
    frames = noise(device, 1, 0, 5, 8)  # of which there are no pixels, and no blocks
    with pytest.raises(RuntimeError, match="CUDA error: invalid argument"):
        kernels.norm_silu(frames, 1.0, None, None, None, frames, None)


@CHANNELS
@SHAPES
@pytest.mark.parametrize("what", ["norm", "add", "add and norm", "add and norm in place"])
def test_norm_silu_is_its_reference(device, channels, height, width, what):
    def arguments(device):
        shape = (3, height, width, channels)
        in_place = "in place" in what
        residual = noise(device, *shape) if "add" in what else None
        x = torch.full(shape, 9.0, device=device, dtype=torch.float16) if "add" in what and not in_place else None
        y = torch.full(shape, 9.0, device=device, dtype=torch.float16) if "norm" in what else None
        y = residual if in_place else y
        return dict(
            a=noise(device, *shape),
            scale=0.5,
            bias=noise(device, channels, dtype=torch.float32),
            residual=residual,
            gamma=noise(device, channels, dtype=torch.float32),
            x_out=x,
            y_out=y,
        ), [out for out in (x, y) if out is not None]

    for got, wanted in on_both(kernels.norm_silu, device, arguments):
        torch.testing.assert_close(got, wanted, atol=1e-2, rtol=STEP)


@CHANNELS
@SHAPES
@pytest.mark.parametrize("frames", [2, 4])
@pytest.mark.parametrize("source", ["frames", "products"])
@pytest.mark.parametrize("target", ["frames", "frames in place", "points", "points in place", "sum alone"])
def test_norm_silu_points_is_its_reference(device, channels, height, width, frames, source, target):
    def arguments(device):
        frame, half = (height, width, channels), torch.float16
        x = noise(device, frames, *frame)
        # The sum replaces the residual.
        outputs, options = [x], {"x_out": x}
        products = noise(device, frames, *frame)
        if source == "products":
            products = [noise(device, 1, *frame, dtype=half) for _ in range(frames + 2)]
        if target == "frames":
            options["y_out"] = torch.empty_like(x)
            outputs.append(options["y_out"])
        elif target == "frames in place":
            options = {"x_out": None, "y_out": x}
        elif "points" in target:
            options["history"] = noise(device, 2, *frame, dtype=half)
            in_place = target == "points in place" and source == "products"
            options["points_out"] = (
                products if in_place else [torch.empty(1, *frame, device=device, dtype=half) for _ in range(frames + 2)]
            )
            outputs += [options["history"], *options["points_out"]]
        gamma = None if target == "sum alone" else noise(device, channels, dtype=torch.float32)
        bias = noise(device, channels, dtype=torch.float32)
        return dict(products=products, scale=2.0, bias=bias, residual=x, gamma=gamma, **options), outputs

    for got, wanted in on_both(kernels.norm_silu_points, device, arguments):
        torch.testing.assert_close(got, wanted, atol=2e-2, rtol=STEP)


def test_the_sum_may_replace_the_residual(device):
    a, residual = noise(device, 2, 3, 5, 96), noise(device, 2, 3, 5, 96)
    wanted = (a.float() + residual.float()).to(torch.float16)
    kernels.norm_silu(a, 1.0, None, residual, None, residual, None)
    assert torch.equal(residual, wanted)


@pytest.mark.parametrize("channels", [3, 96, 512])
@pytest.mark.parametrize("shortcut", [False, True])
@pytest.mark.parametrize("half", [0, 1])
def test_depth_to_space_is_its_reference(device, channels, shortcut, half):
    phases, bias = noise(device, 3, 6, 8, 4 * channels), noise(device, channels, dtype=torch.float32)
    source = noise(device, 3, 5, 7, 2 * channels) if shortcut else None
    outs = []
    for spread in (kernels.depth_to_space, reference.depth_to_space):
        out = torch.full((3, 10, 14, channels), 9.0, device=device, dtype=torch.float16)
        spread(phases, bias, out, source, (half, 2))
        outs.append(out)
    assert torch.equal(*outs)


@pytest.mark.parametrize(("channels", "outputs"), [(2, 3), (12, 3), (96, 3), (256, 12)])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (9, 150), (4, 128)])
def test_head_is_a_convolution(device, monkeypatch, channels, outputs, height, width):
    """A row at a time, of one frame, of four and of two."""
    monkeypatch.setattr(cuda, "HEAD_BYTES", 1)
    frames, bias = noise(device, 7, height, width, channels), noise(device, outputs, dtype=torch.float32)
    weight = (noise(device, outputs, channels, 3, 3, 3).float() * (27 * channels) ** -0.5).to(torch.float16)
    wanted = torch.nn.functional.conv3d(
        frames.double().permute(3, 0, 1, 2)[None], weight.double(), bias.double(), padding=(2, 1, 1)
    )[0]
    carried, got = torch.zeros((2, outputs, height, width), device=device), []
    for part in frames.split([1, 4, 2]):
        pixels, carried = kernels.head(carried, part, weight, bias)
        got.append(pixels)
    torch.testing.assert_close(torch.cat(got, dim=1).double(), wanted[:, :7], atol=1e-2, rtol=STEP)
    wanted_next = (wanted[:, 7:] - bias.double()[:, None, None, None]).transpose(0, 1)
    torch.testing.assert_close(carried.double(), wanted_next, atol=1e-2, rtol=STEP)


def decode(decoder, latents):
    decoder.reset()
    return torch.cat([decoder.step(latents[:, :, t].half()) for t in range(latents.shape[2])], dim=1)


@torch.inference_mode()  # else the stock module keeps all of its activations
def assert_error_is_no_larger(vae, latents):
    """Than that of the stock module in bfloat16; both against it in float32 with the same weights."""
    stock = vae.decode(latents)[0].float()
    fast = decode(WanDecoder(weights.load(vae.state_dict(), latents.device, torch.float16)), latents).float()
    torch.backends.cudnn.allow_tf32 = False
    exact = vae.float().decode(latents.float())[0]
    error, stock_error = (fast - exact).abs(), (stock - exact).abs()
    assert error.square().mean() <= stock_error.square().mean()
    assert error.max() <= stock_error.max()


@pytest.mark.parametrize(("version", "width"), [("2.1", 96), ("2.1", 12), ("2.1", 2), ("2.2", 256), ("2.2", 16)])
def test_its_error_is_no_larger_than_the_stock_decoders(device, version, width):
    """On random latents."""
    vae = stock_wan.module(version, width).to(torch.bfloat16).to(device)
    latents = stock_wan.latents(version, 5, 12, 20).to(device, torch.bfloat16)
    assert_error_is_no_larger(vae, latents)


def test_its_error_is_no_larger_on_natural_latents(device):
    """The bundled latents of a real clip and the tiny VAE that decodes them to a picture."""
    state = safetensors.torch.load_file(SAMPLE / "tiny_wan_vae.safetensors")
    latents = safetensors.torch.load_file(SAMPLE / "bunny_33f.latent")["latent_tensor"]
    vae = stock_wan.module("2.1", 12)
    vae.load_state_dict(state)
    assert_error_is_no_larger(vae.to(device, torch.bfloat16), latents.to(device, torch.bfloat16))


@pytest.mark.parametrize("version", ["2.1", "2.2"])
def test_the_same_latents_give_the_same_bits(device, version):
    vae, latents = stock_wan.module(version, 16), stock_wan.latents(version, 5, 6, 10).to(device, torch.bfloat16)
    decoder = WanDecoder(weights.load(vae.state_dict(), device, torch.float16))
    whole = decode(decoder, latents)
    assert torch.equal(decode(decoder, latents), whole)
    assert torch.equal(decode(decoder, latents[:, :, :3]), whole[:, :9])
    decoder.reset()
    assert torch.equal(decoder.step(latents[:, :, 0].half()), whole[:, :1])


def test_sums_in_float16_that_others_may_make_change_nothing(device):
    vae, latents = stock_wan.module("2.1", 16), stock_wan.latents("2.1", 3, 6, 10).to(device, torch.bfloat16)
    decoder = WanDecoder(weights.load(vae.state_dict(), device, torch.float16))
    wanted = decode(decoder, latents)
    torch.backends.cuda.matmul.allow_fp16_accumulation = True  # as by `--fast fp16_accumulation`
    try:
        assert torch.equal(decode(decoder, latents), wanted)
    finally:
        torch.backends.cuda.matmul.allow_fp16_accumulation = False


@pytest.mark.parametrize("version", ["2.1", "2.2"])
@pytest.mark.parametrize(
    "bands", [(Bands(), Bands(4)), (Bands(2), Bands(3, away=2)), (Bands(3, away=3), Bands(5, away=5))]
)
def test_in_bands_it_is_as_near(device, version, bands):
    """Other kernels, other rounding; an error of the halo would be a hundred times that."""
    vae = stock_wan.module(version, 16)
    state = weights.load(vae.state_dict(), device, torch.float16)
    latents = stock_wan.latents(version, 5, 13, 10).to(device, torch.bfloat16)
    torch.backends.cudnn.allow_tf32 = False
    wanted = vae.to(device).decode(latents.float())[0]
    away = Away(device)
    banded = WanDecoder(state, bands, away)
    whole_error = (decode(WanDecoder(state), latents) - wanted).square().mean()
    frames = decode(banded, latents)
    assert (frames - wanted).square().mean() <= 1.1 * whole_error
    assert torch.equal(decode(banded, latents), frames)
    assert (away.nbytes > 0) == any(section.away for section in bands)
    away.close()
