"""LTX's fast decoder as nodes use it, in float32 on the CPU, where nobody else is given it."""

import pytest
import torch

from . import in_comfyui  # noqa: F401
from ..server.pack.vaes import ltx

from async_frame_pipeline.nodes import decoding
from async_frame_pipeline.nodes.comfyui import memory, vaes
from async_frame_pipeline.nodes.families import ltx as family
from async_frame_pipeline.pipeline.decoders.fast.plan import Room

FAST = ("2", "2.3", "causal", "0.9.5")
SLOW = {"0.9": "with a block of kind res_x_y", "0.9.1": "that draw noise in their blocks"}


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setattr(family, "LEFT_AS_THEY_ARE", ())


def latent(frames: int = 3) -> dict:
    return {"samples": torch.randn(1, 128, frames, 2, 3, generator=torch.Generator().manual_seed(frames))}


def decode(vae, samples, decoder="auto"):
    torch.manual_seed(7)
    return decoding.decode_image_with_report(vae, samples, decoder)


def stock_decode(vae, samples):
    torch.manual_seed(7)
    return vaes.stock_decode(vae, samples)


@pytest.mark.parametrize("version", FAST)
@pytest.mark.parametrize("frames", [1, 4])
def test_it_is_the_stock_decode_and_draws_the_same_noise(version, frames):
    vae = ltx(1, version)
    stock = stock_decode(vae, latent(frames))
    drawn = torch.get_rng_state()
    for _ in range(2):  # with the comparison before, and without
        image, report = decode(vae, latent(frames))
        assert report.decoded.decoder == "fast" and torch.equal(torch.get_rng_state(), drawn)
        torch.testing.assert_close(image, stock, atol=1e-5, rtol=0)
    assert len(torch.unique(image)) > 100


@pytest.mark.parametrize("version", SLOW)
def test_what_it_does_not_know_is_decoded_exact(version):
    vae = ltx(1, version)
    image, report = decode(vae, latent())
    assert report.decoded.decoder == "exact" and SLOW[version] in report.decoded.why_not_fast
    assert torch.equal(image, stock_decode(vae, latent()))


def test_what_somebody_changed_is_decoded_exact():
    vae = ltx(1, "0.9.5")
    vae.first_stage_model.decode_timestep = 0.2
    image, report = decode(vae, latent())
    assert report.decoded.decoder == "exact" and report.decoded.why_not_fast == vaes.REPLACED
    assert torch.equal(image, stock_decode(vae, latent()))


def test_what_does_not_fit_is_decoded_exact(monkeypatch):
    vae = ltx(1, "2")
    decode(vae, latent())
    monkeypatch.setattr(memory, "room", lambda vae, model: Room(1, 1, 1 << 40))
    image, report = decode(vae, latent())
    assert report.decoded.decoder == "exact" and "memory" in report.decoded.why_not_fast
    assert torch.equal(image, stock_decode(vae, latent()))


def test_frames_that_differ_are_not_used(monkeypatch):
    vae, frames = ltx(1, "2"), family.FastLtx.frames
    monkeypatch.setattr(family.FastLtx, "frames", lambda *args: (piece + 0.5 for piece in frames(*args)))
    image, report = decode(vae, latent())
    assert report.decoded.decoder == "exact" and "differ" in report.decoded.why_not_fast
    assert torch.equal(image, stock_decode(vae, latent()))


@pytest.mark.parametrize("version", ["2", "0.9.5"])
def test_frames_that_left_the_range_of_float16_are_decoded_exact(version, monkeypatch):
    """What the comparison, of noise, cannot know: these weights or latents hold more."""
    vae, frames = ltx(1, version), family.FastLtx.frames
    decode(vae, latent())
    stock = stock_decode(vae, latent(4))

    def overflowing(*args):
        *pieces, last = frames(*args)
        last = last.clone()
        last[0, -1, 3, 5] = torch.inf
        yield from (*pieces, last)

    monkeypatch.setattr(family.FastLtx, "frames", overflowing)
    image, report = decode(vae, latent(4))
    assert report.decoded.decoder == "exact" and "float16" in report.decoded.why_not_fast
    assert torch.equal(image, stock)


@pytest.mark.parametrize("decoder", ["auto", "fast"])
def test_on_a_cpu_it_stays_as_it_is(decoder, monkeypatch):
    monkeypatch.undo()
    vae = ltx(1, "2")
    image, report = decode(vae, latent(), decoder)
    assert report.decoded.decoder == "exact" and torch.equal(image, stock_decode(vae, latent()))
    assert "LTX on a CPU" in report.decoded.why_not_fast
