"""ComfyUI's own templates of LTX-2.3 and MiniMax H3, swapped by the command line and run with small models.

The editor makes the prompt of the swapped file, as for a user. Changed are size, length and number of steps, and for
LTX the prompt is not written anew by Gemma: see small/ and audio_video.py for what stands in for the models.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import sync_playwright

from ..frontend.conftest import CHROMIUM_FLAGS, Editor, greet_nobody
from .conftest import REPO, compare
from .sampling import add, only, saved_file
from .sound import assert_in_step


@pytest.fixture(scope="module")
def exported(server, tmp_path_factory) -> Iterator[Callable[[str], dict]]:
    """The prompt of a template after the swap, by its name."""
    greet_nobody(server)
    folder = tmp_path_factory.mktemp("templates")
    templates = Path(importlib.metadata.distribution("comfyui-workflow-templates-json").locate_file(""))
    templates = templates / "comfyui_workflow_templates_json" / "templates"
    with sync_playwright() as playwright:
        chromium = os.environ.get("CHROMIUM_PATH", "/usr/bin/chromium")
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        editor = Editor.open(browser, server.url)

        def export(name: str) -> dict:
            swapped = folder / f"{name}.json"
            command = [sys.executable, "-m", "automation", "swap", templates / f"{name}.json", swapped]
            subprocess.run([*command, "--savers"], cwd=REPO, check=True)
            editor.page.evaluate("graph => app.loadGraphData(graph)", json.loads(swapped.read_text()))
            return editor.exported()["output"]

        yield export
        browser.close()


def saved(server, prompt: dict, sound: str, frames: int, fps: int, rate: int) -> None:
    """Run a prompt and look at the file: its pictures, and its sound beside what the node `sound` gave."""
    saver, decode = only(prompt, "SaveVideoStreaming"), only(prompt, "AsyncVAEDecodeToVideo")
    assert prompt[decode]["inputs"]["audio"] == [sound, 0]
    add(prompt, "sound", "AFPTestDumpAudio", audio=[sound, 0], name="sound")
    path = saved_file(server, server.run(prompt)["outputs"], saver)
    facts = compare.facts(str(path))
    assert (facts["frames"], facts["fps"]) == (frames, fps)
    assert_in_step(path, np.load(server.base / "sound.npy"), rate, seconds=frames / fps)


def test_the_sound_of_ltx_is_in_step(server, exported):
    prompt = exported("video_ltx2_3_t2v")
    values = {node["_meta"]["title"]: node["inputs"] for node in prompt.values()}
    values["Width"]["value"] = values["Height"]["value"] = 128
    values["Duration"]["value"] = 2
    values["Boolean (Enable Prompt Enhance)"]["value"] = False
    saved(server, prompt, only(prompt, "LTXVAudioVAEDecode"), frames=49, fps=25, rate=48000)


def test_the_sound_of_minimax_is_in_step(server, exported):
    prompt = exported("video_minimax_h3_t2v")
    prompt[only(prompt, "MiniMaxH3ImageToVideo")]["inputs"] |= {"width": 64, "height": 64}
    prompt[only(prompt, "PrimitiveFloat")]["inputs"]["value"] = 2
    prompt[only(prompt, "BasicScheduler")]["inputs"]["steps"] = 2
    saved(server, prompt, only(prompt, "VAEDecodeAudio"), frames=56, fps=24, rate=32000)
