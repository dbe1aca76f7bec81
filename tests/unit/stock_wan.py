"""ComfyUI's own Wan VAE modules, at any width, with random weights: what the fast decoder is held against."""

import os
import sys
from pathlib import Path

import torch

ROOT = Path(os.environ.get("COMFYUI_PATH", Path(__file__).resolve().parents[2] / ".host" / "ComfyUI"))
# Last, so that none of its top-level modules shadows one of ours or the tests'.
sys.path.append(str(ROOT))

import comfy.cli_args  # noqa: E402

comfy.cli_args.args.cpu = not torch.cuda.is_available()

import comfy.ldm.wan.vae  # noqa: E402
import comfy.ldm.wan.vae2_2  # noqa: E402

_SHAPE = {"dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": [], "temperal_downsample": [False, True, True]}
LATENT_CHANNELS = {"2.1": 16, "2.2": 48}
SCALE = {"2.1": 8, "2.2": 16}


def module(version: str, width: int, filled: bool = True) -> torch.nn.Module:
    """A float32 VAE on the CPU whose decoder is `width` channels wide at its end (published: 96 and 256).

    Not `filled`, its weights are what they happen to be.
    """
    if version == "2.1":
        vae = comfy.ldm.wan.vae.WanVAE(dim=width, z_dim=16, **_SHAPE)
    else:
        vae = comfy.ldm.wan.vae2_2.WanVAE(dim=8, dec_dim=width, z_dim=48, **_SHAPE)
    if not filled:
        return vae.requires_grad_(False)
    generator = torch.Generator().manual_seed(width)
    for name, weight in vae.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if name.endswith("gamma"):
            weight.data = 1.0 + 0.2 * noise
        elif name.endswith("bias"):
            weight.data = 0.1 * noise
        else:
            weight.data = noise * weight[0].numel() ** -0.5
    return vae.requires_grad_(False)


def latents(version: str, frames: int, height: int, width: int) -> torch.Tensor:
    """(1, C, T, h, w) float32 noise."""
    generator = torch.Generator().manual_seed(frames * height + width)
    return torch.randn(1, LATENT_CHANNELS[version], frames, height, width, generator=generator)
