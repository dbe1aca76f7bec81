"""diffusers' normalised latents: what is made of them is what ComfyUI makes of them."""

import numpy as np
import pytest
import torch

from ...farm.decode import Decoder, denormalised
from ...farm.messages import InvalidJob
from ...farm.scaling import MEAN, STD
from ..unit import in_comfyui  # noqa: F401
from .test_decode import bunny, pictures, work_of


def format_of(family):
    from comfy import latent_formats

    return {"Wan 2.1": latent_formats.Wan21, "Wan 2.2": latent_formats.Wan22}[family]()


@pytest.mark.parametrize("family", MEAN)
def test_the_numbers_are_comfyuis(family):
    normalised = torch.randn(1, len(MEAN[family]), 3, 4, 5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(denormalised(normalised, family), format_of(family).process_out(normalised))
    assert len(STD[family]) == len(MEAN[family])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_no_bit_of_short_numbers_is_lost(dtype):
    normalised = torch.randn(1, 16, 2, 3, 4, generator=torch.Generator().manual_seed(1)).to(dtype)
    assert torch.equal(denormalised(normalised, "Wan 2.1"), format_of("Wan 2.1").process_out(normalised.float()))


def test_the_video_is_that_of_comfyuis_latents(tmp_path):
    """Within what the way there and back rounds: a code at a pixel here and there."""
    decoder = Decoder("cpu")
    made = {}
    for name, latent in (("as it was", bunny()), ("normalised", format_of("Wan 2.1").process_in(bunny()))):
        (tmp_path / name).mkdir()
        work = work_of(tmp_path / name, latent, do_scaling=name == "normalised", quality="lossless")
        decoder(work)
        made[name] = pictures(work.target).astype(int)
    difference = np.abs(made["as it was"] - made["normalised"])
    assert difference.max() <= 2 and difference.mean() < 0.01 and made["normalised"].std() > 20


def test_channels_of_another_family():
    with pytest.raises(InvalidJob, match="48 channels, got 16"):
        denormalised(bunny(), "Wan 2.2")
