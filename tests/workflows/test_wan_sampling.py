"""The bundled Wan workflows, run in full: text encoder, LoRAs, both samplers, decode and save.

The server's models are small and random, but of the real architectures and under the names and in the folders that
the workflows give them (stand_ins.py). So the prompts are the bundled ones word for word, except for the size of
the video and that its frames are kept, to compare them.
"""

from __future__ import annotations

import re

import numpy as np
import pytest

from .conftest import compare
from .sampling import MIN_PSNR_DB, add, bundled, only, psnr, resized, saved_file

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
# The workflows decode by `auto`, which is fast. Of frames in [0, 1]: on a CPU both decoders sum the same products in
# float32, in another order; measured: 3e-6.
CLOSE = 2e-5


def add_comparison(prompt: dict, decode: dict, images: list) -> None:
    """Decode the same latent by the stock node, compare with `images`, and write the stock frames to stock.npy."""
    add(prompt, "stock", "VAEDecode", **{name: decode["inputs"][name] for name in ("samples", "vae")})
    add(prompt, "compare", "AFPTestCompareImages", a=images, b=["stock", 0])
    add(prompt, "dump", "AFPTestDumpImages", images=["stock", 0], name="stock")


def assert_close_to_stock(outputs: dict) -> None:
    [comparison] = outputs["compare"]["comparison"]
    assert comparison["max_difference"] < CLOSE, comparison
    assert not comparison["has_nan"] and comparison["distinct_values"] > 1000, "the pictures show nothing"


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
