"""What the workflow files say of themselves: models, where they go, notes. No server needed."""

from __future__ import annotations

import json
import re

import pytest

from .conftest import REPO
from .names import API_FORMS
from .stand_ins import STAND_INS

WORKFLOWS = {path.stem: json.loads(path.read_text()) for path in sorted((REPO / "workflows").glob("*.json"))}
HUGGING_FACE = "https://huggingface.co"
# Most repositories have the folders of models/ in them.
REPOSITORIES = (
    f"{HUGGING_FACE}/Comfy-Org/Wan_2.2_ComfyUI_Repackaged/resolve/main/split_files/%s/",
    f"{HUGGING_FACE}/Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files/%s/",
    f"{HUGGING_FACE}/Comfy-Org/frame_interpolation/resolve/main/%s/",
    f"{HUGGING_FACE}/Comfy-Org/HunyuanVideo_1.5_repackaged/resolve/main/split_files/%s/",
    f"{HUGGING_FACE}/Comfy-Org/ltx-2/resolve/main/split_files/%s/",
    f"{HUGGING_FACE}/Comfy-Org/ltx-2.3/resolve/main/split_files/%s/",
    f"{HUGGING_FACE}/Lightricks/LTX-2.3-fp8/resolve/main/",
    f"{HUGGING_FACE}/Lightricks/LTX-2.3/resolve/main/",
)


def models(workflow: dict) -> list[dict]:
    """Every entry from which the frontend offers a missing model for download."""
    return [model for node in workflow["nodes"] for model in node["properties"].get("models", [])]


def notes(workflow: dict) -> str:
    return "\n".join(node["widgets_values"][0] for node in workflow["nodes"] if node["type"] == "MarkdownNote")


def test_each_workflow_has_its_thumbnail_and_api_form():
    assert {path.stem for path in (REPO / "workflows").glob("*.jpg")} == set(WORKFLOWS)
    assert set(API_FORMS) == set(WORKFLOWS), "the table in docs/workflows.md"
    files = sorted(path.name for path in (REPO / "workflows" / "api").iterdir())
    assert files == sorted(f"{name}.json" for name in API_FORMS.values())


def test_workflows_have_ids_of_their_own():
    # The frontend and the tests tell open workflows apart by it.
    assert len({workflow["id"] for workflow in WORKFLOWS.values()}) == len(WORKFLOWS)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_model_file_can_be_downloaded_into_its_folder(name: str):
    for node in WORKFLOWS[name]["nodes"]:
        values = node.get("widgets_values", []) if node["type"] != "MarkdownNote" else []
        chosen = [value for value in values if str(value).endswith(".safetensors")]
        assert [model["name"] for model in node["properties"].get("models", [])] == chosen, node["type"]
    for model in models(WORKFLOWS[name]):
        folders = [repository.replace("%s", model["directory"]) for repository in REPOSITORIES]
        assert model["url"] in [f"{folder}{model['name']}" for folder in folders]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_the_notes_tell_what_goes_where(name: str):
    text = notes(WORKFLOWS[name])
    assert text, "every workflow explains itself"
    for model in models(WORKFLOWS[name]):
        folder = text.partition(f"**{model['directory']}/**")[2].partition("**")[0]
        assert f"- [{model['name']}]({model['url']})" in folder


@pytest.mark.parametrize("name", WORKFLOWS)
def test_notes_name_templates_that_exist(name: str):
    assert set(re.findall(r"template \*([^*]+)\*", notes(WORKFLOWS[name]))) <= set(WORKFLOWS)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_our_nodes_decode_and_save(name: str):
    types = [node["type"] for node in WORKFLOWS[name]["nodes"]]
    if name == "Demo with stock nodes":  # what the demo is compared with
        assert "SaveVideo" in types
    else:
        assert not {"VAEDecode", "VAEDecodeTiled", "SaveVideo"} & set(types)
        assert {"SaveVideoStreaming", "AsyncSaveVideoElsewhere"} & set(types)


def test_each_model_has_a_stand_in_to_be_tested_with():
    named = {(model["directory"], model["name"]) for workflow in WORKFLOWS.values() for model in models(workflow)}
    assert named == set(STAND_INS)
