"""The pack as ComfyUI sees it: nodes, inputs, frontend folder, templates."""

import json
from urllib.parse import quote

import host
import pytest
from async_frame_pipeline.pipeline import VERSION
from graph import skip_if_missing

NOTES = {"Note", "MarkdownNote"}  # exist in the frontend only
NEWER = {"FrameInterpolationModelLoader", "FrameInterpolate"}  # in the templates, not in every ComfyUI supported
NODES = [
    "AsyncVAEDecodeVideo",
    "AsyncVAEDecodeToVideo",
    "AsyncVAEDecodeTiled",
    "AsyncVAEDecodeTiledToVideo",
    "SaveVideoStreaming",
    "SampleVideoLatent",
    "AsyncSaveVideoElsewhere",
    "AsyncDecodeElsewhere",
    "AsyncCollectVideo",
]


@pytest.mark.parametrize("node", NODES)
def test_node_is_registered_and_explains_itself(server, node):
    info = server.get(f"/object_info/{node}")[node]
    assert info["name"] == node
    assert info["display_name"] and info["display_name"] != node
    assert info["description"].endswith(f". (Async Frame Pipeline {VERSION})")
    assert info["category"]
    assert info["search_aliases"]
    shown = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    assert [name for name, (_, options) in shown.items() if not options.get("tooltip")] == []


def test_decode_node_takes_over_the_links_of_the_stock_node(server):
    ours = server.get("/object_info/AsyncVAEDecodeVideo")["AsyncVAEDecodeVideo"]
    stock = server.get("/object_info/VAEDecode")["VAEDecode"]
    assert ours["input_order"]["required"] == stock["input_order"]["required"]
    assert ours["output"] == stock["output"]
    types = {name: spec[0] for name, spec in ours["input"]["required"].items()}
    assert types == {name: spec[0] for name, spec in stock["input"]["required"].items()}


def test_frontend_files_are_served_once(server):
    scripts = [path for path in server.get("/extensions") if host.PACK_NAME in path]
    names = [path.rsplit("/", 1)[-1] for path in scripts]
    assert len(names) == len(set(names)), f"a script is served under two names: {scripts}"


def test_templates_are_offered_and_refer_only_to_nodes_that_exist(server):
    templates = server.get("/workflow_templates")[host.PACK_NAME]
    assert templates
    known = server.get("/object_info")
    for template in templates:
        workflow = server.get(f"/api/workflow_templates/{host.PACK_NAME}/{quote(template)}.json")
        unknown = {node["type"] for node in workflow["nodes"]} - known.keys() - NOTES
        assert unknown <= NEWER, "NEWER says what docs/workflows.md says of older ComfyUIs"
        assert not unknown or server.get("/system_stats")["system"]["comfyui_version"] != "0.30.0"


@pytest.mark.parametrize("path", sorted((host.REPO / "workflows" / "api").glob("*.json")), ids=lambda path: path.stem)
def test_api_workflow_gives_every_input_that_its_nodes_require(server, path):
    for node in json.loads(path.read_text()).values():
        if node["class_type"] in NEWER:
            skip_if_missing(server, node["class_type"])
        info = server.get(f"/object_info/{node['class_type']}")[node["class_type"]]
        assert set(info["input"]["required"]) <= set(node["inputs"])
