"""The fast decoder's weights as a model of ComfyUI's: loaded, counted and unloaded by the host.

The weights are read once from the VAE's own module, laid out for the kernels, and wrapped in a plain
`ModelPatcher`; so the host knows how much memory they take and may send them back to main memory. They
live as long as the VAE does, and all decodes with it share them.

Tests hold the decoder's error against the stock decoder's. What they cannot know is a user's weights: so
before its first use with a VAE, a short piece of noise is decoded both ways and compared. It is the same noise
for everybody: a user's own latent may hold values that say nothing about the VAE.
"""

from __future__ import annotations

import dataclasses
import math
import weakref
from collections.abc import Iterator

import torch

from ..pipeline.decoders.fast import kernels, weights
from ..pipeline.decoders.fast.network import WanDecoder
from . import host

# By the VAE's module: its fast weights, or why it cannot have any.
_loaded: "weakref.WeakKeyDictionary[torch.nn.Module, FastWan | str]" = weakref.WeakKeyDictionary()

# Activations and what the convolutions remember, in bytes for each channel and pixel of the last stage, of which
# 2.1 has 96 a pixel and 2.2 256 for each 2x2 pixels. Measured on an H100 at 1280x720: 2.1 takes 83, 2.2 106.
BYTES_PER_CHANNEL_AND_PIXEL = 115
# The latent that is decoded both ways, (frames, height, width): long enough for the steps that differ, and small,
# since what is in question are the weights.
CHECKED = (3, 8, 12)
# RMS, of values in [-1, 1]. The stock decoder's bfloat16 leaves up to 0.01; a wrong decoder is off by 0.3.
LARGEST_DIFFERENCE = 0.03


class _NoVerdict(ValueError):
    """The comparison has no result, which may be another one next time."""


class FastWan(torch.nn.Module):
    """Holds every tensor of `weights.Weights` as a parameter, so that `.to` moves them all, in place."""

    def __init__(self, vae):
        super().__init__()
        state = vae.first_stage_model.state_dict()
        # Laid out on the GPU, where that takes milliseconds; then the host decides where they stay.
        self.weights = _as_parameters(weights.load(state, vae.device, torch.float16), self)
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
    if "forward" in vars(vae.first_stage_model.decoder):
        return "another node or pack replaced the VAE's decoder"
    if isinstance(known := _loaded.get(vae.first_stage_model), str):
        return known
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
    Raises:
        ValueError: the decoder is not right for this VAE; `why_not_fast` says so from now on.
    """
    module = vae.first_stage_model
    if module not in _loaded:
        try:
            _loaded[module] = _checked(vae)
        except _NoVerdict:
            raise
        except ValueError as error:
            _loaded[module] = str(error)
            raise
    model = _loaded[module]
    host.load_whole(model.patcher, memory_needed(vae, height, width))
    return WanDecoder(model.weights)


def steps(decoder: WanDecoder, latent: torch.Tensor) -> Iterator[torch.Tensor]:
    """Decode (1, C, T, h, w) on the GPU, any dtype: (3, 1 or 4, H, W) float32 for each latent frame."""
    for t in range(latent.shape[2]):
        yield decoder.step(latent[:, :, t].to(torch.float16))


def _checked(vae) -> FastWan:
    """The VAE's fast weights, after a comparison with its own decoder.

    Raises:
        _NoVerdict: the comparison has no result.
        ValueError: they differ by more than rounding, or the weights are not what the fast decoder can take.
    """
    noise = torch.randn(1, vae.latent_channels, *CHECKED, generator=torch.Generator().manual_seed(0)).to(vae.device)
    model = FastWan(vae)
    host.load_for_decoding(vae, noise)
    stock = vae.first_stage_model.decode(noise.to(vae.vae_dtype))[0].float()
    host.load_whole(model.patcher, 0)
    ours = torch.cat(list(steps(WanDecoder(model.weights), noise)), dim=1)
    difference = (ours.clamp(-1, 1) - stock.clamp(-1, 1)).square().mean().sqrt().item()
    if difference <= LARGEST_DIFFERENCE:
        return model
    kind = ValueError if math.isfinite(difference) else _NoVerdict
    raise kind(f"with this VAE its frames differ from the stock decoder's, by {difference:.3g} (RMS)")


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
