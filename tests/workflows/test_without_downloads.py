"""The workflow that needs no model, and that test_demo_run.py does not run: run as it is."""

from __future__ import annotations

import json

from .conftest import REPO, compare


def test_demo_upscale_saves_both_videos(server):
    prompt = json.loads((REPO / "workflows" / "api" / "demo_upscale.json").read_text())
    outputs = server.run(prompt)["outputs"]
    sizes = {}
    for output in outputs.values():
        [file] = output["images"]
        facts = compare.facts(str(server.output_dir / file["subfolder"] / file["filename"]))
        sizes[file["filename"]] = [facts[name] for name in ("frames", "width", "height", "fps")]
    assert sizes == {
        "async_demo_plain_00001_.mp4": [33, 480, 272, 16],
        "async_demo_large_00001_.mp4": [33, 960, 544, 16],
    }
