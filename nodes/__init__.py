"""ComfyUI's side: thin nodes over the engine. What they need of ComfyUI's insides is in `comfyui/`."""

from __future__ import annotations

import logging

from comfy_api.latest import ComfyExtension, io

from .comfyui import late
from .decode_tiled import AsyncVAEDecodeTiled
from .decode_tiled_to_video import AsyncVAEDecodeTiledToVideo
from .decode_to_video import AsyncVAEDecodeToVideo
from .decode_video import AsyncVAEDecodeVideo
from .elsewhere import AsyncCollectVideo, AsyncDecodeElsewhere, AsyncSaveVideoElsewhere
from .elsewhere_collector import collector
from .log import say
from .sample_latent import SampleVideoLatent
from .save_video import SaveVideoStreaming


class AsyncFramePipelineExtension(ComfyExtension):
    async def on_load(self) -> None:
        try:
            late.offer(lambda: collector().jobs.told(), lambda job_id: collector().cancel_open(job_id))
            collector().resume()
        except Exception as error:  # all other nodes do without
            say(f"no jobs of a farm can be collected: {type(error).__name__}: {error}", logging.WARNING)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            AsyncVAEDecodeVideo,
            AsyncVAEDecodeToVideo,
            AsyncVAEDecodeTiled,
            AsyncVAEDecodeTiledToVideo,
            SaveVideoStreaming,
            SampleVideoLatent,
            AsyncSaveVideoElsewhere,
            AsyncDecodeElsewhere,
            AsyncCollectVideo,
        ]
