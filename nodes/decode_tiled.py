"""Async VAE Decode (Tiled): the stock VAEDecodeTiled, whose frames go as soon as no later tile touches them."""

from __future__ import annotations

from comfy_api.latest import io

from . import decoding, live, rescue
from .inputs import checked_tiling, samples_input, tile_inputs, vae_input
from .version import described


class AsyncVAEDecodeTiled(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="AsyncVAEDecodeTiled",
            display_name="Async VAE Decode (Tiled)",
            category="model/latent",
            description=described(
                "Decodes a video latent in tiles, pixel for pixel as VAE Decode (Tiled), and copies frames off the GPU "
                "while the next ones are decoded. When memory runs out it tries again, which VAE Decode (Tiled) does "
                "not, and it says when no tiles were needed."
            ),
            search_aliases=[
                "vae decode tiled",
                "tiled vae",
                "decode latent",
                "latent to image",
                "ltx decode",
                "low vram",
                "async",
                "streaming",
            ],
            inputs=[samples_input(), vae_input(), *tile_inputs()],
            outputs=[io.Image.Output(tooltip="The decoded frames, bit for bit those of VAE Decode (Tiled).")],
        )

    @classmethod
    def execute(cls, samples, vae, tile_size, overlap, temporal_size, temporal_overlap) -> io.NodeOutput:
        with rescue.rescuing(samples):
            tiling = checked_tiling(tile_size, overlap, temporal_size, temporal_overlap)
            image, report = decoding.decode_image_with_report(vae, samples, tiling=tiling)
            return io.NodeOutput(image, ui=live.output(report))
