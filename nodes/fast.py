"""The fast decoder's weights as a model of ComfyUI's: loaded, counted and unloaded by the host.

The weights are read once from the VAE's own module, laid out for the kernels, and wrapped in a plain
`ModelPatcher`; so the host knows how much memory they take and may send them back to main memory. They
live as long as the VAE does, and all decodes with it share them.
"""

from __future__ import annotations

import dataclasses
import weakref

import torch

from ..pipeline.decoders.fast import kernels, weights
from ..pipeline.decoders.fast.network import WanDecoder
from . import host

_loaded: "weakref.WeakKeyDictionary[torch.nn.Module, FastWan]" = weakref.WeakKeyDictionary()

# Activations and what the convolutions remember, in bytes for each channel and pixel of the last stage, of which
# 2.1 has 96 a pixel and 2.2 256 for each 2x2 pixels. Measured on an H100 at 1280x720: 2.1 takes 91, 2.2 130.
BYTES_PER_CHANNEL_AND_PIXEL = 140


class FastWan(torch.nn.Module):
    """Holds every tensor of `weights.Weights` as a parameter, so that `.to` moves them all, in place."""

    def __init__(self, vae):
        super().__init__()
        state = vae.first_stage_model.state_dict()
        # Laid out on the GPU, where that takes milliseconds; then the host decides where they stay.
        self.weights = _as_parameters(weights.load(state, vae.device, vae.vae_dtype), self)
        self.to("cpu")
        self.patcher = host.static_patcher(self, vae)


def why_not_fast(vae, height: int, width: int) -> str | None:
    """Why this VAE, which can be streamed, cannot be decoded fast here; None if it can.

    Args:
        vae: a Wan VAE for which `host.why_not_exact` has no objection.
        height, width: of the frames.
    """
    if vae.device.type != "cuda":
        return "no GPU"
    if kernels.triton is None:
        return "no Triton"
    if torch.cuda.get_device_capability(vae.device) < (8, 0):
        return "the GPU is older than Ampere"
    if vae.vae_dtype is not torch.bfloat16:
        return f"the VAE runs in {vae.vae_dtype}, not in bfloat16"
    if vae.patcher.patches:
        return "the VAE's weights are patched"
    return host.why_not_enough_memory(vae, memory_needed(vae, height, width))


def memory_needed(vae, height: int, width: int) -> int:
    """Bytes of GPU memory that decoding frames of this size takes at most, weights left out."""
    last_stage_pixels, channels = {"2.1": (height * width, 96), "2.2": (height * width // 4, 256)}[host.wan_version(vae)]
    return last_stage_pixels * channels * BYTES_PER_CHANNEL_AND_PIXEL


def decoder(vae, height: int, width: int) -> WanDecoder:
    """A decoder for one video, its weights on the GPU.

    Args:
        vae: as for `why_not_fast`, which had no objection.
        height, width: of the frames.
    """
    module = vae.first_stage_model
    if module not in _loaded:
        _loaded[module] = FastWan(vae)
    model = _loaded[module]
    host.load_whole(model.patcher, memory_needed(vae, height, width))
    return WanDecoder(model.weights)


def _as_parameters(value, module: torch.nn.Module):
    """`value` with each tensor in it replaced by a parameter that `module` owns."""
    if isinstance(value, torch.Tensor):
        parameter = torch.nn.Parameter(value, requires_grad=False)
        module.register_parameter(f"weight{len(module._parameters)}", parameter)
        return parameter
    if isinstance(value, (list, tuple)):
        return type(value)(_as_parameters(item, module) for item in value)
    if dataclasses.is_dataclass(value):
        fields = {field.name: _as_parameters(getattr(value, field.name), module) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    return value
