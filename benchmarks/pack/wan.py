"""Wan's VAEs at the published dims, with random weights."""

import os
from unittest import mock

import comfy.ldm.wan.vae
import comfy.ldm.wan.vae2_2
import comfy.sd
import torch

from . import diffusers_wan

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
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def random_state(version):
    """All weights of a VAE by their names, bfloat16 on the CPU, the same each time."""
    generator = torch.Generator(DEVICE).manual_seed(0)  # on a GPU so many are made in no time
    weights = {}
    with torch.device("meta"):
        shapes = {name: weight.shape for name, weight in _module(version).state_dict().items()}
    for name, shape in shapes.items():
        if name.endswith("gamma"):
            weight = torch.ones(shape)
        elif name.endswith("bias"):
            weight = torch.zeros(shape)
        else:
            weight = torch.randn(shape, generator=generator, device=DEVICE) * shape[1:].numel() ** -0.5
        weights[name] = weight.to("cpu", torch.bfloat16)
    return weights


def random_vae(version):
    weights = random_state(version)
    if not IS_TINY:
        return comfy.sd.VAE(sd=weights)
    kind = ARCHITECTURES["2.2"][0]
    with mock.patch.object(comfy.ldm.wan.vae2_2, "WanVAE", lambda **config: kind(**config | TINY["2.2"])):
        return comfy.sd.VAE(sd=weights)


def plain_module(version):
    """The VAE's module as the published code would use it: bfloat16 on the GPU, nobody managing its weights."""
    with torch.device("meta"):
        module = _module(version)
    module.load_state_dict(random_state(version), assign=True)
    return module.to(DEVICE).eval().requires_grad_(False)


def float32_image(version, samples):
    """What a decode in float32 gives, by the published code: an IMAGE."""
    module = plain_module(version).float()
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=False):
        frames_cthw = module.decode(samples["samples"].to(DEVICE))[0]
    return frames_cthw.permute(1, 2, 3, 0).add(1.0).mul(0.5).clamp(0.0, 1.0).cpu()


def diffusers_vae(version):
    """The same weights in Diffusers' class, which has no encoder then that is worth anything."""
    dims = ARCHITECTURES[version][1] | (TINY[version] if IS_TINY else {})
    more = {}
    if version == "2.2":
        channels = dict(in_channels=12, out_channels=12, patch_size=2, scale_factor_spatial=16)
        more = dict(decoder_base_dim=dims.get("dec_dim", 256), is_residual=True, **channels)
    more |= dict(base_dim=dims["dim"], z_dim=dims["z_dim"])
    return diffusers_wan.vae_of(random_state(version), DEVICE, torch.bfloat16, **more)


def _module(version):
    kind, dims = ARCHITECTURES[version]
    return kind(**dims | (TINY[version] if IS_TINY else {}))


def latent_shape(version, width, height, frames):
    channels, scale = {"2.1": (16, 8), "2.2": (48, 16)}[version]
    return 1, channels, (frames + 3) // 4, height // scale, width // scale


def random_samples(version, width, height, frames):
    """A LATENT, the same for the same arguments."""
    shape = latent_shape(version, width, height, frames)
    return {"samples": torch.randn(shape, generator=torch.Generator().manual_seed(1))}
