"""The families' exact ways, on ComfyUI's own modules with tiny random weights: the stock node's bits."""

import functools
import importlib
import re
from pathlib import Path

import pytest
import torch
from async_frame_pipeline.pipeline.sinks.tensor import TensorSink

from . import in_comfyui
from ..server.pack import vaes as tiny
from ..server.pack.vaes import random_state_dict

import comfy.nested_tensor
import comfy.sd
import comfy.taesd.taehv
from async_frame_pipeline.nodes import decoding, families
from async_frame_pipeline.nodes.comfyui import vaes
from async_frame_pipeline.nodes.decode_to_video import AsyncVAEDecodeToVideo
from async_frame_pipeline.nodes.decode_video import AsyncVAEDecodeVideo
from async_frame_pipeline.pipeline.decoders import families as known
from async_frame_pipeline.pipeline.decoders.families import facts


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def taehv_in_half(seed: int, **more):
    """As ComfyUI tells taehv by its weights from lighttaew2_1."""
    module = comfy.taesd.taehv.TAEHV(latent_channels=16)
    return comfy.sd.VAE(sd={name: each.half() for name, each in random_state_dict(module, seed).items()}, **more)


KINDS = {
    "taehv of 16": taehv_in_half,
    "lighttae of 16": tiny.taehv,
    "lighttae of 32": functools.partial(tiny.taehv, channels=32),
    "taehv of 48": functools.partial(tiny.taehv, channels=48),
    "taehv of 128": functools.partial(tiny.taehv, channels=128),
} | {
    kind: tiny.KINDS[kind]
    for kind in ("wan 2.1", "wan 2.2", "ltx", "hunyuan 1.0", "hunyuan 1.5", "minimax h3", "cogvideox", "seedvr2")
}

# MiniMax H3's pieces are of five latent frames and seven: up to four of them, whole and not. TAEHV's are of one, and
# all of its kinds go by the same lines.
LENGTHS = {"minimax h3": (*range(1, 10), 11, 12, 14, 17, 21)}
LENGTHS |= {kind: (1, 2, 3, 21) for kind in KINDS if "tae" in kind}


def test_every_family_is_listed_and_tested():
    folder = Path(known.__file__).parent
    files = {path.stem for path in folder.glob("*.py") if "\nFAMILIES = " in path.read_text(encoding="utf-8")} - {
        "__init__",
        "late",
    }
    there = {family.name for name in files for family in importlib.import_module(f"{known.__name__}.{name}").FAMILIES}
    listed = {family.name for family in families.FAMILIES}
    assert there == listed, "a file's FAMILIES belong into the list in families/__init__.py"
    # Not `of`: a model that this ComfyUI gives a buffer is another's there.
    tested = {family.name for make in KINDS.values() for family in families.FAMILIES if family.matches(make(1))}
    assert listed == tested, "KINDS has a VAE of each family"


def test_the_pages_name_every_family():
    repository = Path(families.__file__).parent.parent.parent
    pages = [repository / "README.md", repository / "docs" / "decoding.md"]
    pages += (repository / "web" / "docs").glob("AsyncVAEDecode*.md")
    pages += (repository / "web" / "docs").glob("AsyncVAEDecode*/*.md")
    assert len(pages) > 4
    texts = {page: page.read_text(encoding="utf-8") for page in pages}
    # Of this page the table, whose rows say more of each.
    texts[pages[1]] = texts[pages[1]].partition("## Which VAEs are streamed")[2].partition("## ")[0]
    for page, text in texts.items():
        assert [family.name for family in families.FAMILIES if family.name not in text] == [], page


def test_the_description_and_the_search_words_name_every_family():
    repository = Path(families.__file__).parent.parent.parent
    [description] = re.findall(r'^description = "(.*)"$', (repository / "pyproject.toml").read_text(), re.MULTILINE)
    assert f" for {families.names('and')} in ComfyUI." in description
    for node in (AsyncVAEDecodeVideo, AsyncVAEDecodeToVideo):
        words = node.define_schema().search_aliases
        assert [family.name for family in families.FAMILIES if f"{family.name.lower()} vae" not in words] == []


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def vae(kind):
    return KINDS[kind](1)


def latent_for(vae, frames: int, height: int = 2, width: int = 2, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randn(batch, vae.latent_channels, frames, height, width, generator=generator)


def streamed(vae, samples: dict) -> torch.Tensor:
    """What is decoded by the first of the family's ways that may be, which is to give the stock node's bits."""
    stock = vaes.stock_decode(vae, samples)
    image, report = decoding.decode_image_with_report(vae, samples, "exact")
    assert report.decoded.decoder == "exact", report.decoded.reason
    assert image.dtype == stock.dtype and torch.equal(image, stock)
    assert families.size_of(vae, samples) == tuple(stock.shape[:3])
    assert len(torch.unique(stock)) > 100
    return stock


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_every_length_has_the_stock_bits(kind, vae, dtype):
    if dtype is not torch.float32:
        vae = KINDS[kind](1, dtype=dtype)
    assert vae.vae_dtype == dtype
    lengths = LENGTHS.get(kind, (*range(1, 10), 21))
    for frames in lengths if dtype is torch.float32 else (2, 5, 21):
        streamed(vae, {"samples": latent_for(vae, frames)})


def test_odd_sizes(vae):
    for frames, height, width in ((1, 2, 3), (3, 3, 5), (2, 7, 1)):
        if vae.latent_channels == 128 and min(height, width) == 1:
            continue  # LTX's own reflects at the edges, which needs two
        streamed(vae, {"samples": latent_for(vae, frames, height, width)})


def test_a_part_of_it(vae):
    samples, part = {"samples": latent_for(vae, 3)}, TensorSink()
    stock = vaes.stock_decode(vae, samples)
    frames = len(stock)
    decoding.decode_into(vae, samples, [part], (frames // 2, frames), "exact")
    assert torch.equal(part.frames_thwc, stock[frames // 2 :])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "tae" in kind and kind != "lighttae of 32"], indirect=True)
def test_what_comfyui_does_not_clamp_is_not_clamped(vae):
    stock = streamed(vae, {"samples": latent_for(vae, 3)})
    assert stock.min() < 0 or stock.max() > 1


def test_of_a_nested_latent_the_video_is_taken(vae):
    """As the models with sound give it."""
    nested = comfy.nested_tensor.NestedTensor([latent_for(vae, 2), torch.randn(1, 8, 25, 16)])
    streamed(vae, {"samples": nested})


@pytest.mark.parametrize("nested", [False, True], ids=["", "nested"])
def test_a_batch_of_videos_is_decoded_late(vae, nested):
    latent = latent_for(vae, 2, batch=2)
    samples = {"samples": comfy.nested_tensor.NestedTensor([latent, latent]) if nested else latent}
    stock = vaes.stock_decode(vae, samples)
    image, report = decoding.decode_image_with_report(vae, samples, "exact")
    # Into a buffer, ComfyUI has one for the whole batch.
    assert report.decoded.decoder == ("stock" if facts.has_chunked_io(vae) else "late") and torch.equal(image, stock)
    assert "is not one video" in report.decoded.reason


def test_of_another_models_latent_the_advice_comes_first():
    latent = {"samples": torch.zeros(1, 128, 2, 2, 2)}
    with pytest.raises(ValueError) as refused:
        families.check(in_comfyui.vae("wan 2.1"), latent)
    assert str(refused.value) == (
        "Load the VAE that belongs to the model the latent came from: this one decodes 16 channels, the latent has "
        "128, as latents of LTX-Video, LTX-2, LTX-2.3 have, which need the LTX VAE."
    )


def test_a_compiled_decoder_is_not_streamed_by_its_last_layer():
    """Which it may never call: each run would decode to the end, and then again the stock way."""
    vae = in_comfyui.vae("hunyuan 1.5")
    latent = {"samples": torch.zeros(1, vae.latent_channels, 2, 2, 2)}
    vae.first_stage_model.decoder._compiled_call_impl = vae.first_stage_model.decoder._call_impl
    try:
        _, report = decoding.decode_image_with_report(vae, latent, "exact")
    finally:
        vae.first_stage_model.decoder._compiled_call_impl = None
    assert report.decoded.decoder == "stock" and "another node or pack replaced" in report.decoded.reason
