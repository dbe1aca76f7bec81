"""Wan's VAEs at the published dims, with random weights."""

import os
from unittest import mock

import comfy.ldm.wan.vae
import comfy.ldm.wan.vae2_2
import comfy.sd
import torch

SHAPE = dict(
    dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[], temperal_downsample=[False, True, True], dropout=0.0
)
ARCHITECTURES = {
    "2.1": (comfy.ldm.wan.vae.WanVAE, dict(dim=96, z_dim=16, **SHAPE)),
    "2.2": (comfy.ldm.wan.vae2_2.WanVAE, dict(dim=160, z_dim=48, **SHAPE)),
}
# For a rehearsal without a GPU. ComfyUI reads the width of 2.1 from the weights, and knows only one of 2.2.
TINY = {"2.1": dict(dim=4), "2.2": dict(dim=8, dec_dim=8)}
IS_TINY = bool(os.environ.get("AFP_BENCH_TINY"))


def random_vae(version):
    kind, dims = ARCHITECTURES[version]
    if IS_TINY:
        dims = dims | TINY[version]
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, weight in kind(**dims).state_dict().items():
        if name.endswith("gamma"):
            weights[name] = torch.ones(weight.shape)
        elif name.endswith("bias"):
            weights[name] = torch.zeros(weight.shape)
        else:
            weights[name] = torch.randn(weight.shape, generator=generator) * weight[0].numel() ** -0.5
        weights[name] = weights[name].to(torch.bfloat16)
    if not IS_TINY:
        return comfy.sd.VAE(sd=weights)
    with mock.patch.object(comfy.ldm.wan.vae2_2, "WanVAE", lambda **config: kind(**config | TINY["2.2"])):
        return comfy.sd.VAE(sd=weights)


def plain_module(version):
    """The decoder's module as the published code would use it: bfloat16 on the GPU, nobody managing its weights."""
    kind, dims = ARCHITECTURES[version]
    module = kind(**dims).to("cuda", torch.bfloat16).eval().requires_grad_(False)
    for parameter in module.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=parameter[0].numel() ** -0.5)
    return module


def latent_shape(version, width, height, frames):
    channels, scale = {"2.1": (16, 8), "2.2": (48, 16)}[version]
    return 1, channels, (frames + 3) // 4, height // scale, width // scale


def random_samples(version, width, height, frames):
    """A LATENT, the same for the same arguments."""
    shape = latent_shape(version, width, height, frames)
    return {"samples": torch.randn(shape, generator=torch.Generator().manual_seed(1))}
