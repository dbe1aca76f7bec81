"""VAEs that decode all at once, and those of images: the stock bits, sent from where the decode leaves them."""

import logging

import pytest
import torch

from . import in_comfyui
from .streams import ListSink

from async_frame_pipeline.nodes import decoding, families
from async_frame_pipeline.nodes.comfyui import vaes
from async_frame_pipeline.nodes.families import ways

# (batch, latent frames): without any, the batch is the frames.
SHAPES = {
    "mochi": [(1, 1), (1, 3), (2, 2)],
    "cosmos": [(1, 1), (1, 3), (2, 2)],
    "svd": [(1, 0), (5, 0)],
    "image": [(1, 0), (5, 0)],
}


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module", params=SHAPES)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def vae(kind):
    return in_comfyui.vae(kind)


def latent_for(vae, batch: int, frames: int) -> dict:
    shape = (batch, vae.latent_channels, *([frames] if frames else []), 2, 3)
    return {"samples": torch.randn(shape, generator=torch.Generator().manual_seed(batch + frames))}


@pytest.fixture
def no_stock_way(monkeypatch):
    """Where the stock way would be an error."""
    stock = vaes.stock_decode
    monkeypatch.setattr(ways.vaes, "stock_decode", None)
    return stock


def test_the_bits_of_the_stock_node(kind, vae, no_stock_way):
    for batch, frames in SHAPES[kind]:
        samples = latent_for(vae, batch, frames)
        stock = no_stock_way(vae, samples)
        image, report = decoding.decode_image_with_report(vae, samples, "exact")
        assert torch.equal(image, stock) and image.dtype == stock.dtype, (batch, frames)
        assert report.decoded.decoder == "late" and report.frames == len(stock)
        assert families.size_of(vae, samples) == tuple(stock.shape[:3])
        assert len(torch.unique(stock)) > 50


@pytest.mark.parametrize("kind", ["image"], indirect=True)
def test_the_lanes_take_memory_for_the_frames_that_there_are(kind, vae):
    """Of one image not for sixteen: the decode may need it."""
    _, report = decoding.decode_image_with_report(vae, latent_for(vae, 1, 0), "exact")
    assert report.slots == 2 and report.ring_bytes == 2 * report.height * report.width * 3 * 4


@pytest.mark.parametrize("kind", ["svd", "image"], indirect=True)
def test_batches_are_of_stocks_size(kind, vae, no_stock_way, monkeypatch):
    """Of what is free before the lanes take memory: with others, frames would differ by rounding."""
    sizes, own = [], type(vae.first_stage_model).decode
    samples = latent_for(vae, 5, 0)
    each = vae.memory_used_decode(samples["samples"].shape, vae.vae_dtype)
    monkeypatch.setattr(vae.patcher, "get_free_memory", lambda device: 2.5 * each)
    with monkeypatch.context() as seen:
        seen.setattr(vaes, "why_not_in_batches", lambda vae: None)
        seen.setattr(type(vae.first_stage_model), "decode", lambda self, z: sizes.append(len(z)) or own(self, z))
        stock = no_stock_way(vae, samples)
        image = decoding.decode_image(vae, samples, "exact")
    assert sizes == [2, 2, 1] * 2
    assert torch.equal(image, stock)


@pytest.mark.parametrize("kind", ["mochi", "image"], indirect=True)
def test_out_of_memory_ends_in_the_stock_tiles(kind, vae, monkeypatch):
    samples = latent_for(vae, *SHAPES[kind][1])
    own, fails = type(vae.first_stage_model).decode, []

    def runs_out(self, z):
        fails.append(z)
        if len(fails) in (1, at_stock):
            raise torch.OutOfMemoryError("a test's")
        return own(self, z)

    at_stock = 0
    monkeypatch.setattr(vaes, "why_not_in_batches", lambda vae: None)
    monkeypatch.setattr(type(vae.first_stage_model), "decode", runs_out)
    sink = ListSink()
    report = decoding.decode_into(vae, samples, [sink], decoder="exact")
    at_stock = len(fails) + 1
    assert report.decoded.decoder == "tiled"
    assert [call for call in sink.calls if call != "write"] == ["open", "abort", "open", "finish", "publish"]
    assert torch.equal(sink.frames, vaes.stock_decode(vae, samples))


def test_an_error_goes_the_stock_way(kind, vae, monkeypatch):
    samples = latent_for(vae, *SHAPES[kind][1])
    stock, own, calls = vaes.stock_decode(vae, samples), type(vae.first_stage_model).decode, []

    def fails_once(self, z):
        calls.append(z)
        if len(calls) == 1:
            raise RuntimeError("a test's")
        return own(self, z)

    monkeypatch.setattr(vaes, "why_not_in_batches", lambda vae: None)
    monkeypatch.setattr(type(vae.first_stage_model), "decode", fails_once)
    image, report = decoding.decode_image_with_report(vae, samples, "exact")
    assert report.decoded.decoder == "stock" and torch.equal(image, stock)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda vae: setattr(vae, "output_channels", 2), "the VAE's output is not RGB"),
        (lambda vae: setattr(vae, "process_output", lambda frames: frames.mul_(0.5)), "the VAE scales its output"),
        (lambda vae: setattr(vae.first_stage_model, "decode", vae.first_stage_model.decode), "another node or pack"),
        (lambda vae: setattr(vae, "latent_dim", 1), "AutoencoderKL is not a VAE of Wan 2.1"),
    ],
    ids=["sound", "another range", "another pack's", "another size"],
)
def test_what_is_not_known_goes_the_stock_way(change, why, caplog):
    caplog.set_level(logging.INFO, "async-frame-pipeline")
    vae = in_comfyui.vae("image")
    change(vae)
    samples = latent_for(vae, 2, 0)
    assert torch.equal(decoding.decode_image(vae, samples, "exact"), vaes.stock_decode(vae, samples))
    [said] = [record.getMessage() for record in caplog.records if "the stock way: " in record.getMessage()]
    assert why in said
