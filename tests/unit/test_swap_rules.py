"""The rules of the swap against the nodes and the families that they speak of."""

import asyncio

import pytest

from . import in_comfyui  # noqa: F401

from async_frame_pipeline.automation.families import family_of
from async_frame_pipeline.automation.rules import (
    CREATE_VIDEO,
    DECODE_INPUTS,
    DECODES,
    DEFAULTS,
    ELSEWHERE,
    FAMILIES,
    LAYOUT,
    OUR_SAVER,
    OURS,
)
from async_frame_pipeline.nodes import AsyncFramePipelineExtension, families
from async_frame_pipeline.nodes.families.wan import Fast
from async_frame_pipeline.nodes.families.ways import Late
from async_frame_pipeline.pipeline.decoders.families import FAMILIES as STREAMED
from async_frame_pipeline.pipeline.decoders.families import late
from comfy_api.latest import io

from ..automation.templates import COUNTED_VERSIONS, OPTIONS, graphs_of, swapped_templates

NODES = asyncio.run(AsyncFramePipelineExtension().get_node_list())
SCHEMAS = {node.define_schema().node_id: node.define_schema() for node in NODES}
# Families that are known by files alone: to a ComfyUI's nodes they are OTHER.
BY_FILES_ALONE = {"LTX-2.5", "Mochi", "Cosmos", "Stable Video Diffusion"}


def inputs_of(kind: str) -> dict:
    return {each.id: each for each in SCHEMAS[kind].inputs}


@pytest.mark.parametrize("kind", OURS)
def test_ours_are_as_the_rules_have_them(kind: str):
    inputs, known = inputs_of(kind), [*DECODE_INPUTS, *OURS[kind]["widgets"], "audio"]
    assert inputs.keys() <= set(known)
    assert [name for name in inputs if name in DEFAULTS] == OURS[kind]["widgets"]
    for name in OURS[kind]["widgets"]:
        assert name == "fps" or inputs[name].default == DEFAULTS[name], name


def test_what_decodes_elsewhere_is_as_the_rules_have_it():
    inputs, widgets = inputs_of(ELSEWHERE["type"]), ELSEWHERE["widgets"]
    assert inputs.keys() == {*ELSEWHERE["inputs"], *widgets} and [*widgets] == [
        name for name in inputs if name in widgets
    ]
    assert {name: inputs[name].default for name in widgets} == widgets
    assert ELSEWHERE["families"] == [each.name for each in (*STREAMED, *late.FAMILIES)]
    # Of what is not in the rules nothing is lost: it is of a run on this machine, or of images.
    here = {"save_latents_first", "alpha", "keep_unfinished", "preview"}
    known = {*ELSEWHERE["of_decode"], *ELSEWHERE["of_saver"]}
    assert {*OURS[ELSEWHERE["decode"]]["widgets"], *OUR_SAVER["widgets"]} - known == here
    for rules in (ELSEWHERE["of_decode"], ELSEWHERE["of_saver"]):
        for rule in rules.values():
            for name, value in [pair for made in rule.get("is", {}).values() for pair in made.items()]:
                assert value in inputs[name].options


@pytest.mark.parametrize("kind", DECODES)
def test_stock_decodes_are_as_the_rules_have_them(kind: str):
    import nodes as stock

    required = stock.NODE_CLASS_MAPPINGS[kind].INPUT_TYPES()["required"]
    assert list(required) == [*DECODE_INPUTS, *DECODES[kind]["widgets"]]
    assert all(required[name][1]["default"] == DEFAULTS[name] for name in DECODES[kind]["widgets"])


def test_the_rules_know_every_family():
    assert {family["name"] for family in FAMILIES} == {each.name for each in families.FAMILIES} | BY_FILES_ALONE


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family["name"])
def test_what_is_won_is_what_the_family_does(family: dict):
    found = [each for each in families.FAMILIES if each.name == family["name"]]
    first = found[0].ways[0] if found else families.OTHER.ways[0]
    assert family["won"] == ("late" if isinstance(first, Late) else "streamed")
    assert family.get("fits", False) == isinstance(first, Fast)


@pytest.mark.parametrize("kind", [decode["pair"] for decode in DECODES.values()])
def test_there_is_room_for_a_pairs_inputs_and_widgets(kind: str):
    widgets = [each for each in inputs_of(kind).values() if isinstance(each, io.WidgetInput) and not each.advanced]
    sockets = [each for each in inputs_of(kind).values() if not isinstance(each, io.WidgetInput)]
    # As the editor reckons: 20 a socket, 24 a widget, 14 around them.
    assert LAYOUT["pair_height"][kind] >= 20 * len(sockets) + 24 * len(widgets) + 14


@pytest.mark.parametrize(
    "file, name",
    [
        ("wan_2.1_vae.safetensors", "Wan 2.1"),
        ("Wan2_1_VAE_bf16.safetensors", "Wan 2.1"),
        ("wan_alpha_2.1_vae_rgb_channel.safetensors", "Wan 2.1"),
        ("wan2.2-rapid-mega-aio-v10.safetensors", "Wan 2.1"),
        ("wan2.2_vae.safetensors", "Wan 2.2"),
        ("wan\\Wan2_2_VAE_bf16.safetensors", "Wan 2.2"),
        ("wan2.2_ti2v_5B_AIO.safetensors", "Wan 2.2"),
        ("ltx-video-2b-v0.9.5.safetensors", "LTX"),
        ("ltxv-13b-0.9.7-dev.safetensors", "LTX"),
        ("video/LTX2_video_vae_bf16.safetensors", "LTX"),
        ("ltx-2.3-22b-dev-fp8.safetensors", "LTX"),
        ("ltx-2.5-video-vae-bf16.safetensors", "LTX-2.5"),
        ("LTX25_video_vae.safetensors", "LTX-2.5"),
        ("ltx-2-5b-distilled.safetensors", "LTX"),
        ("ltx_25fps.safetensors", "LTX"),
        ("LTX2_512_lora.safetensors", "LTX"),
        ("hunyuan_video_vae_bf16.safetensors", "HunyuanVideo"),
        ("hunyuanvideo15_vae_fp16.safetensors", "HunyuanVideo 1.5"),
        ("minimax_h3_video_vae_int8_convrot.safetensors", "MiniMax H3"),
        ("cogvideox_vae.safetensors", "CogVideoX"),
        ("seedvr2_ema_vae_fp16.safetensors", "SeedVR2"),
        ("taehv", "TAEHV"),
        ("taew2_1.pth", "TAEHV"),
        ("lighttaehy1_5.safetensors", "TAEHV"),
        ("taeltx_2.safetensors", "TAEHV"),
        ("mochi_vae.safetensors", "Mochi"),
        ("cosmos_cv8x8x8_1.0.safetensors", "Cosmos"),
        ("svd_xt.safetensors", "Stable Video Diffusion"),
        ("video/svd.safetensors", "Stable Video Diffusion"),
        ("svdq-int4_r32-flux.1-dev.safetensors", None),
        ("flux_svd_lora.safetensors", None),
        ("Wan2.1_VAE_upscale2x_imageonly_real_v1.safetensors", None),
        ("wan2.2_vae_upscale2x.safetensors", None),
        ("upscale_vae_wan2.2.safetensors", None),
        ("vae-ft-mse-840000-ema-pruned.safetensors", None),
        ("hunyuan_image_2.1_vae_fp16.safetensors", None),
        ("qwen_image_vae.safetensors", None),
        ("swan_lake.safetensors", None),
        ("ae.safetensors", None),
        ("taesd", None),
        ("a wan prompt", None),
    ],
)
def test_a_file_tells_its_family(file: str, name: str | None):
    family = family_of([file])
    assert (family["name"] if family else None) == name


@pytest.mark.parametrize("which", COUNTED_VERSIONS)
@pytest.mark.parametrize("how", OPTIONS)
def test_what_swapped_templates_are_set_to_is_what_the_nodes_take(which: str, how: str):
    checked = 0
    for name, (after, changes) in swapped_templates(which, how).items():
        swapped = {(change.graph, id) for change in changes if change.after for id in change.nodes}
        for graph in graphs_of(after):
            for node in graph["nodes"]:
                if (None if graph is after else graph["id"], node["id"]) not in swapped or node["type"] not in OURS:
                    continue
                names, inputs = OURS[node["type"]]["widgets"], inputs_of(node["type"])
                assert len(node["widgets_values"]) == len(names), name
                for widget, value in zip(names, node["widgets_values"]):
                    assert is_taken(inputs[widget], value), (name, widget, value)
                assert {slot["name"] for slot in node["inputs"]} <= inputs.keys(), name
                linked = {slot["name"] for slot in node["inputs"] if slot.get("link") is not None}
                assert linked >= set(DECODE_INPUTS), name
                checked += 1
    assert checked > 80


def is_taken(entry, value) -> bool:
    """Whether a widget of this schema takes a value."""
    if getattr(entry, "options", None):
        return value in entry.options
    if isinstance(entry.default, bool):
        return isinstance(value, bool)
    return isinstance(value, (int, float)) and entry.min <= value <= entry.max


def test_a_create_video_is_as_the_rules_have_it():
    from comfy_extras.nodes_video import CreateVideo

    names = [each.id for each in CreateVideo.define_schema().inputs]
    assert set(names) == {CREATE_VIDEO["frames"], *CREATE_VIDEO["inputs"]}
    widgets = [name for name in names if name in DEFAULTS]
    assert widgets == CREATE_VIDEO["widgets"][: len(widgets)], "newer ones have more"
