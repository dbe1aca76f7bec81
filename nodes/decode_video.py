"""Async VAE Decode (Video): the stock VAEDecode with the copies off the GPU's path."""

from __future__ import annotations

from comfy_api.latest import io

from . import decoding, families, live, rescue
from .inputs import decoder_input, samples_input, vae_input
from .version import described


class AsyncVAEDecodeVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="AsyncVAEDecodeVideo",
            display_name="Async VAE Decode (Video)",
            category="model/latent",
            description=described(
                "Decodes a video latent into frames like VAE Decode, but faster, and copies each chunk off the GPU "
                "while the next one is decoded. Whatever it cannot stream is decoded the stock way."
            ),
            search_aliases=[
                "vae decode",
                "decode latent",
                "latent to image",
                "wan vae",
                "wan decode",
                *families.search_words(),
                "async",
                "streaming",
            ],
            inputs=[
                samples_input(),
                vae_input(),
                decoder_input(),
            ],
            outputs=[io.Image.Output(tooltip="The decoded frames; with 'exact' bit for bit those of VAE Decode.")],
        )

    @classmethod
    def execute(cls, samples, vae, decoder="auto") -> io.NodeOutput:
        with rescue.rescuing(samples):
            image, report = decoding.decode_image_with_report(vae, samples, decoder)
            return io.NodeOutput(image, ui=live.output(report))
