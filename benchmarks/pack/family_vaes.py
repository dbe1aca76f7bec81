"""A VAE of each family at the published dims, with random weights; and what its latents are.

Noise compresses like nothing a user saves, so the last layer's weights are small: frames are grey, with noise of about
6 of 255 levels, which costs x264 more than the bundled clip at that size does, and less than strong noise.
"""

import contextlib
import functools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass

import comfy.ldm.cogvideo.vae
import comfy.ldm.genmo.vae.model
import comfy.ldm.hunyuan_video.vae_refiner
import comfy.ldm.lightricks.vae.causal_video_autoencoder
import comfy.ldm.minimax.vae
import comfy.ldm.seedvr.vae
import comfy.memory_management
import comfy.model_management as model_management
import comfy.sd
import comfy.taesd.taehv
import torch

from .measured import ours

IS_TINY = bool(os.environ.get("AFP_BENCH_TINY"))
CALM = 0.08


def ltx_config():
    """Of ComfyUI's default, which is that of LTX-2; without the noise that would differ from run to run."""
    kind = comfy.ldm.lightricks.vae.causal_video_autoencoder.VideoVAE
    with torch.device("meta"):
        return {**kind(version=2).config, "timestep_conditioning": False}


def ltx():
    return comfy.ldm.lightricks.vae.causal_video_autoencoder.VideoVAE(config=ltx_config())


def hunyuan_10():
    config = dict(double_z=True, z_channels=16, resolution=256, in_channels=3, out_ch=3, ch=128, ch_mult=[1, 2, 4, 4])
    config |= dict(num_res_blocks=2, attn_resolutions=[], dropout=0.0, conv3d=True, time_compress=4)
    return comfy.sd.AutoencoderKL(ddconfig=config, embed_dim=16)


def hunyuan_15():
    refiner = comfy.ldm.hunyuan_video.vae_refiner
    config = dict(in_channels=3, out_channels=3, z_channels=32, ffactor_spatial=16, ffactor_temporal=4)
    config |= dict(block_out_channels=[128, 256, 512, 1024, 1024], num_res_blocks=2)
    config |= dict(downsample_match_channel=True, upsample_match_channel=True)
    return torch.nn.ModuleDict({"encoder": refiner.Encoder(**config), "decoder": refiner.Decoder(**config)})


@dataclass(frozen=True)
class Kind:
    """One family's VAE.

    Attributes:
        module: makes the model whose weights are wanted, or one with the same names.
        last: the weight of its last layer.
        dtype: of the weights, as they are published; ComfyUI decodes in it.
        channels, scale: of latents; pixels to one of them.
        latent_frames: of the number of frames that is wanted.
        last_bias: 0 for frames in [-1, 1], 0.5 for those in [0, 1].
        calm: what the last weights are multiplied by.
    """

    module: Callable[[], torch.nn.Module]
    last: str
    dtype: torch.dtype
    channels: int
    scale: int
    latent_frames: Callable[[int], int] = lambda frames: (frames + 3) // 4
    last_bias: float = 0.0
    calm: float = CALM


def h3_latents(frames):
    """The nearest length that it is made for, 17 n + 5 frames."""
    return max(0, round((frames - 5) / 17)) * 5 + 2


BF16, FP16 = torch.bfloat16, torch.float16
CONV = "decoder.conv_out.conv.weight"
KINDS = {
    "ltx": Kind(ltx, CONV, BF16, 128, 32, lambda frames: (frames + 7) // 8),
    "hunyuan 1.0": Kind(hunyuan_10, CONV, BF16, 16, 8),
    "hunyuan 1.5": Kind(hunyuan_15, CONV, FP16, 32, 16),
    "cogvideox": Kind(
        lambda: comfy.ldm.cogvideo.vae.AutoencoderKLCogVideoX(latent_channels=16), CONV, BF16, 16, 8, calm=0.05
    ),
    "minimax h3": Kind(
        lambda: comfy.ldm.minimax.vae.MiniMaxH3VideoVAE(),
        "decoder.proj_out.weight",
        FP16,
        24,
        16,
        h3_latents,
        calm=0.05,
    ),
    "taehv": Kind(lambda: comfy.taesd.taehv.TAEHV(latent_channels=16), "decoder.22.weight", BF16, 16, 8, last_bias=0.5),
    "seedvr2": Kind(lambda: comfy.ldm.seedvr.vae.VideoAutoencoderKLWrapper(), "decoder.conv_out.weight", FP16, 16, 8),
    "mochi": Kind(
        lambda: comfy.ldm.genmo.vae.model.VideoVAE(),
        "decoder.output_proj.weight",
        FP16,
        12,
        8,
        lambda frames: (frames + 5) // 6,
        calm=0.025,
    ),
}


@contextlib.contextmanager
def eager_layers():
    """With dynamic VRAM, ComfyUI's linear layers have no weights, and so no names of them, until some are loaded."""
    was, comfy.memory_management.aimdo_enabled = comfy.memory_management.aimdo_enabled, False
    try:
        yield
    finally:
        comfy.memory_management.aimdo_enabled = was


def random_weights(kind: Kind, device: torch.device) -> dict[str, torch.Tensor]:
    """By name, in main memory; made on `device`, where a GPU makes a billion at once.

    Without the model's constants, which it has of its own.
    """
    with torch.device("meta"), eager_layers():
        module = kind.module()
    generator = torch.Generator(device).manual_seed(0)
    constants = {name for name, _ in module.named_buffers()}
    weights = {}
    for name, meta in module.state_dict().items():
        if "per_channel_statistics" in name:  # LTX's, of which the model has none
            weights[name] = torch.full(meta.shape, 1.0 if "std" in name else 0.0, dtype=kind.dtype)
        elif name not in constants:
            noise = torch.empty(meta.shape, dtype=kind.dtype, device=device).normal_(generator=generator)
            weights[name] = _scaled(name, noise).cpu()
    weights[kind.last] *= kind.calm
    weights[kind.last.replace("weight", "bias")].fill_(kind.last_bias)
    return weights


def _scaled(name: str, noise: torch.Tensor) -> torch.Tensor:
    """Such that activations stay near unit size: gains about 1, biases small, all others by their inputs."""
    if name.endswith("gamma") or (name.endswith("weight") and noise.ndim == 1):
        return noise * 0.1 + 1
    return noise * (noise[0].numel() ** -0.5 if noise.ndim > 1 else 0.1)


@functools.lru_cache(maxsize=1)  # the rows of a family follow each other; main memory is for one
def vae_of(name: str) -> comfy.sd.VAE:
    if IS_TINY:
        return ours("AFPTestVAE").KINDS[name](1)
    metadata = {"config": json.dumps({"vae": ltx_config()})} if name == "ltx" else None
    weights = random_weights(KINDS[name], model_management.get_torch_device())
    return comfy.sd.VAE(sd=weights, metadata=metadata)


def samples_of(name: str, width: int, height: int, frames: int) -> dict:
    """A LATENT of noise, the same for the same arguments."""
    kind = KINDS[name]
    shape = (1, kind.channels, kind.latent_frames(frames), height // kind.scale, width // kind.scale)
    return {"samples": torch.randn(shape, generator=torch.Generator().manual_seed(1))}
