"""ComfyUI's own LTX VAE modules, at any width, with random weights: what the fast decoder is held against."""

import torch

from . import stock_wan  # noqa: F401  (ComfyUI on the path, and on the CPU)

import comfy.ldm.lightricks.vae.causal_video_autoencoder as stock

LATENT_CHANNELS = 128


def _blocks(count: int) -> list[list]:
    res, doubling = ["res_x", {"num_layers": count}], ["compress_all", {"residual": True, "multiplier": 2}]
    return [res, doubling, res, doubling, res, doubling, res]


def _split(count: int) -> list[list]:
    """As LTX-2.3 has it."""
    res, doubling = ["res_x", {"num_layers": count}], ["compress_all", {"residual": True, "multiplier": 2}]
    space, time = (["compress_space", {"multiplier": 2}], ["compress_time", {"multiplier": 2}])
    return [res, space, res, time, res, doubling, res, doubling, res]


VERSIONS = {
    "2": {"spatial_padding_mode": "zeros"},
    "reflects": {},
    "2.3": {"decoder_blocks": _split, "spatial_padding_mode": "zeros"},
    "causal": {"causal_decoder": True},
    "0.9.5": {"timestep_conditioning": True},
}


def config(version: str, width: int, layers: int) -> dict:
    """Of a VAE whose decoder is `width` channels wide at its end, so many layers in a block (published: 128, 5)."""
    more = dict(VERSIONS[version])
    return {
        "dims": 3,
        "latent_channels": LATENT_CHANNELS,
        "encoder_blocks": [["res_x", {"num_layers": 1}]],
        "encoder_base_channels": 8,
        "decoder_base_channels": width,
        "norm_layer": "pixel_norm",
        "latent_log_var": "uniform",
        "patch_size": 4,
        **more,
        "decoder_blocks": more.get("decoder_blocks", _blocks)(layers),
    }


def module(version: str, width: int, layers: int = 1, device: torch.device | None = None) -> torch.nn.Module:
    """In float32, with random weights."""
    with device or torch.device("cpu"):
        vae = stock.VideoVAE(config=config(version, width, layers))
    generator = torch.Generator(device or "cpu").manual_seed(width)
    for weight in vae.parameters():
        if weight.ndim > 0:  # what the timestep is multiplied with
            weight.data.normal_(0, weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.1, generator=generator)
    for values in vae.per_channel_statistics.buffers():
        values.copy_(1.0 + 0.1 * torch.randn(values.shape, generator=generator, device=values.device))
    return vae.eval().requires_grad_(False)


def stock_decode(vae: torch.nn.Module, latents: torch.Tensor) -> torch.Tensor:
    """(3, T, H, W), without the noise that some versions add to the latent."""
    vae.decode_noise_scale = 0.0
    return vae.decode(latents)[0]


def latents(frames: int, height: int, width: int) -> torch.Tensor:
    """(1, C, T, h, w) float32 noise."""
    generator = torch.Generator().manual_seed(frames * height + width)
    return torch.randn(1, LATENT_CHANNELS, frames, height, width, generator=generator)
