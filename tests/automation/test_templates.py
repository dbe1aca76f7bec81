"""The swap over every official workflow template that the host comes with."""

from __future__ import annotations

import collections
import json
from pathlib import Path

import pytest
from async_frame_pipeline.automation import swap

from .graphs import as_json, flaws, written
from .node import swap_in_node
from .templates import (
    graphs_of,
    is_counted_version,
    node_types,
    official_templates,
    swapped_templates,
    template_files,
)

REPO = Path(__file__).resolve().parent.parent.parent
# Templates with a VAE Decode and a video in them, but no VAE Decode on the way to the video.
LEFT_ALONE = {
    "hunyuan_video_text_to_video": "VAE Decode (Tiled) makes the video; the VAE Decode beside it is not connected",
    "templates_ohneis_i2v": "VAE Decode makes the picture that an API node starts its video from",
    "video_ltx2_canny_to_video": "VAE Decode (Tiled) makes the video; the VAE Decode beside it is not connected",
    "video_ltx2_depth_to_video": "VAE Decode (Tiled) makes the video; VAE Decode makes its depth maps",
    "video_ltx2_t2v": "VAE Decode (Tiled) makes the video; the VAE Decode beside it is not connected",
}
SAVERS = {"CreateVideo", "SaveWEBM", "SaveAnimatedWEBP", "SaveVideo"}


both = pytest.mark.parametrize("everything", [False, True])


@both
def test_every_template_comes_back_as_it_was(everything: bool):
    for name, template in official_templates().items():
        after, _ = swapped_templates(everything)[name]
        restored, _ = swap(after, reverse=True)
        assert json.dumps(restored) == json.dumps(template), name
        for graph, graph_before in zip(graphs_of(after), graphs_of(template)):
            # Some templates are flawed as they come.
            assert set(flaws(graph)) <= set(flaws(graph_before)), name


@both
def test_the_browser_makes_the_same_of_every_template(everything: bool):
    there = swap_in_node(
        [
            {"file": str(file), "tiles": tiles, "everything": everything, "savers": everything}
            for file in template_files().values()
        ]
    )
    changed = [name for name, done in zip(template_files(), there, strict=True) if done["after"]]
    back = swap_in_node([{"workflow": swapped_templates(everything)[name][0], "reverse": True} for name in changed])
    for (name, template), done in zip(official_templates().items(), there, strict=True):
        after, changes = swapped_templates(everything)[name]
        assert (done["after"] is None) == (after is template), name
        assert after is template or written(done["after"]) == written(after), name
        assert done["changes"] == as_json(changes), name
    for name, done in zip(changed, back, strict=True):
        assert written(done["after"]) == written(official_templates()[name]), name
    assert changed


def test_only_the_decodes_change():
    for name, (after, changes) in swapped_templates().items():
        gone = sum(len(change.nodes) for change in changes if change.after)
        before = [json.dumps(node) for graph in graphs_of(official_templates()[name]) for node in graph["nodes"]]
        left = collections.Counter(json.dumps(node) for graph in graphs_of(after) for node in graph["nodes"])
        assert len(before) - gone == (left & collections.Counter(before)).total(), name


def test_the_count():
    if not is_counted_version():
        pytest.skip("this ComfyUI comes with other templates")
    templates = official_templates()
    assert len(templates) == 493
    decoding = {
        name
        for name, template in templates.items()
        if "VAEDecode" in node_types(template) and node_types(template) & SAVERS
    }
    assert len(decoding) == 56

    changes = {name: changes for name, (_, changes) in swapped_templates().items()}
    converted = {name for name in templates if any(change.after for change in changes[name])}
    assert converted <= decoding and decoding - converted == LEFT_ALONE.keys()
    assert len(converted) == 51
    assert sum("wan" in name.lower() for name in converted) == 31

    done = collections.Counter(change.after for name in templates for change in changes[name])
    assert done[("AsyncVAEDecodeToVideo",)] == 46 and done[("AsyncVAEDecodeVideo",)] == 23
    reasons = collections.Counter(
        (change.before[0], change.reason) for name in templates for change in changes[name] if change.reason
    )
    assert reasons == {
        ("VAEDecode", "its frames do not go into a video"): 161,
        ("VAEDecodeTiled", "it decodes in tiles, which somebody chose to save memory"): 24,
    }


def test_our_own_workflows_can_do_without_us():
    for file in sorted((REPO / "workflows").glob("*.json")):
        restored, _ = swap(json.loads(file.read_text(encoding="utf-8")), reverse=True)
        assert not any(type.startswith("AsyncVAE") for type in node_types(restored)), file.name
        assert [flaws(graph) for graph in graphs_of(restored)] == [[] for graph in graphs_of(restored)], file.name
    for file in sorted((REPO / "workflows" / "api").glob("*.json")):
        restored, _ = swap(json.loads(file.read_text(encoding="utf-8")), reverse=True)
        assert not any(node["class_type"].startswith("AsyncVAE") for node in restored.values()), file.name
