"""Small random weights under the names of the models that the bundled workflows load. Runs on the host's Python.

    python stand_ins.py COMFYUI_FOLDER MODELS_FOLDER

Each file holds the real architecture, recognised by ComfyUI's own detection; only its sizes are small where
ComfyUI reads them from the file, or where small/ changes them. Else the size is the real one (Wan 2.2's VAE, FILM).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import audio_video
import torch
from weights import random_weights, save

TINY_VAE = Path(__file__).resolve().parent.parent.parent / "workflows" / "sample" / "tiny_wan_vae.safetensors"

# The smallest text encoder that CLIPLoader takes as "wan" is T5 base: UMT5-XXL's family, with its tokenizer in
# ComfyUI. The diffusion models say in their metadata that their text has this width instead of 4096.
TEXT_WIDTH = 768
DIM, FFN_DIM, BLOCKS, LORA_RANK = 128, 256, 2, 4  # one attention head is 128 wide


def diffusion_model(channels: int, image_channels: int = 0) -> Callable:
    """A Wan model of `channels` latent channels, with `image_channels` more of input for a start image."""

    def make(seed: int, path: Path) -> None:
        import comfy.ldm.wan.model

        model = comfy.ldm.wan.model.WanModel(
            in_dim=channels + image_channels,
            out_dim=channels,
            dim=DIM,
            ffn_dim=FFN_DIM,
            num_heads=DIM // 128,
            num_layers=BLOCKS,
            text_dim=TEXT_WIDTH,
            operations=torch.nn,
            device="meta",
        )
        save(random_weights(model, seed), path, {"config": json.dumps({"transformer": {"text_dim": TEXT_WIDTH}})})

    return make


def lora(seed: int, path: Path) -> None:
    """A LoRA on every linear layer of `diffusion_model`'s blocks."""
    layers = {f"self_attn.{name}": (DIM, DIM) for name in "qkvo"} | {
        f"cross_attn.{name}": (DIM, DIM) for name in "qkvo"
    }
    layers |= {"ffn.0": (FFN_DIM, DIM), "ffn.2": (DIM, FFN_DIM)}
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for block in range(BLOCKS):
        for layer, (width_out, width_in) in layers.items():
            name = f"diffusion_model.blocks.{block}.{layer}"
            weights[f"{name}.lora_down.weight"] = torch.randn(LORA_RANK, width_in, generator=generator) / width_in**0.5
            weights[f"{name}.lora_up.weight"] = torch.randn(width_out, LORA_RANK, generator=generator) / LORA_RANK**0.5
            weights[f"{name}.alpha"] = torch.tensor(float(LORA_RANK))
    save(weights, path)


def text_encoder(seed: int, path: Path) -> None:
    import comfy.ops
    import comfy.text_encoders.t5

    config = json.loads((Path(comfy.text_encoders.t5.__file__).parent / "t5_config_base.json").read_text())
    assert config["d_model"] == TEXT_WIDTH
    model = comfy.text_encoders.t5.T5(config, torch.float32, "meta", comfy.ops.disable_weight_init)
    save(random_weights(model, seed, torch.float16), path)


def wan_21_vae(seed: int, path: Path) -> None:
    """The pack's own: its decoder is trained, so that frames are pictures rather than noise."""
    path.symlink_to(TINY_VAE)


def wan_22_vae(seed: int, path: Path) -> None:
    import comfy.ldm.wan.vae2_2

    with torch.device("meta"):
        model = comfy.ldm.wan.vae2_2.WanVAE(
            dim=160,
            z_dim=48,
            dim_mult=[1, 2, 4, 4],
            num_res_blocks=2,
            attn_scales=[],
            temperal_downsample=[False, True, True],
        )
    save(random_weights(model, seed, torch.bfloat16), path)


def film(seed: int, path: Path) -> None:
    import comfy_extras.frame_interpolation_models.film_net

    with torch.device("meta"):
        model = comfy_extras.frame_interpolation_models.film_net.FILMNet()
    save(random_weights(model, seed, torch.float16), path)


# By folder in models/ and file name.
STAND_INS: dict[tuple[str, str], Callable[[int, Path], None]] = {
    ("diffusion_models", "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors"): diffusion_model(16),
    ("diffusion_models", "wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors"): diffusion_model(16),
    ("diffusion_models", "wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors"): diffusion_model(16, 20),
    ("diffusion_models", "wan2.2_i2v_low_noise_14B_fp8_scaled.safetensors"): diffusion_model(16, 20),
    ("diffusion_models", "wan2.2_ti2v_5B_fp16.safetensors"): diffusion_model(48),
    ("loras", "wan2.2_t2v_lightx2v_4steps_lora_v1.1_high_noise.safetensors"): lora,
    ("loras", "wan2.2_t2v_lightx2v_4steps_lora_v1.1_low_noise.safetensors"): lora,
    ("loras", "wan2.2_i2v_lightx2v_4steps_lora_v1_high_noise.safetensors"): lora,
    ("loras", "wan2.2_i2v_lightx2v_4steps_lora_v1_low_noise.safetensors"): lora,
    ("text_encoders", "umt5_xxl_fp8_e4m3fn_scaled.safetensors"): text_encoder,
    ("vae", "wan_2.1_vae.safetensors"): wan_21_vae,
    ("vae", "wan2.2_vae.safetensors"): wan_22_vae,
    ("frame_interpolation", "film_net_fp16.safetensors"): film,
    ("diffusion_models", "hunyuanvideo1.5_720p_t2v_fp16.safetensors"): audio_video.hunyuan,
    ("text_encoders", "qwen_2.5_vl_7b_fp8_scaled.safetensors"): audio_video.qwen25_vl,
    ("text_encoders", "byt5_small_glyphxl_fp16.safetensors"): audio_video.byt5,
    ("vae", "hunyuanvideo15_vae_fp16.safetensors"): audio_video.hunyuan_vae,
    ("checkpoints", "ltx-2.3-22b-dev-fp8.safetensors"): audio_video.ltx,
    ("text_encoders", "gemma_3_12B_it_fp4_mixed.safetensors"): audio_video.gemma,
    ("loras", "ltx_2.3_22b_distilled_1.1_lora_dynamic_fro09_avg_rank_111_bf16.safetensors"): audio_video.ltx_lora,
    ("latent_upscale_models", "ltx-2.3-spatial-upscaler-x2-1.1.safetensors"): audio_video.ltx_upscaler,
}

# What ComfyUI's own templates that are tested load besides.
OFFICIAL: dict[tuple[str, str], Callable[[int, Path], None]] = {
    ("loras", "gemma-3-12b-it-abliterated_lora_rank64_bf16.safetensors"): audio_video.gemma_lora,
    ("diffusion_models", "minimax_h3_fl2va_pruned_int8_convrot.safetensors"): audio_video.minimax,
    ("text_encoders", "qwen3vl_32b_minimax_h3_nvfp4_awq.safetensors"): audio_video.qwen3_vl,
    ("vae", "minimax_h3_video_vae_fp16.safetensors"): audio_video.minimax_vae,
    ("vae", "minimax_h3_audio_vae_fp32.safetensors"): audio_video.minimax_audio_vae,
}


def main(comfyui: str, models: str) -> None:
    for seed, ((folder, name), make) in enumerate((STAND_INS | OFFICIAL).items()):
        path = Path(models) / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        make(seed, path)


if __name__ == "__main__":
    comfyui, models = sys.argv[1:]
    sys.path.insert(0, comfyui)
    sys.argv = [sys.argv[0], "--cpu"]  # ComfyUI looks for a device when it is imported
    import comfy.options

    comfy.options.enable_args_parsing()
    import small  # noqa: F401

    main(comfyui, models)
