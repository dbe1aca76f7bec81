"""VAEs with random weights, small enough for a CPU, loaded the way ComfyUI loads any VAE: `comfy.sd.VAE(sd=...)`."""

import functools
import json
import sys
from unittest import mock

import comfy.ldm.lightricks.vae.causal_video_autoencoder
import comfy.ldm.modules.diffusionmodules.model
import comfy.ldm.wan.vae
import comfy.ldm.wan.vae2_2
import comfy.sd
import comfy.taesd.taehv
import torch

from .watch import WATCHES, Watch

# comfy.sd hard-codes everything of the Wan configurations except what is given here.
WAN = {"dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": [], "temperal_downsample": [False, True, True]}
WAN_21_DIM = 2
WAN_22_DIMS = {"dim": 8, "dec_dim": 8}

LTX = {
    "dims": 3,
    "latent_channels": 128,
    "encoder_blocks": [["res_x", {"num_layers": 1}]],
    "encoder_base_channels": 8,
    "decoder_base_channels": 8,
    "norm_layer": "pixel_norm",
    "latent_log_var": "uniform",
    "patch_size": 4,
}
_BLOCK, _NOISY_BLOCK = ["res_x", {"num_layers": 1}], ["res_x", {"num_layers": 1, "inject_noise": True}]
_RESIDUAL = ["compress_all", {"residual": True, "multiplier": 2}]
_RESIDUALS = [_BLOCK, _RESIDUAL, _BLOCK, _RESIDUAL, _BLOCK, _RESIDUAL, _BLOCK]
# What LTX's checkpoints differ in. The order is the encoder's.
LTX_VERSIONS = {
    "0.9": {
        "decoder_blocks": [
            *(_BLOCK, ["compress_all", 1], ["res_x_y", 1]),
            *(_BLOCK, ["compress_all", 1], _BLOCK),
            *(["compress_all", 1], _BLOCK),
        ],
        "causal_decoder": False,
    },
    # Noise is drawn for the latent, and in the blocks.
    "0.9.1": {
        "decoder_blocks": [_NOISY_BLOCK, _RESIDUAL, _NOISY_BLOCK, _RESIDUAL, _NOISY_BLOCK, _RESIDUAL, _BLOCK],
        "timestep_conditioning": True,
    },
    "0.9.5": {"decoder_blocks": _RESIDUALS, "timestep_conditioning": True},
    "2": {"decoder_blocks": _RESIDUALS, "spatial_padding_mode": "zeros"},
    "2.3": {
        "decoder_blocks": [
            *(_BLOCK, ["compress_space", {"multiplier": 2}]),
            *(_BLOCK, ["compress_time", {"multiplier": 2}]),
            *(_BLOCK, _RESIDUAL, _BLOCK, _RESIDUAL, _BLOCK),
        ],
        "spatial_padding_mode": "zeros",
    },
    "causal": {"decoder_blocks": _RESIDUALS, "causal_decoder": True},
}


def random_state_dict(module: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """Weights that keep activations near unit size, so that outputs are neither constant nor all clamped."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, parameter in module.state_dict().items():
        noise = torch.randn(parameter.shape, generator=generator)
        is_gain = name.endswith("gamma") or (name.endswith("weight") and parameter.ndim == 1)
        fan_in = max(1, parameter[0].numel()) if parameter.ndim > 1 else 1
        weights[name] = 1 + 0.1 * noise if is_gain else noise * 0.7 / fan_in**0.5
    return weights


def wan_21(seed: int, dtype=None) -> comfy.sd.VAE:
    module = comfy.ldm.wan.vae.WanVAE(dim=WAN_21_DIM, z_dim=16, **WAN)
    return comfy.sd.VAE(sd=random_state_dict(module, seed), dtype=dtype)


def wan_22(seed: int, dtype=None) -> comfy.sd.VAE:
    """comfy.sd hard-codes the real dims (704 M weights); only the size is swapped, while it builds the module."""
    real = comfy.ldm.wan.vae2_2.WanVAE
    weights = random_state_dict(real(z_dim=48, **WAN, **WAN_22_DIMS), seed)
    with mock.patch.object(comfy.ldm.wan.vae2_2, "WanVAE", lambda **config: real(**{**config, **WAN_22_DIMS})):
        return comfy.sd.VAE(sd=weights, dtype=dtype)


def image(seed: int) -> comfy.sd.VAE:
    """The SD 1 decoder at a quarter of its width; the encoder is left as it comes, nothing encodes."""
    try:
        return _image(seed, 32)
    except RuntimeError:  # an older ComfyUI does not read the width from the weights
        return _image(seed, 128)


def _image(seed: int, width: int) -> comfy.sd.VAE:
    decoder = comfy.ldm.modules.diffusionmodules.model.Decoder(
        ch=width,
        out_ch=3,
        ch_mult=(1, 2, 4, 4),
        num_res_blocks=2,
        attn_resolutions=[],
        in_channels=3,
        resolution=256,
        z_channels=4,
    )
    weights = {f"decoder.{name}": weight for name, weight in random_state_dict(decoder, seed).items()}
    weights["post_quant_conv.weight"] = torch.eye(4)[:, :, None, None]
    weights["post_quant_conv.bias"] = torch.zeros(4)
    return comfy.sd.VAE(sd=weights)


def taehv(seed: int, channels: int = 16, dtype=None) -> comfy.sd.VAE:
    module = comfy.taesd.taehv.TAEHV(latent_channels=channels)
    return comfy.sd.VAE(sd=random_state_dict(module, seed), dtype=dtype)


def ltx(seed: int, version: str = "2", **more) -> comfy.sd.VAE:
    """`more`: of `comfy.sd.VAE`, such as dtype."""
    config = {**LTX, **LTX_VERSIONS[version]}
    module = comfy.ldm.lightricks.vae.causal_video_autoencoder.VideoVAE(config=config)
    metadata = {"config": json.dumps({"vae": config})}
    return comfy.sd.VAE(sd=random_state_dict(module, seed), metadata=metadata, **more)


def _smaller(owner, name: str, **sizes):
    """While it builds the module, comfy.sd finds `name` in `owner` with other sizes than those it hard-codes."""
    real = getattr(owner, name)
    return mock.patch.object(owner, name, lambda *args, **config: real(*args, **{**config, **sizes}))


def hunyuan_10(seed: int, dtype=None) -> comfy.sd.VAE:
    """At a quarter of its width."""
    config = {"double_z": True, "z_channels": 16, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 32}
    config |= {"ch_mult": [1, 2, 4, 4], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}
    config |= {"conv3d": True, "time_compress": 4}
    weights = random_state_dict(comfy.sd.AutoencoderKL(ddconfig=config, embed_dim=16), seed)
    with _smaller(comfy.sd, "AutoencoderKL", ddconfig=config):
        return comfy.sd.VAE(sd=weights, dtype=dtype)


def hunyuan_15(seed: int, dtype=None) -> comfy.sd.VAE:
    import comfy.ldm.hunyuan_video.vae_refiner as refiner

    sizes = {"block_out_channels": [8, 8, 16, 32, 32], "num_res_blocks": 1}
    config = {"in_channels": 3, "out_channels": 3, "z_channels": 32, "ffactor_spatial": 16, "ffactor_temporal": 4}
    with _smaller(refiner, "Encoder", **sizes), _smaller(refiner, "Decoder", **sizes):
        parts = torch.nn.ModuleDict({"encoder": refiner.Encoder(**config), "decoder": refiner.Decoder(**config)})
        return comfy.sd.VAE(sd=random_state_dict(parts, seed), dtype=dtype)


def minimax_h3(seed: int, dtype=None) -> comfy.sd.VAE:
    import comfy.ldm.minimax.vae as minimax

    # 64 pixels a tile, so that small latents have several.
    decoder = {"num_layers": 1, "heads": 2, "dim_head": 16}
    sizes = {"ch": 32, "ch_mult": (1,) * 6, "num_res_blocks": 1, "tile_size": 64, "tile_overlap_min": 32}
    with _smaller(minimax, "ViT3DDecoder", **decoder), _smaller(minimax, "MiniMaxH3VideoVAE", **sizes):
        module = minimax.MiniMaxH3VideoVAE()
        weights = random_state_dict(module, seed) | dict(module.named_buffers())
        return comfy.sd.VAE(sd=weights, dtype=dtype)


def cogvideox(seed: int, dtype=None) -> comfy.sd.VAE:
    import comfy.ldm.cogvideo.vae as cogvideo

    sizes = {"block_out_channels": (8, 8, 8, 16), "layers_per_block": 1, "groups": 4}
    with _smaller(cogvideo, "AutoencoderKLCogVideoX", **sizes):
        module = cogvideo.AutoencoderKLCogVideoX(latent_channels=16)
        return comfy.sd.VAE(sd=random_state_dict(module, seed), dtype=dtype)


def seedvr2(seed: int, dtype=None) -> comfy.sd.VAE:
    import comfy.ldm.seedvr.vae as seedvr

    with mock.patch.object(seedvr, "BYTEDANCE_BLOCK_OUT_CHANNELS", (32, 32, 32, 32)):
        return comfy.sd.VAE(sd=random_state_dict(seedvr.VideoAutoencoderKLWrapper(), seed), dtype=dtype)


def mochi(seed: int) -> comfy.sd.VAE:
    import comfy.ldm.genmo.vae.model as genmo

    without_encoder = mock.patch.object(genmo, "Encoder", lambda **config: torch.nn.Module())
    with without_encoder, _smaller(genmo, "Decoder", base_channels=32, channel_multipliers=[1, 1, 1, 1]):
        return comfy.sd.VAE(sd=random_state_dict(genmo.VideoVAE(), seed))


def cosmos(seed: int) -> comfy.sd.VAE:
    import comfy.ldm.cosmos.vae as cosmos

    config = {"z_channels": 16, "latent_channels": 16, "z_factor": 1, "resolution": 1024, "in_channels": 3}
    config |= {"out_channels": 3, "channels": 8, "channels_mult": [2, 4, 4], "num_res_blocks": 1, "dropout": 0.0}
    config |= {"attn_resolutions": [32], "patch_size": 4, "num_groups": 1}
    config |= {"temporal_compression": 8, "spacial_compression": 8}
    with _smaller(cosmos, "CausalContinuousVideoTokenizer", **config):
        module = cosmos.CausalContinuousVideoTokenizer()
        mark = {"decoder.unpatcher3d.wavelets": module.decoder.unpatcher3d.wavelets}
        return comfy.sd.VAE(sd=random_state_dict(module, seed) | mark)


def svd(seed: int) -> comfy.sd.VAE:
    """The decoder of Stable Video Diffusion, at a quarter of its width: its frames are a batch."""
    import comfy.ldm.modules.temporal_ae as temporal

    config = {"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 32}
    config |= {"ch_mult": [1, 2, 4, 4], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}
    config |= {"video_kernel_size": [3, 1, 1], "alpha": 0.0}
    with _smaller(temporal, "VideoDecoder", **config):
        decoder = torch.nn.ModuleDict({"decoder": temporal.VideoDecoder()})
        return comfy.sd.VAE(sd=random_state_dict(decoder, seed))


KINDS = {
    "wan 2.1": wan_21,
    "wan 2.2": wan_22,
    "ltx": ltx,
    "image": image,
    "taehv": taehv,
    "hunyuan 1.0": hunyuan_10,
    "hunyuan 1.5": hunyuan_15,
    "minimax h3": minimax_h3,
    "cogvideox": cogvideox,
    "seedvr2": seedvr2,
    "mochi": mochi,
    "cosmos": cosmos,
    "svd": svd,
}


class TestVAE:
    """A watched VAE.

    The inputs that end in `_at` name decoder calls (from 1), 0 for none: see `Watch`. `wrapped` replaces the
    decoder's `forward`, as packs that compile or cache models do.
    """

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"kind": (list(KINDS),), "seed": ("INT", {"default": 0})},
            "optional": {
                "name": ("STRING", {"default": "vae"}),
                "oom_at": ("INT", {"default": 0}),
                "hold_at": ("INT", {"default": 0}),
                "oom_times": ("INT", {"default": 1}),
                "fail_at": ("INT", {"default": 0}),
                "cancel_at": ("INT", {"default": 0}),
                "slow_at": ("INT", {"default": 0}),
                "wrapped": ("BOOLEAN", {"default": False}),
            },
        }

    RETURN_TYPES = ("VAE",)
    FUNCTION = "make"
    CATEGORY = "_tests"

    def make(self, kind, seed, name="vae", oom_at=0, hold_at=0, wrapped=False, **more_at):
        vae = KINDS[kind](seed)
        if wrapped:
            decoder = vae.first_stage_model.decoder
            decoder.forward = functools.partial(
                lambda forward, *args, **kwargs: forward(*args, **kwargs), decoder.forward
            )
        if oom_at or hold_at or any(more_at.values()):
            count_as_compared(vae.first_stage_model)
        WATCHES[name] = Watch(name, vae, oom_at, hold_at, **more_at)
        return (vae,)


def count_as_compared(model: torch.nn.Module) -> None:
    """As if it had been used before: the calls of its decoder for the short video that is decoded both ways at first
    would be counted, too.
    """
    [recipe] = [module for name, module in sys.modules.items() if name.endswith(".decoders.families.recipe")]
    recipe._fitting[model] = True
