"""The VIDEO that is still a latent: what it tells without decoding."""

from fractions import Fraction

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
