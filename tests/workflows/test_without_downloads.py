"""The workflow that needs no model, and that test_demo_run.py does not run:
as it is, but for the clip's length and size.
"""

from __future__ import annotations

import json

from .conftest import REPO, compare


def test_demo_upscale_saves_both_videos(server):
    prompt = json.loads((REPO / "workflows" / "api" / "demo_upscale.json").read_text())
    # All 33 frames at their size take a CPU a minute.
    prompt["cropped"] = {
        "class_type": "AFPTestCropLatent",
        "inputs": {"samples": ["1", 0], "latent_frames": 3, "height": 16, "width": 24},
    }
    assert prompt["2"]["inputs"]["samples"] == ["1", 0]
    prompt["2"]["inputs"]["samples"] = ["cropped", 0]
    outputs = server.run(prompt)["outputs"]
    sizes = {}
    for file in [file for output in outputs.values() for file in output.get("images", [])]:
        facts = compare.facts(str(server.output_dir / file["subfolder"] / file["filename"]))
        sizes[file["filename"]] = [facts[name] for name in ("frames", "width", "height", "fps")]
    assert sizes == {
        "async_demo_plain_00001_.mp4": [9, 192, 128, 16],
        "async_demo_large_00001_.mp4": [9, 384, 256, 16],
    }
