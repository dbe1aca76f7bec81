"""What may be a LATENT: whatever gives its samples by their key, as ComfyUI's own decode asks for them."""

import collections
import types

import pytest
import torch

from . import in_comfyui

from async_frame_pipeline.nodes import decoding


class ByKeyAlone:
    """Of no class that Python counts among the mappings."""

    def __init__(self, samples):
        self._samples = samples

    def __getitem__(self, key):
        return {"samples": self._samples}[key]


KINDS = {
    "UserDict": lambda samples: collections.UserDict(samples=samples),
    "MappingProxyType": lambda samples: types.MappingProxyType({"samples": samples}),
    "by its key alone": ByKeyAlone,
}


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_a_latent_is_read_by_its_key(kind):
    vae, samples = in_comfyui.vae("wan 2.1"), torch.randn(1, 16, 2, 4, 4)
    frames = decoding.decode_image(vae, KINDS[kind](samples), "exact")
    assert torch.equal(frames, decoding.decode_image(vae, {"samples": samples}, "exact"))


@pytest.mark.parametrize("samples", [[1], {}, {"latent": torch.zeros(1, 16, 2, 4, 4)}, "samples", None, 5])
def test_what_gives_none_is_refused(samples):
    with pytest.raises(ValueError, match="There is nothing to decode: the samples are NoneType"):
        decoding.decode_image(in_comfyui.vae("wan 2.1"), samples)


def test_what_main_memory_could_not_hold_is_refused():
    """A tensor that repeats itself takes no memory, and a fast decoder would go on with it for days."""
    samples = {"samples": torch.zeros(1).expand(1, 16, 10**6, 10**3, 10**3)}
    with pytest.raises(ValueError, match="59,605 GiB, more than the .* of main memory"):
        decoding.decode_image(in_comfyui.vae("wan 2.1"), samples)
