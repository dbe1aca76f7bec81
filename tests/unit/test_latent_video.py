"""The VIDEO that is still a latent: what it tells without decoding."""

import io
import json
from fractions import Fraction

import av
import numpy as np
import torch

from . import in_comfyui

from async_frame_pipeline.nodes.latent_video import LatentVideo


@torch.inference_mode()
def test_a_vae_whose_ratios_do_not_tell_the_size_decodes_once_for_it():
    vae, decodes = in_comfyui.vae("image"), []
    vae.latent_dim = 1  # as those of sound, of which nothing is known
    decode = vae.first_stage_model.decode
    vae.first_stage_model.decode = lambda *args: decodes.append(args) or decode(*args)
    video = LatentVideo(vae, {"samples": torch.randn(2, 4, 3, 5)}, Fraction(16))
    assert video.get_dimensions() == (40, 24) and video.get_frame_count() == 2 and video.get_duration() == 2 / 16
    part = video.as_trimmed(1 / 16)
    assert part.get_dimensions() == (40, 24) and part.get_frame_count() == 1
    assert len(decodes) == 1


@torch.inference_mode()
def test_the_metadata_of_a_stock_saver_never_costs_the_video(caplog):
    """Save Video of ComfyUI hands over what other nodes left in the prompt."""
    video = LatentVideo(in_comfyui.vae("wan 2.1"), {"samples": torch.randn(1, 16, 2, 4, 4)}, Fraction(16))
    buffer = io.BytesIO()
    video.save_to(buffer, metadata={"workflow": {"nodes": []}, "prompt": {"1": {"is_changed": [np.bool_(True)]}}, 7: 1})
    with av.open(io.BytesIO(buffer.getvalue())) as container:
        assert json.loads(container.metadata["prompt"]) == {"1": {"is_changed": [None]}}
        assert json.loads(container.metadata["workflow"]) == {"nodes": []}
    assert caplog.text.count("left out of the stored workflow") == 1
