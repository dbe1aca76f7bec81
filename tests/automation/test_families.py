"""Which VAE a decode gets and what is won with it, in files, in prompts and in the browser alike."""

from __future__ import annotations

import json

import pytest
from async_frame_pipeline.automation import swap
from async_frame_pipeline.automation.rules import DECODES, REASONS

from ..conftest import ROOT
from .graphs import as_json, node, workflow
from .node import swap_in_node

LTX, LTX_091 = "ltx-2.3-22b-dev-fp8.safetensors", "ltx-video-2b-v0.9.1.safetensors"
HUNYUAN, MOCHI, WAN = "hunyuan_video_vae_bf16.safetensors", "mochi_vae.safetensors", "wan_2.1_vae.safetensors"
MINE = "mine.safetensors"
NOTHING = "nothing"


def in_tiles(file: str, values: list, **more: dict) -> dict:
    """A workflow whose decode in tiles gets its VAE from a file, by a node that changes it."""
    names = DECODES["VAEDecodeTiled"]["widgets"]
    slots = " ".join(["samples:LATENT vae:VAE", *(f"[{name}:INT]" for name in names)])
    made = workflow({1: "EmptyLatent", 2: "VAELoader", 9: "PreviewImage", 10: "SaveWEBM"}, "")
    patch = node(3, "PatchVAE", inputs="vae:VAE", outputs="VAE:VAE", **more.get("patch", {}))
    decode = node(8, "VAEDecodeTiled", inputs=slots, outputs="IMAGE:IMAGE", widgets_values=values)
    made["nodes"] += [patch, decode]
    by_id = {each["id"]: each for each in made["nodes"]}
    by_id[2]["widgets_values"] = [file]
    made["links"] = [
        [1, 1, 0, 8, 0, "LATENT"],
        [2, 2, 0, 3, 0, "VAE"],
        [3, 3, 0, 8, 1, "VAE"],
        [4, 8, 0, 9, 0, "IMAGE"],
        [5, 8, 0, 10, 0, "IMAGE"],
        *more.get("links", []),
    ]
    for id, origin, slot, target, at, _ in made["links"]:
        output = by_id[origin]["outputs"][slot]
        output["links"] = [*(output["links"] or []), id]
        if at < len(by_id[target]["inputs"]):
            by_id[target]["inputs"][at]["link"] = id
    return made


def as_prompt(file: str, values: list, **more: dict) -> dict:
    """The same as a prompt."""
    tiles = dict(zip(DECODES["VAEDecodeTiled"]["widgets"], values))
    named = more.get("patch", {}).get("widgets_values", [])
    return {
        "1": {"class_type": "EmptyLatent", "inputs": {}},
        "2": {"class_type": "VAELoader", "inputs": {"vae_name": file}},
        "3": {"class_type": "PatchVAE", "inputs": {"vae": ["2", 0], **dict(zip(["with"], named))}},
        "8": {"class_type": "VAEDecodeTiled", "inputs": {"samples": ["1", 0], "vae": ["3", 0], **tiles}},
        "10": {"class_type": "SaveWEBM", "inputs": {"images": ["8", 0]}},
    }


CASES = {
    "a whole video in tiles": (LTX, [768, 64, 4096, 4], "same", {}, "side_by_side", "LTX"),
    "a whole video in small tiles": (HUNYUAN, [256, 64, 4096, 8], "auto", {}, "side_by_side", "HunyuanVideo"),
    "rows of tiles": (HUNYUAN, [256, 64, 64, 8], "auto", {}, "in_tiles", "HunyuanVideo"),
    "a VAE that streams in rows only": (MOCHI, [256, 64, 64, 8], "auto", {}, "in_tiles", "Mochi"),
    "its rows as long as a video may be": (MOCHI, [256, 64, 72, 8], "auto", {}, NOTHING, "Mochi"),
    "LTX 0.9.1 in rows": (LTX_091, [512, 64, 64, 8], "auto", {}, "in_tiles", "LTX"),
    "LTX 0.9.1 in tiles as long as the video": (LTX_091, [512, 64, 4096, 8], "auto", {}, NOTHING, "LTX"),
    "LTX 0.9.1 in tiles that save no memory": (LTX_091, [768, 64, 4096, 8], "auto", {}, "without_tiles", "LTX"),
    "text that is a number": (LTX, ["768", "64", "4096", "4"], "auto", {}, "without_tiles", "LTX"),
    "text that is a small number": (LTX, ["512", 64, " 64 ", 4], "auto", {}, "in_tiles", "LTX"),
    "no number": (LTX, [None, 64, 4096, 4], "auto", {}, "side_by_side", "LTX"),
    "text that is no number": (LTX, ["large", 64, 4096, 4], "auto", {}, "side_by_side", "LTX"),
    "no text either": (LTX, [768, 64, "", 4], "auto", {}, "side_by_side", "LTX"),
    "neither one nor the other": (LTX, [True, 64, [4096], 4], "auto", {}, "side_by_side", "LTX"),
    "rows of no known length": (MOCHI, [256, 64, None, 8], "auto", {}, NOTHING, "Mochi"),
    "without the tiles of a streamed VAE": (
        HUNYUAN,
        [256, 64, 64, 8],
        "without",
        {},
        "untiled_streamed",
        "HunyuanVideo",
    ),
    "without the tiles of Wan": (WAN, [256, 64, 64, 8], "without", {}, "fits", "Wan 2.1"),
    "without tiles that save no memory": (LTX, [768, 64, 128, 8], "without", {}, "without_tiles", "LTX"),
    "without the tiles of a late VAE": (MOCHI, [256, 64, 64, 8], "without", {}, "untiled_late", "Mochi"),
    "without the tiles of an unknown VAE": (MINE, [256, 64, 64, 8], "without", {}, "untiled_unknown", ""),
    "tiles of a decoder that fits itself into what is free": (WAN, [256, 64, 64, 8], "auto", {}, "fits", "Wan 2.1"),
    "they are kept when that is asked for": (WAN, [256, 64, 64, 8], "same", {}, "in_tiles", "Wan 2.1"),
    "a link to an input that is not there": (
        WAN,
        [256, 64, 64, 8],
        "auto",
        {"links": [[6, 2, 0, 3, 7, "VAE"]]},
        "fits",
        "Wan 2.1",
    ),
    "a file that a node on the way names": (
        WAN,
        [256, 64, 64, 8],
        "auto",
        {"patch": {"widgets_values": [HUNYUAN]}},
        "fits",
        "Wan 2.1",
    ),
}


@pytest.mark.parametrize("make", [in_tiles, as_prompt])
@pytest.mark.parametrize("name", CASES)
def test_what_is_won(name: str, make):
    file, values, tiles, more, won, vae = CASES[name]
    [change] = [each for each in swap(make(file, values, **more), tiles=tiles)[1] if each.before[0] in DECODES]
    if won == NOTHING:
        assert change.reason == REASONS["nothing_won"].replace("%name%", vae)
    else:
        assert (change.reason, change.won, change.vae) == ("", won, vae)


def test_in_the_browser_too():
    jobs = [
        {"workflow": in_tiles(file, values, **more), "tiles": how} for file, values, how, more, *_ in CASES.values()
    ]
    for name, job, done in zip(CASES, jobs, swap_in_node(jobs), strict=True):
        after, changes = swap(job["workflow"], tiles=job["tiles"])
        assert "error" not in done, (name, done)
        assert done["changes"] == as_json(changes), name
        assert (done["after"] or job["workflow"]) == after, name


DEMOS = ["Demo.json", "Demo with stock nodes.json", "api/demo.json", "api/demo_stock.json"]


@pytest.mark.parametrize("name", DEMOS)
def test_the_demo_whose_vae_comes_with_the_pack_goes_elsewhere(name: str):
    """Which VAE the node gives stands in no file's name."""
    demo = json.loads((ROOT / "workflows" / name).read_text(encoding="utf-8"))
    after, changes = swap(demo, elsewhere=True)
    assert [(each.won, each.vae, each.reason) for each in changes] == [("elsewhere", "Wan 2.1", "")]
    if "nodes" in demo:
        [done] = swap_in_node([{"workflow": demo, "elsewhere": True}])
        assert done == {"after": after, "changes": as_json(changes)}
