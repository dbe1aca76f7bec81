"""Stand-ins for LTX-2.3, HunyuanVideo 1.5 and MiniMax H3: see stand_ins.py, which calls these.

ComfyUI reads the sizes of LTX's models from the files; those of the text encoders and of other VAEs are made small
by small/.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from weights import random_weights, save


def text_encoder(module_type: type, seed: int, path: Path, more: dict[str, torch.Tensor] | None = None) -> None:
    """A text encoder of one of ComfyUI's classes, which know their sizes."""
    import comfy.ops

    model = module_type({}, torch.float16, "meta", comfy.ops.disable_weight_init)
    save({**random_weights(model, seed, torch.float16), **(more or {})}, path)


# HunyuanVideo 1.5


def hunyuan(seed: int, path: Path) -> None:
    import comfy.ldm.hunyuan_video.model
    import comfy.ops
    import small

    model = comfy.ldm.hunyuan_video.model.HunyuanVideo(
        in_channels=32 + 32 + 1,  # the latent, a start image's, and its mask
        out_channels=32,
        vec_in_dim=None,
        context_in_dim=small.WIDTH,
        hidden_size=128,  # one head
        mlp_ratio=4.0,
        num_heads=1,
        depth=2,
        depth_single_blocks=0,
        axes_dim=[16, 56, 56],
        theta=256,
        patch_size=[1, 1, 1],
        qkv_bias=True,
        guidance_embed=False,
        byt5=True,
        meanflow=False,
        use_cond_type_embedding=True,
        vision_in_dim=1152,
        meanflow_sum=True,
        dtype=torch.float32,
        device="meta",
        operations=comfy.ops.disable_weight_init,
    )
    save(random_weights(model, seed), path)


def qwen25_vl(seed: int, path: Path) -> None:
    import comfy.text_encoders.llama

    text_encoder(comfy.text_encoders.llama.Qwen25_7BVLI, seed, path)


def byt5(seed: int, path: Path) -> None:
    import comfy.text_encoders.hunyuan_image

    with torch.device("meta"):
        model = comfy.text_encoders.hunyuan_image.ByT5SmallModel(device="meta", dtype=torch.float16)
    save(random_weights(model.transformer, seed, torch.float16), path)


def hunyuan_vae(seed: int, path: Path) -> None:
    import comfy.ldm.hunyuan_video.vae_refiner as refiner

    # Sizes that small/ gives are not given here.
    config = {"in_channels": 3, "out_channels": 3, "z_channels": 32, "ffactor_spatial": 16, "ffactor_temporal": 4}
    config |= {"block_out_channels": None, "num_res_blocks": None}
    with torch.device("meta"):
        halves = {"encoder": refiner.Encoder(**config), "decoder": refiner.Decoder(**config)}
    save(random_weights(torch.nn.ModuleDict(halves), seed), path)


# LTX-2.3

LTX = {
    "transformer": {
        "num_layers": 2,
        "num_attention_heads": 2,
        "attention_head_dim": 32,
        "cross_attention_dim": 64,
        "audio_num_attention_heads": 2,
        "audio_attention_head_dim": 16,
        "audio_cross_attention_dim": 32,
        "connector_num_attention_heads": 2,
        "connector_attention_head_dim": 32,
        "audio_connector_num_attention_heads": 2,
        "audio_connector_attention_head_dim": 16,
        "connector_num_layers": 1,
        "connector_apply_gated_attention": True,
        "apply_gated_attention": True,
        "cross_attention_adaln": True,
        "caption_proj_before_connector": True,
        "caption_projection_first_linear": False,
    },
    "vae": {
        "dims": 3,
        "latent_channels": 128,
        "encoder_blocks": [["res_x", {"num_layers": 1}]],
        "encoder_base_channels": 8,
        "decoder_base_channels": 8,
        "decoder_blocks": [
            ["res_x", {"num_layers": 1}],
            ["compress_space", {"multiplier": 2}],
            ["res_x", {"num_layers": 1}],
            ["compress_time", {"multiplier": 2}],
            ["res_x", {"num_layers": 1}],
            ["compress_all", {"residual": True, "multiplier": 2}],
            ["res_x", {"num_layers": 1}],
            ["compress_all", {"residual": True, "multiplier": 2}],
            ["res_x", {"num_layers": 1}],
        ],
        "norm_layer": "pixel_norm",
        "latent_log_var": "uniform",
        "patch_size": 4,
        "spatial_padding_mode": "zeros",
    },
    "audio_vae": {
        "model": {
            "params": {
                "sampling_rate": 16000,
                "ddconfig": {
                    "double_z": True,
                    "mel_bins": 64,
                    "z_channels": 8,
                    "resolution": 256,
                    "downsample_time": False,
                    "in_channels": 2,
                    "out_ch": 2,
                    "ch": 32,
                    "ch_mult": [1, 2, 4],
                    "num_res_blocks": 1,
                    "attn_resolutions": [],
                    "dropout": 0.0,
                    "mid_block_add_attention": False,
                    "norm_type": "pixel",
                    "causality_axis": "height",
                },
            }
        },
        "preprocessing": {"stft": {"filter_length": 1024, "hop_length": 160}},
    },
    # 16 kHz, and from that 48 kHz.
    "vocoder": {
        "vocoder": {"upsample_initial_channel": 64},
        "bwe": {
            "upsample_initial_channel": 64,
            "upsample_rates": [6, 5, 2, 2, 2],
            "upsample_kernel_sizes": [16, 15, 8, 4, 4],
            "input_sampling_rate": 16000,
            "output_sampling_rate": 48000,
            "hop_length": 80,
            "n_fft": 512,
            "num_mels": 64,
        },
    },
}


def ltx_transformer() -> torch.nn.Module:
    import comfy.ldm.lightricks.av_model
    import comfy.ops

    return comfy.ldm.lightricks.av_model.LTXAVModel(
        **LTX["transformer"], dtype=torch.float32, device="meta", operations=comfy.ops.disable_weight_init
    )


def ltx(seed: int, path: Path) -> None:
    """All in one file: the diffusion model, what it takes of the text, and the VAEs of picture and sound."""
    import comfy.ldm.lightricks.vae.audio_vae
    import comfy.ldm.lightricks.vae.causal_video_autoencoder
    import comfy.ops
    import comfy.text_encoders.lt

    metadata = {"config": json.dumps(LTX)}
    with torch.device("meta"):
        text = comfy.text_encoders.lt.DualLinearProjection(0, 0, 0, operations=comfy.ops.disable_weight_init)
        video = comfy.ldm.lightricks.vae.causal_video_autoencoder.VideoVAE(config=LTX["vae"])
        audio = comfy.ldm.lightricks.vae.audio_vae.AudioVAE(metadata)
    parts = {
        "model.diffusion_model": ltx_transformer(),
        "text_embedding_projection": text,
        "vae": video,
        "audio_vae": audio.autoencoder,
        "vocoder": audio.vocoder,
    }
    weights = {
        f"{part}.{name}": weight
        for part, module in parts.items()
        for name, weight in random_weights(module, seed).items()
    }
    save(weights, path, metadata)


def gemma(seed: int, path: Path) -> None:
    import comfy.text_encoders.llama

    text_encoder(comfy.text_encoders.llama.Gemma3_12B, seed, path, {"spiece_model": few_words()})


def few_words() -> torch.Tensor:
    """A tokenizer that spells everything, with the numbers that Gemma's gives to the beginning and the end."""
    import io

    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a word"]),
        model_writer=model,
        model_type="char",
        byte_fallback=False,
        vocab_size=20,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        minloglevel=2,
    )
    return torch.frombuffer(bytearray(model.getvalue()), dtype=torch.uint8)


def ltx_lora(seed: int, path: Path, rank: int = 4) -> None:
    """On every linear layer of the blocks."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, weight in ltx_transformer().state_dict().items():
        if name.startswith("transformer_blocks") and name.endswith(".weight") and weight.ndim == 2:
            layer = f"diffusion_model.{name.removesuffix('.weight')}"
            weights[f"{layer}.lora_A.weight"] = torch.randn(rank, weight.shape[1], generator=generator) / rank
            weights[f"{layer}.lora_B.weight"] = 0.02 * torch.randn(weight.shape[0], rank, generator=generator)
    save(weights, path)


def ltx_upscaler(seed: int, path: Path) -> None:
    import comfy.ldm.lightricks.latent_upsampler
    import comfy.ops

    # 32 channels are the fewest: its norms have 32 groups.
    config = {"in_channels": 128, "mid_channels": 32, "num_blocks_per_stage": 1, "dims": 3, "rational_resampler": True}
    with torch.device("meta"):
        model = comfy.ldm.lightricks.latent_upsampler.LatentUpsampler.from_config(config, comfy.ops.disable_weight_init)
    save(random_weights(model, seed), path, {"config": json.dumps(config)})


def gemma_lora(seed: int, path: Path, rank: int = 4) -> None:
    import small

    generator = torch.Generator().manual_seed(seed)
    layer = "text_encoders.gemma3_12b.transformer.model.layers.0.self_attn.k_proj"
    weights = {
        f"{layer}.lora_A.weight": torch.randn(rank, small.WIDTH, generator=generator) / rank,
        f"{layer}.lora_B.weight": 0.02 * torch.randn(32, rank, generator=generator),
    }
    save(weights, path)


# MiniMax H3


def minimax(seed: int, path: Path) -> None:
    import comfy.ldm.minimax.model
    import comfy.ops
    import small

    with torch.device("meta"):
        model = comfy.ldm.minimax.model.MiniMaxH3Model(
            hidden_size=128,
            num_layers=2,
            token_refiner_num_layers=1,
            num_attention_heads=1,
            attention_head_dim=128,
            ffn_hidden_size=128,
            text_dim=small.WIDTH,
            time_embed_hidden_size=64,
            time_embed_dim=64,
            dtype=torch.float32,
            device="meta",
            operations=comfy.ops.disable_weight_init,
        )
    save(random_weights(model, seed), path)


def qwen3_vl(seed: int, path: Path) -> None:
    import comfy.text_encoders.minimax

    text_encoder(comfy.text_encoders.minimax.MiniMaxQwen3VL, seed, path)


def minimax_vae(seed: int, path: Path) -> None:
    import comfy.ldm.minimax.vae

    model = comfy.ldm.minimax.vae.MiniMaxH3VideoVAE()
    save(random_weights(model, seed) | dict(model.named_buffers()), path)


def minimax_audio_vae(seed: int, path: Path) -> None:
    import comfy.ldm.minimax.audio_vae

    model = comfy.ldm.minimax.audio_vae.MiniMaxH3AudioVAE()
    filters = {name: buffer.clone() for name, buffer in model.named_buffers() if name.endswith("filter")}
    save(random_weights(model, seed) | filters, path)
