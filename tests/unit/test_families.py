"""The families' exact ways, on ComfyUI's own modules with tiny random weights: the stock node's bits."""

import importlib
from pathlib import Path

import pytest
import torch
from async_frame_pipeline.pipeline.sinks.tensor import TensorSink

from . import in_comfyui
from ..server.pack.vaes import random_state_dict

import comfy.sd
import comfy.taesd.taehv
from async_frame_pipeline.nodes import decoding, families
from async_frame_pipeline.nodes.comfyui import vaes
from async_frame_pipeline.nodes.families import ways


@pytest.fixture(autouse=True)
def no_stock_way(monkeypatch):
    """Each test is about a way that streams: one that fails is to fail the test."""
    monkeypatch.setattr(ways.vaes, "stock_decode", None)


def taehv(channels: int, hv15: bool = False):
    """As ComfyUI loads one for latents of so many channels; `hv15` is LightTAE's for HunyuanVideo 1.5."""
    module = comfy.taesd.taehv.TAEHV(latent_channels=channels)
    weights = random_state_dict(module, channels)
    if not hv15 and channels == 16:
        weights = {name: weight.half() for name, weight in weights.items()}  # taehv, and not lighttaew2_1
    return comfy.sd.VAE(sd=weights)


KINDS = {
    "wan 2.1": lambda: in_comfyui.vae("wan 2.1"),
    "wan 2.2": lambda: in_comfyui.vae("wan 2.2"),
    "ltx": lambda: in_comfyui.vae("ltx"),
    "taehv of 16": lambda: taehv(16),
    "lighttae of 16": lambda: taehv(16, hv15=True),
    "lighttae of 32": lambda: taehv(32),
    "taehv of 48": lambda: taehv(48),
    "taehv of 128": lambda: taehv(128),
    "hunyuan 1.0": lambda: in_comfyui.vae("hunyuan 1.0"),
    "hunyuan 1.5": lambda: in_comfyui.vae("hunyuan 1.5"),
    "minimax h3": lambda: in_comfyui.vae("minimax h3"),
    "cogvideox": lambda: in_comfyui.vae("cogvideox"),
    "seedvr2": lambda: in_comfyui.vae("seedvr2"),
}


def test_every_family_is_listed_and_tested():
    folder = Path(families.__file__).parent
    files = {path.stem for path in folder.glob("*.py") if "\nFAMILIES = " in path.read_text(encoding="utf-8")} - {
        "__init__"
    }
    there = {
        family.name for name in files for family in importlib.import_module(f"{families.__name__}.{name}").FAMILIES
    }
    listed = {family.name for family in families.FAMILIES}
    assert there == listed, "a file's FAMILIES belong into the list in families/__init__.py"
    assert listed == {families.of(make()).name for make in KINDS.values()}, "KINDS has a VAE of each family"


def test_the_pages_name_every_family():
    repository = Path(families.__file__).parent.parent.parent
    pages = [repository / "README.md", repository / "docs" / "decoding.md"]
    pages += (repository / "web" / "docs").glob("AsyncVAEDecode*.md")
    pages += (repository / "web" / "docs").glob("AsyncVAEDecode*/*.md")
    assert len(pages) > 4
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert [family.name for family in families.FAMILIES if family.name not in text] == [], page


@pytest.fixture(scope="module", params=KINDS)
def vae(request):
    return KINDS[request.param]()


@torch.inference_mode()
@pytest.mark.parametrize("latent_frames", [1, 3])
def test_the_bits_of_the_stock_node(vae, latent_frames):
    latent = torch.randn(
        1, vae.latent_channels, latent_frames, 2, 3, generator=torch.Generator().manual_seed(latent_frames)
    )
    stock = vae.decode(latent.clone()).flatten(0, 1)
    image = decoding.decode_image(vae, {"samples": latent}, "exact")
    assert image.shape == stock.shape and image.dtype == stock.dtype and torch.equal(image, stock)
    assert len(torch.unique(stock)) > 100
    if isinstance(vae.first_stage_model, comfy.taesd.taehv.TAEHV) and vae.latent_channels != 32:
        assert stock.min() < 0 or stock.max() > 1, "ComfyUI does not clamp these"
    assert families.size_of(vae, {"samples": latent}) == tuple(stock.shape[:3])
    frames = len(stock)
    part = TensorSink()
    decoding.decode_into(vae, {"samples": latent}, [part], (frames // 2, frames), "exact")
    assert torch.equal(part.frames_thwc, stock[frames // 2 :])


@torch.inference_mode()
def test_a_batch_of_videos_is_decoded_late(vae, monkeypatch):
    samples = {"samples": torch.randn(2, vae.latent_channels, 2, 2, 2)}
    stock = vae.decode(samples["samples"].clone()).flatten(0, 1)
    monkeypatch.undo()  # LTX goes the stock way
    image, report = decoding.decode_image_with_report(vae, samples, "exact")
    # Into a buffer, ComfyUI has one for the whole batch.
    assert report.decoded.decoder == ("stock" if vaes.has_chunked_io(vae) else "late") and torch.equal(image, stock)
    assert "is not one video" in report.decoded.reason
