"""Prompt after prompt: a large model that is used before each decode, under ComfyUI's memory management.

A video workflow's sampler and its decode take turns on the card. What a decode takes may have to be freed of the
model's weights, and the next prompt loads those again.
"""

import functools

import comfy.model_management as model_management
import comfy.model_patcher
import comfy.ops
import torch

from .measured import measured
from .wan import IS_TINY
from .ways import Ways, vae_of

# A block of Wan's 14B model: 8 square layers and 2 of the feed-forward part, 0.70 GB in float16.
WIDTH, WIDE, BLOCK_GB = (128, 256, 0.000393) if IS_TINY else (5120, 13824, 0.702546)
TOKENS, PASSES = (8, 2) if IS_TINY else (2048, 4)
# Beside the weights, for what a sampler computes.
SAMPLING_BYTES = 1_000_000_000


class StandIn(torch.nn.Module):
    """Blocks of ComfyUI's own linear layers, which its memory management knows."""

    def __init__(self, blocks):
        super().__init__()
        sizes = [(WIDTH, WIDTH)] * 8 + [(WIDTH, WIDE), (WIDE, WIDTH)]
        linear = comfy.ops.disable_weight_init.Linear
        self.layers = torch.nn.ModuleList(
            linear(wide, high, bias=False, dtype=torch.float16) for _ in range(blocks) for wide, high in sizes
        )

    def forward(self, x):
        for layer in self.layers:
            x = torch.nn.functional.rms_norm(layer(x), (layer.out_features,))
        return x


@functools.cache
def stand_in(blocks):
    """A `StandIn` under ComfyUI's management, made as ComfyUI makes a diffusion model: pageable weights in main
    memory, and the class of patcher that it uses for all models now."""
    device = model_management.get_torch_device()
    module = StandIn(blocks)
    # Random numbers of this many are made quickly on a GPU only.
    weights = {
        f"layers.{i}.weight": torch.empty(layer.out_features, layer.in_features, dtype=torch.float16, device=device)
        .normal_(std=layer.in_features**-0.5)
        .cpu()
        for i, layer in enumerate(module.layers)
    }
    patcher = comfy.model_patcher.CoreModelPatcher(
        module, load_device=device, offload_device=model_management.unet_offload_device()
    )
    module.load_state_dict(weights, assign=patcher.is_dynamic())
    return patcher


class Node:
    RETURN_TYPES = ()
    FUNCTION = "measure"
    CATEGORY = "benchmarks"


class BenchModel(Node):
    """The stand-in, of so many GB in float16; one for all prompts, since a real one is loaded once."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"gigabytes": ("FLOAT", {"default": 14.0, "max": 1000.0})}}

    RETURN_TYPES = ("BENCH_MODEL",)

    def measure(self, gigabytes):
        return (stand_in(2 if IS_TINY else max(1, round(gigabytes / BLOCK_GB))),)


class BenchMade(Node):
    """Ends a prompt that only makes the model, before anything holds memory."""

    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("BENCH_MODEL",)}}

    def measure(self, model):
        return {"ui": {"bytes": [model.model_size()]}}


class BenchVAE(Node):
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"version": (["2.1", "2.2"],)}}

    RETURN_TYPES = ("VAE",)

    def measure(self, version):
        return (vae_of(version),)


class BenchUse(Node):
    """Load the model as a sampler does, and pass through all of its layers a few times.

    Gives: "seconds", and of the model's weights how many bytes there are, were on the GPU before and are after.
    """

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("BENCH_MODEL",), "turn": ("INT", {"default": 0, "max": 10**9})}}

    RETURN_TYPES = ("BENCH_USED",)

    def measure(self, model, turn):
        # Under dynamic VRAM the pages that are there, else the weights that were moved there.
        before_bytes = model.loaded_size()
        figures, _ = measured(lambda: self._use(model))
        sizes = {"before_bytes": before_bytes, "after_bytes": model.loaded_size(), "model_bytes": model.model_size()}
        return (figures | sizes | {"patcher": type(model).__name__},)

    @staticmethod
    def _use(model):
        model_management.load_models_gpu([model], memory_required=SAMPLING_BYTES)
        x = torch.ones(TOKENS, WIDTH, dtype=torch.float16, device=model.load_device)
        for _ in range(PASSES):
            x = model.model(x)


class BenchDecode(Node):
    """Decode one way, after the model was used; says what both took."""

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "used": ("BENCH_USED",),
                "vae": ("VAE",),  # so that ComfyUI knows that the prompt uses it
                "version": (["2.1", "2.2"],),
                "width": ("INT", {"default": 1280, "max": 8192}),
                "height": ("INT", {"default": 720, "max": 8192}),
                "frames": ("INT", {"default": 33, "max": 8192}),
                "way": ("STRING", {"default": "stock"}),
                "kj": ("STRING", {"default": ""}),
            }
        }

    OUTPUT_NODE = True

    def measure(self, used, vae, version, width, height, frames, way, kj):
        decode, _ = Ways(version, width, height, frames, kj).decode(way)
        return {"ui": {"figures": [{"use": used, "decode": decode}]}}
