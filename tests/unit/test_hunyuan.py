"""What memory is asked for, for HunyuanVideo's VAEs."""

import pytest
import torch
from async_frame_pipeline.pipeline.decoders import exact
from async_frame_pipeline.pipeline.decoders.fast.room import _Counter
from async_frame_pipeline.pipeline.sinks.tensor import TensorSink

from . import in_comfyui

import comfy.ldm.hunyuan_video.vae_refiner as refiner
import comfy.ldm.modules.diffusionmodules.model as carried
import comfy.model_management as model_management
from async_frame_pipeline.nodes import decoding
from async_frame_pipeline.nodes.families import ways
from async_frame_pipeline.pipeline.decoders.families import hunyuan


class Model(torch.nn.Module):
    """A decoder at its published size, in 16 bits and without data."""

    def __init__(self, kind: str):
        super().__init__()
        if kind == "hunyuan 1.5":
            sizes = {"block_out_channels": [128, 256, 512, 1024, 1024], "num_res_blocks": 2}
            self.decoder = refiner.Decoder(32, 3, ffactor_spatial=16, ffactor_temporal=4, **sizes)
        else:
            config = {"ch": 128, "out_ch": 3, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": []}
            config |= {"in_channels": 3, "resolution": 256, "z_channels": 16, "conv3d": True, "time_compress": 4}
            self.decoder = carried.Decoder(**config)
        # As on a GPU, where nothing is as large as its product.
        self.decoder.mid.attn_1.optimized_attention = lambda q, k, v: torch.empty_like(q)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self.decoder(latents)


@pytest.mark.parametrize("frames", [1, 5, 9, 17, 61])
@pytest.mark.parametrize(
    ("kind", "needed", "channels", "across"),
    [("hunyuan 1.5", hunyuan.NEEDED_15, 32, 16), ("hunyuan 1.0", hunyuan.NEEDED_10, 16, 8)],
)
@torch.inference_mode()
def test_what_is_asked_for_is_what_it_holds(kind, needed, channels, across, frames):
    """Of a tile of 256 pixels; cuDNN's workspaces come on top, see GAPS_WITHOUT_PAUSES."""
    with torch.device("meta"):
        model = Model(kind).to(torch.bfloat16).eval()
        latents = torch.empty(1, channels, frames // 4 + 1, 256 // across, 256 // across, dtype=torch.bfloat16)
    with _Counter() as counter:
        exact.decode(model, latents, lambda frames: None, model.decoder.conv_out)
    assert counter.peak <= needed(model, (frames, 256, 256), itemsize=2) <= 1.6 * counter.peak


@pytest.mark.parametrize("kind", ["hunyuan 1.5", "hunyuan 1.0"])
def test_other_models_are_not_unloaded_for_what_it_does_not_take(kind, monkeypatch):
    vae, asked = in_comfyui.vae(kind), []
    samples = {"samples": torch.zeros(1, vae.latent_channels, 31, 32, 32)}

    def load(vae, latent, memory_needed=None):
        asked.append(memory_needed)
        raise model_management.InterruptProcessingException

    monkeypatch.setattr(ways.memory, "load_for_decoding", load)
    with pytest.raises(model_management.InterruptProcessingException):
        decoding.decode_into(vae, samples, [TensorSink()])
    assert 0 < asked[0] < 0.8 * vae.memory_used_decode(samples["samples"].shape, vae.vae_dtype)
