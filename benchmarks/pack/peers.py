"""The same decoder as others make it fast: the stock code with what torch offers, KJNodes and the package fastvae."""

import functools
import gc
import importlib.util
import sys
from pathlib import Path

import comfy.model_management as model_management
import torch

from .wan import diffusers_vae, plain_module, random_vae


@functools.cache
def kj_vae(version, folder):
    """A VAE of its own, patched by PatchTritonVAE of a checkout of ComfyUI-KJNodes.

    Of which only that one file is loaded: the rest needs more packages than a benchmark should.
    """
    path = Path(folder) / "nodes" / "triton_vae.py"
    spec = importlib.util.spec_from_file_location("kjnodes_triton_vae", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.PatchTritonVAE.execute(random_vae(version)).args[0]


def module_frames(version, how, samples):
    """The stock code's own decode, "channels_last" or by "torch.compile": (T, H, W, 3), left on the GPU."""
    module = _module(version, how)
    latent = samples["samples"].to(next(module.parameters()))
    return module.decode(latent)[0].permute(1, 2, 3, 0).float().add_(1.0).mul_(0.5).clamp_(0.0, 1.0)


@functools.cache
def _module(version, how):
    module = plain_module(version)
    if how == "torch.compile":
        module.decoder.forward = torch.compile(module.decoder.forward)
        return module
    for layer in module.modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Conv3d)):
            layout = torch.channels_last if layer.weight.ndim == 4 else torch.channels_last_3d
            layer.weight.data = layer.weight.data.contiguous(memory_format=layout)
    return module


def fastvae_frames(version, samples):
    """(T, H, W, 3) by the ComfyUI node of the package, which leaves them on the GPU. It takes Diffusers' VAE only:
    with ComfyUI's own it ends in an error (0.1.0)."""
    from fastvae.integrations.comfy_node import FastVAEDecode  # where it is installed

    return FastVAEDecode().decode(samples, _for_fastvae(version))[0]


@functools.cache
def _for_fastvae(version):
    return diffusers_vae(version)


def forget():
    """Free all that these have made."""
    for made in (kj_vae, _module, _for_fastvae):
        made.cache_clear()
    torch._dynamo.reset()
    gc.collect()
    model_management.soft_empty_cache()
