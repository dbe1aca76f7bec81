"""Async VAE Decode (Tiled) to Video: VAEDecodeTiled + Create Video, decoded when a saver asks for it."""

from __future__ import annotations

from comfy_api.latest import io

from . import rescue, values
from .checked import checked_fps
from .inputs import checked_tiling, samples_input, save_latents_first_input, tile_inputs, vae_input, video_inputs
from .latent_video import LatentVideo
from .version import described


class AsyncVAEDecodeTiledToVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="AsyncVAEDecodeTiledToVideo",
            display_name="Async VAE Decode (Tiled) to Video",
            category="video",
            description=described(
                "Stands for VAE Decode (Tiled) and Create Video. Decoding starts when the video is saved, and frames "
                "are encoded while the next ones are decoded, so the frames of the whole clip are never in memory."
            ),
            search_aliases=[
                "vae decode tiled",
                "tiled vae",
                "create video",
                "latent to video",
                "images to video",
                "ltx decode",
                "low vram",
                "async",
            ],
            inputs=[
                samples_input(),
                vae_input(),
                *tile_inputs(),
                *video_inputs(fps=24.0),
                save_latents_first_input(),
            ],
            outputs=[io.Video.Output(tooltip="A video for any saver or video node.")],
        )

    @classmethod
    def execute(
        cls,
        samples,
        vae,
        tile_size,
        overlap,
        temporal_size,
        temporal_overlap,
        fps,
        audio=None,
        bit_depth=8,
        save_latents_first=False,
    ) -> io.NodeOutput:
        with rescue.rescuing(samples):
            tiling = checked_tiling(tile_size, overlap, temporal_size, temporal_overlap)
            bit_depth = values.whole("bit_depth", bit_depth, 8, 10)  # 9 is refused with the format
            first = values.flag("save_latents_first", save_latents_first)
            video = LatentVideo(vae, samples, checked_fps(fps), audio, bit_depth, save_first=first, tiling=tiling)
            return io.NodeOutput(video)
