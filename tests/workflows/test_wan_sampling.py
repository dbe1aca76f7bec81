"""The bundled Wan workflows, run in full: text encoder, LoRAs, both samplers, decode and save.

The server's models are small and random, but of the real architectures and under the names and in the folders that
the workflows give them (stand_ins.py). So the prompts are the bundled ones word for word, except for the size of
the video and that its frames are kept, to compare them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from .conftest import REPO, compare, host

API = REPO / "workflows" / "api"
# Name, frames to sample, (width, height), frames per second, ComfyUI's class of the diffusion model.
# 5B: its VAE is the real one's size, and takes a CPU seconds for each frame.
STRAIGHT_TO_FILE = [
    ("wan2.2_14b_t2v", 13, (96, 64), 16, "WAN21"),
    ("wan2.2_14b_t2v_4step", 13, (96, 64), 16, "WAN21"),
    ("wan2.2_14b_i2v", 13, (96, 64), 16, "WAN21"),
    ("wan2.2_14b_i2v_4step", 13, (96, 64), 16, "WAN21"),
    ("wan2.2_5b_ti2v", 5, (64, 64), 24, "WAN22"),
    ("wan2.2_5b_long", 5, (64, 64), 24, "WAN22"),
]
# Between a saved file and the frames that went into it, over means of blocks: the stand-ins' pictures are noise from
# pixel to pixel, which neither x264 nor colours at half the resolution can keep.
BLOCK = 8
MIN_PSNR_DB = 35  # measured: 41; with every frame shown one place too late: 18 to 25
# The workflows decode by `auto`, which is fast. Of frames in [0, 1]: on a CPU both decoders sum the same products in
# float32, in another order; measured: 3e-6.
CLOSE = 2e-5


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


def add_comparison(prompt: dict, decode: dict, images: list) -> None:
    """Decode the same latent by the stock node, compare with `images`, and write the stock frames to stock.npy."""
    add(prompt, "stock", "VAEDecode", **{name: decode["inputs"][name] for name in ("samples", "vae")})
    add(prompt, "compare", "AFPTestCompareImages", a=images, b=["stock", 0])
    add(prompt, "dump", "AFPTestDumpImages", images=["stock", 0], name="stock")


def assert_close_to_stock(outputs: dict) -> None:
    [comparison] = outputs["compare"]["comparison"]
    assert comparison["max_difference"] < CLOSE, comparison
    assert not comparison["has_nan"] and comparison["distinct_values"] > 1000, "the pictures show nothing"


def saved_file(server: host.Server, outputs: dict, saver: str) -> Path:
    [file] = outputs[saver]["images"]
    return server.output_dir / file["subfolder"] / file["filename"]


def psnr(path: Path, frames_thwc: np.ndarray) -> float:
    """Of a file's pictures against frames in [0, 1], in dB, over means of blocks."""
    shown = np.stack(list(compare.frames_rgb(str(path)))) / 255
    assert shown.shape == frames_thwc.shape
    blocks = (shown - frames_thwc).reshape(len(shown), shown.shape[1] // BLOCK, BLOCK, -1, BLOCK, 3).mean(axis=(2, 4))
    return -10 * np.log10(np.mean(np.square(blocks)))


@pytest.mark.parametrize("name, frames, size, fps, model_class", STRAIGHT_TO_FILE)
def test_a_workflow_samples_decodes_and_saves(server, name, frames, size, fps, model_class):
    prompt = resized(bundled(name), frames, size)
    decode = only(prompt, "AsyncVAEDecodeToVideo")
    saver = only(prompt, "SaveVideoStreaming")
    prompt[saver]["inputs"]["keep_frames"] = True  # one decode less than a node that takes the video apart
    add_comparison(prompt, prompt[decode], [saver, 1])
    before = len(server.log_text())
    outputs = server.run(prompt)["outputs"]
    log = server.log_text()[before:]

    # In the whole log: a model that an earlier test has sampled with may still be loaded.
    assert {model_class, "SAT5Model"} <= set(re.findall(r"Requested to load (\w+)", server.log_text()))
    assert "lora key not loaded" not in log
    version = "2.2" if model_class == "WAN22" else "2.1"
    assert f"fast Wan {version} decode, " in log, log
    assert_close_to_stock(outputs)

    path = saved_file(server, outputs, saver)
    assert path.name.startswith(f"{name}_")
    facts = compare.facts(str(path))
    assert (facts["frames"], facts["width"], facts["height"], facts["fps"]) == (frames, *size, fps)
    assert psnr(path, np.load(server.base / "stock.npy")) > MIN_PSNR_DB


def test_the_smooth_workflow_saves_both_videos(server):
    name, frames, (width, height) = "wan2.2_14b_t2v_4step_smooth", 5, (96, 64)
    prompt = resized(bundled(name), frames, (width, height))
    decode = only(prompt, "AsyncVAEDecodeVideo")
    add_comparison(prompt, prompt[decode], [decode, 0])
    outputs = server.run(prompt)["outputs"]
    assert_close_to_stock(outputs)

    savers = {
        node["inputs"]["filename_prefix"]: key
        for key, node in prompt.items()
        if node["class_type"] == "SaveVideoStreaming"
    }
    plain = saved_file(server, outputs, savers[f"video/{name}_plain"])
    smooth = saved_file(server, outputs, savers[f"video/{name}_smooth"])
    facts = [compare.facts(str(path)) for path in (plain, smooth)]
    assert [(fact["frames"], fact["width"], fact["height"], fact["fps"]) for fact in facts] == [
        (frames, width, height, 16),
        (2 * frames - 1, 2 * width, 2 * height, 32),
    ]
    assert psnr(plain, np.load(server.base / "stock.npy")) > MIN_PSNR_DB
