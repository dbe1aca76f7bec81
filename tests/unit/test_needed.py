"""What memory is asked for, of the published sizes of the VAEs that ComfyUI reckons otherwise."""

import types

import pytest
import torch
from async_frame_pipeline.pipeline.decoders.families import cogvideox, seedvr2
from async_frame_pipeline.pipeline.decoders.fast.room import _Counter

from . import in_comfyui  # noqa: F401

import comfy.ldm.cogvideo.vae
import comfy.ldm.seedvr.vae

KINDS = {
    "CogVideoX": (cogvideox, lambda: comfy.ldm.cogvideo.vae.AutoencoderKLCogVideoX(latent_channels=16)),
    "SeedVR2": (seedvr2, comfy.ldm.seedvr.vae.VideoAutoencoderKLWrapper),
}


@pytest.mark.parametrize("latent_frames", [1, 2, 3, 13, 25])
@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_what_is_asked_for_is_what_it_holds(kind, latent_frames, monkeypatch):
    """In bfloat16, without data; cuDNN's workspaces come on top, see GAPS_WITHOUT_PAUSES."""
    family, make = KINDS[kind]
    # Where there are frames, to main memory; here there are none left.
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: tensor)
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *args: 80 << 30)
    with torch.device("meta"):
        model = make().to(torch.bfloat16).eval()
        latents = torch.empty(1, 16, latent_frames, 16, 24, dtype=torch.bfloat16)
    vae, frames = types.SimpleNamespace(first_stage_model=model), []
    with _Counter() as counter:
        family.EXACT.stream(vae, latents, lambda piece: frames.append(piece.shape[1]))
    asked = family.needed(model, (sum(frames), 128, 192), itemsize=2)
    assert counter.peak <= asked <= 1.2 * counter.peak
