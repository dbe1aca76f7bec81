"""Async VAE Decode to Video: VAEDecode + Create Video, decoded when a saver asks for it."""

from __future__ import annotations

from comfy_api.latest import io

from . import families, rescue, values
from .checked import checked_fps
from .inputs import decoder_input, samples_input, save_latents_first_input, vae_input, video_inputs
from .latent_video import LatentVideo
from .version import described


class AsyncVAEDecodeToVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="AsyncVAEDecodeToVideo",
            display_name="Async VAE Decode to Video",
            category="video",
            description=described(
                "Stands for VAE Decode and Create Video. Decoding starts when the video is saved, and every chunk is "
                "encoded while the next one is decoded, so the frames of the whole clip are never in memory."
            ),
            search_aliases=[
                "vae decode",
                "create video",
                "latent to video",
                "images to video",
                "wan vae",
                "wan decode",
                *families.search_words(),
                "async",
            ],
            inputs=[
                samples_input(),
                vae_input(),
                *video_inputs(fps=16.0),
                decoder_input(),
                save_latents_first_input(),
            ],
            outputs=[io.Video.Output(tooltip="A video for any saver or video node.")],
        )

    @classmethod
    def execute(
        cls, samples, vae, fps, audio=None, bit_depth=8, decoder="auto", save_latents_first=False
    ) -> io.NodeOutput:
        with rescue.rescuing(samples):
            bit_depth = values.whole("bit_depth", bit_depth, 8, 10)  # 9 is refused with the format
            first = values.flag("save_latents_first", save_latents_first)
            return io.NodeOutput(LatentVideo(vae, samples, checked_fps(fps), audio, bit_depth, None, decoder, first))
