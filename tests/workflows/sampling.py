"""Bundled prompts made smaller, and what they saved."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from .conftest import REPO, compare, host

API = REPO / "workflows" / "api"
# Between a saved file and the frames that went into it, over means of blocks: the stand-ins' pictures are noise from
# pixel to pixel, which neither x264 nor colours at half the resolution can keep.
BLOCK = 8
MIN_PSNR_DB = 35  # measured: 41; with every frame shown one place too late: 18 to 25


def bundled(name: str) -> dict:
    return json.loads((API / f"{name}.json").read_text())


def resized(prompt: dict, frames: int, size: tuple[int, int]) -> dict:
    """The prompt for a smaller video: the only change to the bundled ones."""
    changes = dict(zip(("width", "height", "length"), (*size, frames)))
    latents = [node["inputs"] for node in prompt.values() if "length" in node["inputs"]]
    assert len(latents) == 1, "one node makes the empty latent"
    latents[0].update(changes)
    return prompt


def only(prompt: dict, class_type: str) -> str:
    """The id of the only node of this type."""
    [node_id] = [node_id for node_id, node in prompt.items() if node["class_type"] == class_type]
    return node_id


def add(prompt: dict, node_id: str, class_type: str, **inputs: object) -> None:
    prompt[node_id] = {"class_type": class_type, "inputs": inputs}


def saved_file(server: host.Server, outputs: dict, saver: str) -> Path:
    [file] = outputs[saver]["images"]
    return server.output_dir / file["subfolder"] / file["filename"]


def psnr(path: Path, frames_thwc: np.ndarray) -> float:
    """Of a file's pictures against frames in [0, 1], in dB, over means of blocks."""
    shown = np.stack(list(compare.frames_rgb(str(path)))) / 255
    assert shown.shape == frames_thwc.shape
    blocks = (shown - frames_thwc).reshape(len(shown), shown.shape[1] // BLOCK, BLOCK, -1, BLOCK, 3).mean(axis=(2, 4))
    return -10 * np.log10(np.mean(np.square(blocks)))
