"""What is remembered of a VAE's first comparison with the fast decoder."""

import math

import pytest
import torch
from async_frame_pipeline.pipeline.decoders.fast.network import WanDecoder

from . import in_comfyui

from async_frame_pipeline.nodes.families import wan


@pytest.fixture
def vae():
    return in_comfyui.vae("wan 2.1")


@torch.inference_mode()
def decode(vae, latent):
    """What the way does for each video."""
    return list(wan.steps(WanDecoder(wan.loaded(vae).weights), latent))


def latent() -> torch.Tensor:
    return torch.randn(1, 16, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def test_latents_of_nan_say_nothing_about_the_vae(vae):
    decode(vae, latent().fill_(math.nan))
    decode(vae, latent())


def test_a_comparison_without_a_result_is_made_again(vae, monkeypatch):
    """The stock frames were no numbers."""
    decode_stock = vae.first_stage_model.decode
    monkeypatch.setattr(vae.first_stage_model, "decode", lambda noise: decode_stock(noise) * math.nan)
    with pytest.raises(ValueError, match="by nan"):
        decode(vae, latent())
    monkeypatch.undo()
    decode(vae, latent())


def test_frames_that_left_the_range_of_float16_are_remembered(vae, monkeypatch):
    """The noise is always the same: to compare it before each video would unload other models each time."""
    monkeypatch.setattr(wan, "steps", lambda *args, steps=wan.steps: (frames * math.nan for frames in steps(*args)))
    with pytest.raises(ValueError, match="by nan"):
        decode(vae, latent())
    assert "by nan" in wan._loaded[vae.first_stage_model]


def test_a_difference_is_remembered(vae, monkeypatch):
    steps = wan.steps
    monkeypatch.setattr(wan, "steps", lambda *args: (frames + 0.5 for frames in steps(*args)))
    with pytest.raises(ValueError, match="differ from the stock decoder's"):
        decode(vae, latent())
    assert "differ" in wan._loaded[vae.first_stage_model]
