"""The bundled workflows of LTX-2.3 and HunyuanVideo 1.5, run in full: text encoders, samplers, decodes and save.

As those of Wan in test_wan_sampling.py. What stands in for the models is small and random, of the real architectures;
text encoders, of which ComfyUI has one size, and HunyuanVideo's VAE are made small in the server by small/.
"""

from __future__ import annotations

import re

import numpy as np
import pytest

from .conftest import compare
from .sampling import MIN_PSNR_DB, add, bundled, only, psnr, saved_file
from .sound import assert_in_step, sound_of


def sampled(server, prompt: dict) -> tuple[dict, str]:
    """The outputs of a prompt whose decode is compared with the stock one, and what the log says of it."""
    decode = prompt[only(prompt, "AsyncVAEDecodeToVideo")]["inputs"]
    saver = only(prompt, "SaveVideoStreaming")
    prompt[saver]["inputs"]["keep_frames"] = True
    add(prompt, "stock", "VAEDecode", samples=decode["samples"], vae=decode["vae"])
    add(prompt, "compare", "AFPTestCompareImages", a=["stock", 0], b=[saver, 1])
    add(prompt, "dump", "AFPTestDumpImages", images=["stock", 0], name="stock")
    before = len(server.log_text())
    outputs = server.run(prompt)["outputs"]
    log = server.log_text()[before:]
    assert "key not loaded" not in log and "unet missing" not in log and "clip missing" not in log, log
    [comparison] = outputs["compare"]["comparison"]
    assert comparison["equal"] and not comparison["has_nan"] and comparison["distinct_values"] > 1000, comparison
    return outputs, log


def test_ltx_samples_decodes_and_saves_picture_and_sound(server):
    prompt = bundled("ltx2.3_t2v")
    length, size = only(prompt, "PrimitiveInt"), prompt[only(prompt, "EmptyLTXVLatentVideo")]["inputs"]
    prompt[length]["inputs"]["value"] = 54  # 49 pictures: as in the workflow, the sound is cut to them
    size |= {"width": 64, "height": 64}
    sound = prompt[only(prompt, "AsyncVAEDecodeToVideo")]["inputs"]["audio"]
    add(prompt, "sound", "AFPTestDumpAudio", audio=sound, name="sound")
    outputs, log = sampled(server, prompt)
    assert {"LTXAV", "LTXAVTEModel_"} <= set(re.findall(r"Requested to load (\w+)", server.log_text()))
    assert "exact LTX decode" in log, log

    path = saved_file(server, outputs, only(prompt, "SaveVideoStreaming"))
    assert path.name.startswith("ltx2.3_t2v_")
    facts = compare.facts(str(path))
    assert (facts["frames"], facts["width"], facts["height"], facts["fps"]) == (49, 128, 128, 25)
    assert psnr(path, np.load(server.base / "stock.npy")) > MIN_PSNR_DB
    assert_in_step(path, np.load(server.base / "sound.npy"), 48000, seconds=49 / 25)


def test_hunyuan_samples_decodes_and_saves(server):
    prompt = bundled("hunyuan1.5_t2v")
    prompt[only(prompt, "EmptyHunyuanVideo15Latent")]["inputs"] |= {"width": 96, "height": 64, "length": 17}
    outputs, log = sampled(server, prompt)
    assert {"HunyuanVideo15", "QwenImageTEModel_"} <= set(re.findall(r"Requested to load (\w+)", server.log_text()))
    assert "exact HunyuanVideo 1.5 decode" in log, log

    path = saved_file(server, outputs, only(prompt, "SaveVideoStreaming"))
    assert path.name.startswith("hunyuan1.5_t2v_")
    facts = compare.facts(str(path))
    assert (facts["frames"], facts["width"], facts["height"], facts["fps"]) == (17, 96, 64, 24)
    assert psnr(path, np.load(server.base / "stock.npy")) > MIN_PSNR_DB
    with pytest.raises(LookupError):
        sound_of(path)
