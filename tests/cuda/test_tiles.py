"""Tiles side by side on a GPU: whatever each takes, the stock node's bits, on one stream, and no thread left."""

import threading

import pytest
import torch
from async_frame_pipeline.pipeline.decoders import lockstep, tiles

from ..unit import in_comfyui  # noqa: F401

import comfy.model_management as model_management
from async_frame_pipeline.nodes import decoding
from async_frame_pipeline.nodes.comfyui import tiling
from async_frame_pipeline.nodes.comfyui.tiling import Tiling
from async_frame_pipeline.pipeline.decoders.families.recipe import Buffered, Hooked
from ..server.pack import vaes as tiny

# Of the GPU's clock: 5 to 50 ms, in another order for each piece.
CYCLES = (10_000_000, 0, 80_000_000, 1_000_000)
# A tile's size and overlap, and those in time, in pixels and frames of an LTX latent of 12x20.
SETTINGS = {"side by side": (256, 64, 4096, 8), "feathered": (256, 64, 4096, 64), "in time": (256, 64, 32, 8)}


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.fixture(params=["ltx", "hunyuan 1.5"])
def vae(request):
    return tiny.KINDS[request.param](1, dtype=torch.bfloat16)


@pytest.fixture
def delayed(monkeypatch):
    """Let the GPU dwell before and after each piece of each tile; gives the streams that were current there."""
    streams = set()
    count = 0

    def dwell():
        nonlocal count
        count += 1
        streams.add((threading.get_ident(), torch.cuda.current_stream().cuda_stream, torch.cuda.current_device()))
        torch.cuda._sleep(CYCLES[count % len(CYCLES)])

    not_delayed = Hooked.stream
    for recipe in (Buffered, Hooked):
        own = recipe.stream

        def stream(self, vae, latents, submit, *more, own=own):
            def late(piece):
                dwell()
                submit(piece)
                dwell()
                piece.fill_(7.0)  # what is still to be read of it would be wrong

            own(self, vae, latents, late, *more)

        monkeypatch.setattr(recipe, "stream", stream)

    # What tries a model out keeps its pieces for longer.
    own_try = Hooked._fits_once

    def fits_once(self, vae, noise):
        with monkeypatch.context() as patched:
            patched.setattr(Hooked, "stream", not_delayed)
            return own_try(self, vae, noise)

    monkeypatch.setattr(Hooked, "_fits_once", fits_once)
    return streams


def latent_for(vae, frames: int) -> dict:
    shape = (1, vae.latent_channels, frames, 12, 20)
    return {"samples": torch.randn(shape, generator=torch.Generator().manual_seed(frames))}


def asked_of(vae, settings: tuple) -> Tiling:
    across = vae.spacial_compression_decode()
    return Tiling(settings[0] * across // 32, settings[1] * across // 32, *settings[2:])


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("frames", [1, 9])
@torch.inference_mode()
def test_the_bits_of_the_stock_node(device, vae, settings, frames, delayed):
    samples, asked = latent_for(vae, frames), asked_of(vae, settings)
    tiling.stock_decode(vae, samples, asked)  # a process's first convolutions may be done by other kernels
    stock = tiling.stock_decode(vae, samples, asked)
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        image, report = decoding.decode_image_with_report(vae, samples, tiling=asked)
    assert report.decoded.decoder == "tiled, streamed" and torch.equal(image, stock)
    if settings[2] == 4096:
        assert len({thread for thread, _, _ in delayed}) > 1
        assert {(current, number) for _, current, number in delayed} == {(stream.cuda_stream, device.index)}


@pytest.mark.parametrize("at", [1, 5, 9])
@torch.inference_mode()
def test_a_cancel_leaves_nothing_behind(device, vae, at, delayed, monkeypatch):
    samples, asked = latent_for(vae, 9), asked_of(vae, SETTINGS["side by side"])
    stock = tiling.stock_decode(vae, samples, asked)
    decoding.decode_image(vae, samples, tiling=asked)  # what threads' libraries keep is there from now on
    own, calls = torch.cuda._sleep, []

    def cancel(cycles):
        calls.append(cycles)
        if len(calls) == at:
            model_management.interrupt_current_processing()
        own(cycles)

    with monkeypatch.context() as patched:
        patched.setattr(torch.cuda, "_sleep", cancel)
        with pytest.raises(model_management.InterruptProcessingException):
            decoding.decode_image(vae, samples, tiling=asked)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    assert torch.equal(decoding.decode_image(vae, samples, tiling=asked), stock)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= before


@pytest.mark.parametrize("sums_on", ["cuda", "cpu"])
@torch.inference_mode()
def test_sums_have_the_same_bits_on_gpu_and_cpu(device, sums_on):
    """Of masks that fall off from both sides at once, and of float16 too."""
    plan = tiles.plan((11, 9, 13), (5, 5, 4), (2, 2, 2), lambda i, n: (4, 8, 8)[i] * n, lambda i, n: (4, 8, 8)[i] * n)
    for dtype in (torch.float32, torch.float16):
        latents = torch.randn(1, 3, 11, 9, 13, generator=torch.Generator().manual_seed(0)).to(dtype)

        def decoded(tile, dtype=dtype):
            return torch.nn.functional.interpolate(tile.float(), scale_factor=(4, 8, 8)).to(dtype)

        expected, seen = [], []
        cpu = torch.device("cpu")
        tiles.decode(latents, plan, decoded, expected.append, cpu, cpu)
        tiles.decode(latents.to(device), plan, decoded, seen.append, device if sums_on == "cuda" else cpu, device)
        assert all(piece.device == device for piece in seen)
        assert torch.equal(torch.cat(seen, dim=1).cpu(), torch.cat(expected, dim=1))


@torch.inference_mode()
def test_pieces_of_different_sizes_are_added_when_they_are_there(device):
    """Each made by a slow kernel that has not run yet when it is handed over."""
    plan = tiles.plan((9, 5, 7), (99, 3, 3), (2, 1, 1), lambda i, n: n, lambda i, n: n)
    latents = torch.randn(1, 3, 9, 5, 7, generator=torch.Generator().manual_seed(1)).to(device)
    expected, seen = [], []
    tiles.decode(latents, plan, lambda tile: tile * 2, expected.append, device, device)

    def stream(tile, submit):
        for start, size in ((0, 1), (1, 5), (6, 3)) if tile.storage_offset() % 2 else ((0, 4), (4, 1), (5, 4)):
            torch.cuda._sleep(20_000_000)
            piece = tile[0, :, start : start + size] * 2
            submit(piece)
            piece.zero_()

    lockstep.decode(latents, plan, lambda tile: 9, stream, seen.append, torch.float32, device)
    assert torch.equal(torch.cat(seen, dim=1), torch.cat(expected, dim=1))
