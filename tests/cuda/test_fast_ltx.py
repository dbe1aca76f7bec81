"""LTX's fast decoder on a GPU: kernels against their references, errors no larger than the stock decoder's, memory."""

import pytest
import torch
from async_frame_pipeline.pipeline.decoders import buffered
from async_frame_pipeline.pipeline.decoders.fast import kernels, ltx, ltx_weights, reference
from async_frame_pipeline.pipeline.decoders.fast.ltx import LtxDecoder

from ..unit import in_comfyui, stock_ltx  # noqa: F401

from async_frame_pipeline.nodes import decoding
from async_frame_pipeline.nodes.comfyui import vaes
from ..server.pack.vaes import ltx as tiny_ltx

# A step of float16 at the largest values here: kernel and reference round the same float32 up or down.
CLOSE = dict(atol=2e-2, rtol=2**-9)
CHANNELS = pytest.mark.parametrize("channels", [3, 12, 384, 1024])


def noise(device, *shape, dtype=torch.float16):
    return torch.randn(shape).to(device, dtype)


def assert_same(name, device, make):
    """A kernel's outputs on the GPU and those of its reference on the CPU.

    `make`: gives the arguments on a device, and those that are put out.
    """
    seen = []
    for step, where in ((getattr(kernels, name), device), (getattr(reference, name), torch.device("cpu"))):
        torch.manual_seed(0)
        arguments, outputs = make(where)
        step(**arguments)
        seen.append([output.cpu() for output in outputs])
    for got, wanted in zip(*seen):
        torch.testing.assert_close(got, wanted, **CLOSE)


@CHANNELS
@pytest.mark.parametrize(("height", "width"), [(2, 2), (9, 13)])
@pytest.mark.parametrize("padded", [False, True], ids=["zeros", "reflects"])
@pytest.mark.parametrize(
    ("groups", "first", "end", "made"),
    [(2, -1, 8, 2), (1, -1, 4, 1), (3, 0, 12, 3), (2, 2, 8, 2), (1, 3, 4, 2), (1, 1, 2, 1), (2, -1, 7, 3)],
)
@pytest.mark.parametrize("source", ["frames", "products", "products, in place", "products, a late sum"])
def test_norm_silu_groups_is_its_reference(device, channels, height, width, padded, groups, first, end, made, source):
    frame, around = (height, width, channels), (height + 2 * padded, width + 2 * padded, channels)

    def make(device):
        products = [noise(device, groups, *frame) for _ in range(6)]
        in_place = "in place" in source and not padded and made == groups
        points = products if in_place else [noise(device, made, *around) for _ in range(6)]
        history = noise(device, 2, *frame)
        outputs = [history, *points]
        arguments = dict(
            source=noise(device, end, *frame) if source == "frames" else products,
            scale=0.5,
            bias=noise(device, channels, dtype=torch.float32),
            residual=None,
            before=None,
            x_out=None,
            x_history=None,
            eps=None if source == "frames" else 1e-3,
            affine=None,
            history=history,
            first=first,
            end=end,
            points_out=points,
            y_out=None,
            padded=padded,
        )
        if "in place" in source:
            arguments["affine"] = [noise(device, channels, dtype=torch.float32) for _ in range(2)]
            arguments["y_out"] = noise(device, end, *around)
            outputs.append(arguments["y_out"])
        if "late" in source:
            # The sum replaces the residual, and what is remembered of that what was.
            x, x_history = noise(device, 4 * groups, *frame), noise(device, 2, *frame)
            arguments |= dict(residual=x, before=x_history, x_out=x[:end], x_history=x_history)
            outputs.append(x)
            if end == 4 * made:  # else the video ends, and nobody asks for it
                outputs.append(x_history)
        return arguments, outputs

    assert_same("norm_silu_groups", device, make)


@pytest.mark.parametrize("channels", [3, 12, 128])
@pytest.mark.parametrize("factors", [(2, 2), (2, 1), (1, 2)])
@pytest.mark.parametrize("shortcut", ["none", "at once", "late"])
@pytest.mark.parametrize("end", [8, 5])
def test_spread_groups_is_its_reference(device, channels, factors, shortcut, end):
    time, space = factors
    (height, width), inner = (5, 7), time * space**2 * channels

    def make(device):
        out = noise(device, time * end, space * height, space * width, channels)
        return dict(
            products=[noise(device, 2, height, width, inner) for _ in range(6)],
            bias=noise(device, inner, dtype=torch.float32),
            factors=factors,
            residual=None if shortcut == "none" else noise(device, end, height, width, inner),
            before=noise(device, 1, height, width, inner) if shortcut == "late" else None,
            out=out,
        ), [out]

    assert_same("spread_groups", device, make)


@pytest.mark.parametrize("patch", [1, 4])
@pytest.mark.parametrize(("shift", "lowest", "highest"), [(-2, -2, 5), (-1, 0, 5), (0, 1, 3)])
def test_patches_are_their_reference(device, patch, shift, lowest, highest):
    outputs, (height, width) = 3 * patch**2, (5, 7)

    def make(device):
        out = noise(device, 3, 4, patch * height, patch * width, dtype=torch.float32)
        return dict(
            taps=noise(device, 6, height, width, 3 * outputs),
            history=noise(device, 2, height, width, 3 * outputs),
            scale=0.5,
            bias=noise(device, outputs, dtype=torch.float32),
            shift=shift,
            lowest=lowest,
            highest=highest,
            out=out,
        ), [out]

    assert_same("patches", device, make)


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def random_vae(device, version, width, layers):
    vae = stock_ltx.module(version, width, layers, device).to(torch.bfloat16)
    vae.decode_noise_scale = 0.0  # which some versions add to the latent
    return vae


def decoder_of(vae, device) -> LtxDecoder:
    return LtxDecoder(ltx_weights.load(vae.state_dict(), vae.config, device, torch.float16))


def decode(decoder, latents):
    return torch.cat(list(decoder.push(latents, last=True)), dim=1)


def latents_of(device, frames, height, width, smooth=False):
    latents = stock_ltx.latents(frames, height, width)
    if smooth:
        small = stock_ltx.latents(2, 3, 3)
        latents = torch.nn.functional.interpolate(small, latents.shape[2:], mode="trilinear")
    return latents.to(device, torch.bfloat16)


def stock_decode(vae, latents):
    seen = []
    buffered.decode(vae, latents, lambda frames: seen.append(frames.clone()))
    return torch.cat(seen, dim=1).float()


@pytest.mark.parametrize("version", stock_ltx.VERSIONS)
@pytest.mark.parametrize("smooth", [False, True], ids=["random", "smooth"])
@pytest.mark.parametrize("frames", [1, 2, 3, 5, 9])
def test_its_error_is_no_larger_than_the_stock_decoders(device, version, smooth, frames):
    """Both against the stock module in float32 with the same weights."""
    vae, latents = random_vae(device, version, 64, 2), latents_of(device, frames, 5, 7, smooth)
    stock, fast = stock_decode(vae, latents), decode(decoder_of(vae, device), latents)
    torch.backends.cudnn.allow_tf32 = False
    exact = stock_decode(vae.float(), latents.float())
    error, stock_error = (fast - exact).abs(), (stock - exact).abs()
    assert error.square().mean() <= stock_error.square().mean()
    assert error.max() <= stock_error.max()


@pytest.mark.parametrize("version", ["2", "reflects", "causal"])
def test_any_pieces_give_the_same_bits(device, version):
    vae, latents = random_vae(device, version, 16, 2), latents_of(device, 19, 4, 6)
    decoder = decoder_of(vae, device)
    whole = decode(decoder, latents)
    for sizes in ([1] * 19, [3, 8, 8], [17, 2]):
        pieces, at = [], 0
        for size in sizes:
            pieces += decoder.push(latents[:, :, at : at + size], last=at + size == 19)
            at += size
        assert torch.equal(torch.cat(pieces, dim=1), whole)


@pytest.mark.parametrize("version", ["2", "reflects"])
@pytest.mark.parametrize(("frames", "height", "width"), [(16, 22, 40), (31, 16, 24)])
def test_what_is_counted_is_what_it_takes(device, version, frames, height, width):
    """At the published size; and no more than what the stock modules take with their caches in copies."""
    vae, latents = random_vae(device, version, 128, 5), latents_of(device, frames, height, width)
    decoder = decoder_of(vae, device)
    counted = ltx.needed(decoder._weights, height, width, joins=torch.cuda.get_allocator_backend() == "native")
    decode(decoder, latents[:, :, :1])  # cuDNN loads its kernels
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    for _ in decoder.push(latents, last=True):
        pass
    torch.cuda.synchronize()
    taken = torch.cuda.max_memory_allocated() - before
    assert 0.8 * counted <= taken <= counted
    if (frames, height, width) == (16, 22, 40):  # the stock modules: an H100 took 2.94 GB
        assert taken <= 2.94e9


@pytest.mark.parametrize("version", ["2", "2.3", "0.9.5", "causal"])
def test_the_node_decodes_so(device, version):
    """With the noise that the stock node would draw."""
    vae = tiny_ltx(1, version, dtype=torch.bfloat16)
    samples = {"samples": stock_ltx.latents(5, 6, 9)}
    torch.manual_seed(7)
    stock = vaes.stock_decode(vae, samples)
    torch.manual_seed(7)
    image, report = decoding.decode_image_with_report(vae, samples)
    assert report.decoded.decoder == "fast"
    assert image.shape == stock.shape and (image - stock).square().mean().sqrt() < 0.01
