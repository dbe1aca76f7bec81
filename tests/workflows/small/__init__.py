"""Makes the models small that ComfyUI has one size for, so that a CPU can run workflows with them.

A pack for the server of the tests. Text encoders and some VAEs have their sizes in ComfyUI's source, where others have
them in their files: here they are given smaller ones. Only sizes change; classes, layers' kinds, tokenizers and what
recognises a file are ComfyUI's own. stand_ins.py imports this before it makes the files.
"""

import inspect

import comfy.ldm.hunyuan_video.vae_refiner as hunyuan_vae
import comfy.ldm.minimax.audio_vae as minimax_audio
import comfy.ldm.minimax.vae as minimax_vae
import comfy.text_encoders.hunyuan_image as hunyuan_text
import comfy.text_encoders.llama as llama
import comfy.text_encoders.lt as ltx_text
import comfy.text_encoders.qwen3vl as qwen3vl
import comfy.text_encoders.qwen_vl as qwen_vl

NODE_CLASS_MAPPINGS = {}

WIDTH = 64  # of what a text encoder says of each token
LTX_VIDEO_TEXT, LTX_AUDIO_TEXT = 64, 32  # what LTX makes of it


def smaller(cls: type, **sizes) -> None:
    """Give a class these sizes, whatever it is made with: as arguments of its constructor, else as attributes."""
    init = cls.__init__
    signature = inspect.signature(init)
    arguments = {name: size for name, size in sizes.items() if name in signature.parameters}
    for name in sizes.keys() - arguments.keys():
        setattr(cls, name, sizes[name])

    def small_init(self, *args, **kwargs):
        bound = signature.bind(self, *args, **kwargs)
        bound.arguments |= arguments
        init(*bound.args, **bound.kwargs)

    cls.__init__ = small_init


def make_small() -> None:
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1}
    language = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_attention_heads": 1}
    language |= {"num_key_value_heads": 1}

    # LTX: Gemma 3 12B. It is known by its 48 layers, so it keeps them.
    vision_config = {**llama.GEMMA3_VISION_CONFIG, **vision}
    smaller(llama.Gemma3_12B_Config, **language, head_dim=32, vision_config=vision_config)
    smaller(
        ltx_text.DualLinearProjection, in_dim=49 * WIDTH, out_dim_video=LTX_VIDEO_TEXT, out_dim_audio=LTX_AUDIO_TEXT
    )

    # HunyuanVideo 1.5: Qwen2.5-VL 7B, of which the third layer from the end is taken; ByT5; the VAE.
    smaller(llama.Qwen25_7BVLI_Config, **language, num_hidden_layers=4)
    smaller(qwen_vl.Qwen2VLVisionTransformer, hidden_size=32, intermediate_size=64, num_heads=2, num_layers=1)
    smaller(
        hunyuan_text.ByT5SmallModel,
        model_options={"model_name": "byt5", "byt5_model_config": {"num_layers": 1, "d_ff": 64}},
    )
    for half in (hunyuan_vae.Encoder, hunyuan_vae.Decoder):
        smaller(half, block_out_channels=[8, 8, 16, 32, 32], num_res_blocks=1)

    # MiniMax H3: Qwen3-VL 32B, known by its 50 layers; its two VAEs.
    smaller(llama.Qwen3VL_32BConfig, **language)
    qwen3vl.QWEN3VL_VISION["qwen3vl_32b"] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "depth": 1,
        "deepstack_visual_indexes": [0],
    }
    qwen3vl.QWEN3VL_VISION_COMMON["num_heads"] = 2
    smaller(minimax_vae.ViT3DDecoder, num_layers=1, heads=2, dim_head=16)
    smaller(minimax_vae.MiniMaxH3VideoVAE, ch=32, ch_mult=(1,) * 6, num_res_blocks=1)
    smaller(minimax_audio.MiniMaxH3AudioVAE, encoder_dim=4, latent_dim=64, decoder_dim=256)


make_small()
