"""A VAE that this version does not know, but whose model writes into ComfyUI's buffer: streamed, or as stock."""

import pytest
import torch

from . import in_comfyui

from async_frame_pipeline.nodes import decoding, families
from async_frame_pipeline.nodes.comfyui import vaes
from async_frame_pipeline.pipeline.decoders.families import facts


class Later(torch.nn.Module):
    """As a later ComfyUI may have one: ten frames of a latent one, three at a time, in [0, 1]."""

    comfy_has_chunked_io = True

    def decode_output_shape(self, shape):
        return (shape[0], 3, 10 * shape[2], 8 * shape[3], 8 * shape[4])

    def pictures(self, x):
        return x[:, :3].repeat_interleave(10, 2).repeat_interleave(8, 3).repeat_interleave(8, 4).sin().abs()

    def decode(self, x, output_buffer=None):
        pictures = self.pictures(x)
        for start in range(0, pictures.shape[2], 3):
            piece = pictures[:, :, start : start + 3]
            output_buffer[:, :, start : start + piece.shape[2]].copy_(piece)


class AtOnce(Later):
    """As a later ComfyUI's MiniMax H3 writes a single frame."""

    def decode(self, x, output_buffer=None):
        return output_buffer.copy_(self.pictures(x))


class Halves(Later):
    """The left one of all frames first."""

    def decode(self, x, output_buffer=None):
        pictures = self.pictures(x)
        for half in (slice(0, 8), slice(8, None)):
            output_buffer[:, :, :, :, half].copy_(pictures[..., half])


class Blended(Later):
    """Each piece is added to what is there."""

    def decode(self, x, output_buffer=None):
        output_buffer[:, :, :].copy_(self.pictures(x) * 0.5)
        output_buffer[:, :, 2:5].mul_(2.0)


class Particular(Later):
    """Writes its last frames into nothing but a tensor."""

    def decode(self, x, output_buffer=None):
        output_buffer[:, :, 0:7].copy_(self.pictures(x)[:, :, :7])
        if isinstance(output_buffer, torch.Tensor):
            output_buffer[:, :, 7:].copy_(self.pictures(x)[:, :, 7:])


def vae_of(model):
    vae = in_comfyui.vae("ltx")
    vae.first_stage_model = model.to(vae.vae_dtype)
    vae.process_output = lambda frames: frames
    return vae


def decoded(model):
    vae, samples = vae_of(model), {"samples": torch.randn(1, 128, 2, 2, 3)}
    with torch.inference_mode():
        stock = vaes.stock_decode(vae, samples)
        image, report = decoding.decode_image_with_report(vae, samples)
    assert torch.equal(image, stock) and len(torch.unique(stock)) > 10
    return vae, samples, report


@pytest.mark.parametrize("model", [Later, AtOnce])
def test_it_is_streamed(model):
    vae, samples, report = decoded(model())
    assert families.of(vae) is families.CHUNKED
    assert families.size_of(vae, samples) == (20, 16, 24)
    assert (report.decoded.decoder, report.frames) == ("exact", 20)
    assert report.decoded.why_not_fast == "there is no fast decoder for other video VAEs"


def test_a_known_model_that_a_later_comfyui_gives_a_buffer_is_one_of_these():
    vae = in_comfyui.vae("minimax h3")
    assert families.of(vae).name == "MiniMax H3"
    vae.first_stage_model.comfy_has_chunked_io = True
    assert families.of(vae) is families.CHUNKED


@pytest.mark.parametrize("model", [Halves, Blended, Particular])
def test_one_that_writes_otherwise_goes_the_stock_way(model):
    _, _, report = decoded(model())
    assert report.decoded.decoder == "stock" and report.decoded.reason.startswith("exact failed: ")


def test_one_that_says_no_size_goes_the_stock_way(monkeypatch):
    vae = vae_of(Later())
    monkeypatch.setattr(vae.first_stage_model, "decode_output_shape", None)
    monkeypatch.setattr(vaes, "stock_decode", lambda *args: torch.zeros(1, 2, 2, 3))
    assert vaes.why_not_known(vae, into_buffer=True) is None
    _, report = decoding.decode_image_with_report(vae, {"samples": torch.randn(1, 128, 2, 2, 3)})
    assert report.decoded.reason == facts.UNKNOWN


def test_memory_runs_out(monkeypatch):
    """The last way is the tiles that `VAE.decode` would take, be they the model's own."""
    vae, calls = vae_of(Later()), []

    def fail(x, output_buffer=None):
        calls.append(x)
        raise torch.OutOfMemoryError("a test's")

    monkeypatch.setattr(Later, "pictures", lambda self, x: fail(x))
    vae.handles_tiling = True
    vae.first_stage_model.decode_tiled = lambda x, **tiles: torch.full((1, 3, 20, 16, 24), tiles["tile_x"] / 100)
    samples = {"samples": torch.randn(1, 128, 2, 2, 3)}
    with torch.inference_mode():
        image, report = decoding.decode_image_with_report(vae, samples)
        assert len(calls) == 2 and report.decoded.decoder == "tiled"
        assert torch.equal(image, vaes.stock_decode(vae, samples))
