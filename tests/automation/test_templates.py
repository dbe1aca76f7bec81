"""The swap over every official workflow template: those that the host comes with, and the newest."""

from __future__ import annotations

import collections
import json
from pathlib import Path

import pytest
from async_frame_pipeline.automation import swap
from async_frame_pipeline.automation.rules import REASONS, WON

from .graphs import as_json, flaws, written
from .node import swap_in_node
from .templates import (
    COUNTED_VERSIONS,
    OPTIONS,
    graphs_of,
    is_counted_version,
    is_run,
    node_types,
    official_templates,
    swapped_templates,
    template_files,
    version_of,
)

REPO = Path(__file__).resolve().parent.parent.parent
# Of decodes towards a video that are run: how many there are.
DECODES_OF_VIDEOS = {"pinned": 78, "newest": 88}
# And those of them that do not stream.
LEFT = {
    ("txt_to_image_to_video", "late", "Stable Video Diffusion"),
    ("utility_seedvr2_3b_int8_upscale_video", "", ""),
}
STREAMED = {"streamed", "in_tiles", "side_by_side", "without_tiles", "fits", "untiled_streamed"}

whichever = pytest.mark.parametrize("which", COUNTED_VERSIONS)
however = pytest.mark.parametrize("how", OPTIONS)


@whichever
@however
def test_every_template_comes_back_as_it_was(which: str, how: str):
    for name, template in official_templates(which).items():
        after, _ = swapped_templates(which, how)[name]
        restored, _ = swap(after, reverse=True)
        assert json.dumps(restored) == json.dumps(template), name
        for graph, graph_before in zip(graphs_of(after), graphs_of(template)):
            # Some templates are flawed as they come.
            assert set(flaws(graph)) <= set(flaws(graph_before)), name


@whichever
@however
def test_the_browser_makes_the_same_of_every_template(which: str, how: str):
    there = swap_in_node([{"file": str(file), **OPTIONS[how]} for file in template_files(which).values()])
    changed = [name for name, done in zip(template_files(which), there, strict=True) if done["after"]]
    swapped = swapped_templates(which, how)
    back = swap_in_node([{"workflow": swapped[name][0], "reverse": True} for name in changed])
    for (name, template), done in zip(official_templates(which).items(), there, strict=True):
        after, changes = swapped[name]
        assert (done["after"] is None) == (after is template), name
        assert after is template or written(done["after"]) == written(after), name
        assert done["changes"] == as_json(changes), name
    for name, done in zip(changed, back, strict=True):
        assert written(done["after"]) == written(official_templates(which)[name]), name
    assert changed


@whichever
def test_only_the_decodes_change(which: str):
    for name, (after, changes) in swapped_templates(which).items():
        gone = sum(len(change.nodes) for change in changes if change.after)
        before = [json.dumps(node) for graph in graphs_of(official_templates(which)[name]) for node in graph["nodes"]]
        left = collections.Counter(json.dumps(node) for graph in graphs_of(after) for node in graph["nodes"])
        assert len(before) - gone == (left & collections.Counter(before)).total(), name


@whichever
def test_nearly_all_decodes_of_videos_are_streamed(which: str, capsys: pytest.CaptureFixture):
    templates = official_templates(which)
    decodes = [
        (name, change)
        for name, (_, changes) in swapped_templates(which).items()
        for change in changes
        if change.reason != REASONS["not_a_video"] and is_run(templates[name], change.graph, change.nodes[0])
    ]
    left = [(name, change) for name, change in decodes if change.won not in STREAMED]
    count = f"{len(decodes) - len(left)} of {len(decodes)}"
    by_family = collections.Counter((change.vae, change.won) for _, change in decodes if change.won in STREAMED)
    with capsys.disabled():
        print(f"\nofficial templates, {which} ({version_of(which)}): {count} decodes of videos are streamed")
        for (vae, won), number in sorted(by_family.items()):
            print(f"  {number:3} {WON[won].replace('%name%', vae)}")
        for name, change in left:
            print(f"  not: {name}: {change}")
    assert len(decodes) - len(left) >= 0.97 * len(decodes)
    if not is_counted_version(which):
        pytest.skip(f"the numbers are of {COUNTED_VERSIONS[which]}")
    assert len(decodes) == DECODES_OF_VIDEOS[which]
    assert {(name, change.won, change.vae) for name, change in left} == LEFT
    if which == "newest":
        streamed = len(decodes) - len(left)
        told = f"Of the {len(decodes)} decodes of videos in ComfyUI's official templates, {streamed} stream"
        assert told in (REPO / "README.md").read_text(encoding="utf-8")


def test_what_becomes_of_them():
    if not is_counted_version():
        pytest.skip("this ComfyUI comes with other templates")
    changes = {name: changes for name, (_, changes) in swapped_templates().items()}
    assert len(changes) == 493
    assert sum(any(change.after for change in each) for each in changes.values()) == 66
    done = collections.Counter(change.after for each in changes.values() for change in each if change.after)
    assert done == {
        ("AsyncVAEDecodeToVideo",): 55,
        ("AsyncVAEDecodeTiledToVideo",): 8,
        ("AsyncVAEDecodeVideo",): 23,
    }
    reasons = collections.Counter(change.reason for each in changes.values() for change in each if change.reason)
    assert reasons == {
        "its frames do not go into a video": 167,
        'nothing would be won with the VAE of "SeedVR2" in these tiles': 1,
    }


def test_our_own_workflows_can_do_without_us():
    for file in sorted((REPO / "workflows").glob("*.json")):
        restored, _ = swap(json.loads(file.read_text(encoding="utf-8")), reverse=True)
        assert not any(type.startswith("AsyncVAE") for type in node_types(restored)), file.name
        assert [flaws(graph) for graph in graphs_of(restored)] == [[] for graph in graphs_of(restored)], file.name
    for file in sorted((REPO / "workflows" / "api").glob("*.json")):
        restored, _ = swap(json.loads(file.read_text(encoding="utf-8")), reverse=True)
        assert not any(node["class_type"].startswith("AsyncVAE") for node in restored.values()), file.name
