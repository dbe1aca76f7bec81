"""Async Frame Pipeline for ComfyUI: latent in, correct video file out while the GPU still decodes.

ComfyUI loads this file. It names the frontend folder and the entrypoint, nothing else; the nodes
are imported inside the entrypoint so that importing the package needs no running ComfyUI.
"""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Return the extension that lists this pack's nodes."""
    from .nodes import AsyncFramePipelineExtension

    return AsyncFramePipelineExtension()
