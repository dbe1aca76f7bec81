"""Sample Video Latent (Demo): a real latent and a tiny Wan VAE, so that a workflow runs with no download."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
from comfy_api.latest import io

from .comfyui import vaes
from .version import described

SAMPLE_FOLDER = Path(__file__).resolve().parent.parent / "workflows" / "sample"


class SampleVideoLatent(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SampleVideoLatent",
            display_name="Sample Video Latent (Demo)",
            category="video",
            description=described(
                "A latent of 33 frames at 480x272 and a tiny Wan 2.1 VAE that decodes it, both part of this pack. "
                "From Big Buck Bunny, (c) Blender Foundation, CC BY 3.0."
            ),
            search_aliases=["demo latent", "test latent", "big buck bunny", "example"],
            outputs=[
                io.Latent.Output(
                    "samples", display_name="samples", tooltip="(1, 16, 9, 34, 60): 33 frames at 480x272."
                ),
                io.Vae.Output("vae", display_name="vae", tooltip="Wan 2.1's architecture at an eighth of its width."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        latent = safetensors.torch.load_file(SAMPLE_FOLDER / "bunny_33f.latent")["latent_tensor"].float()
        return io.NodeOutput({"samples": latent}, vaes.load_vae(str(SAMPLE_FOLDER / "tiny_wan_vae.safetensors")))
