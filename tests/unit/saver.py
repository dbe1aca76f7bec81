"""Save Video (Streaming) without a server: the node as ComfyUI calls it, into a folder of the test's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

from . import in_comfyui  # noqa: F401

import folder_paths
from async_frame_pipeline.nodes.save_video import SaveVideoStreaming
from comfy_api.latest import io


@contextlib.contextmanager
def folders(base: Path) -> Iterator[Path]:
    """For the block, ComfyUI's folders are in `base`: "output", "temp" and "input"."""
    names = ("output", "temp", "input")
    before = [getattr(folder_paths, f"get_{name}_directory")() for name in names]
    for name in names:
        (base / name).mkdir(exist_ok=True)
        getattr(folder_paths, f"set_{name}_directory")(str(base / name))
    try:
        yield base
    finally:
        for name, folder in zip(names, before):
            getattr(folder_paths, f"set_{name}_directory")(folder)


@torch.inference_mode()
def save(prompt: dict | None = None, **inputs: object) -> io.NodeOutput:
    """What the node gives and reports; it is "1" of `prompt`."""
    hidden = {io.Hidden.prompt: prompt or {}, io.Hidden.unique_id: "1", io.Hidden.extra_pnginfo: None}
    node = SaveVideoStreaming.PREPARE_CLASS_CLONE({"hidden_inputs": hidden})
    return node.execute(**{"filename_prefix": "saved", "speed": "fastest"} | inputs)
