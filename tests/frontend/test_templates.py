"""The two demo workflows: found in the template browser, whole, and equal to their API forms."""

from __future__ import annotations

import io
import json
import urllib.request

import pytest
from PIL import Image

from .conftest import PACK_NAME, REPO, Editor, Server

TEMPLATES = ("demo", "demo_stock")


def without_titles(prompt: dict) -> dict:
    """An API prompt without the `_meta` that only people read."""
    return {node_id: {key: node[key] for key in ("class_type", "inputs")} for node_id, node in prompt.items()}


def test_the_server_lists_the_templates_and_nothing_else(server: Server):
    # workflows/api and workflows/sample must not show up as templates.
    assert sorted(server.get("/workflow_templates")[PACK_NAME]) == sorted(TEMPLATES)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_has_a_thumbnail(server: Server, name: str):
    with urllib.request.urlopen(f"{server.url}/api/workflow_templates/{PACK_NAME}/{name}.jpg") as answer:
        assert answer.headers["Content-Type"] == "image/jpeg"
        picture = Image.open(io.BytesIO(answer.read())).convert("RGB")
    assert min(picture.size) >= 256, "too small for the card in the template browser"
    assert all(high - low > 100 for low, high in picture.getextrema()), "the picture is nearly one colour"


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_template_browser_shows_the_thumbnail(editor: Editor, name: str):
    editor.page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    editor.page.get_by_role("dialog").get_by_text(PACK_NAME).click()
    image = editor.page.get_by_test_id(f"template-workflow-{name}").locator("img")
    image.wait_for()
    editor.page.wait_for_function("image => image.naturalWidth > 0", arg=image.element_handle())


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_opens_with_no_missing_node(editor: Editor, name: str):
    editor.open_template(name)
    assert editor.missing_node_types() == []


def test_a_missing_node_would_be_noticed(editor: Editor):
    # The check of the test above, on a graph where it must find something.
    graph = json.loads((REPO / "workflows" / "demo.json").read_text())
    graph["nodes"][0]["type"] = "NoSuchNode"
    editor.page.evaluate("graph => app.loadGraphData(graph)", graph)
    assert editor.missing_node_types() == ["NoSuchNode"]


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_api_form_is_what_the_frontend_queues(editor: Editor, name: str):
    editor.open_template(name)
    api_form = json.loads((REPO / "workflows" / "api" / f"{name}.json").read_text())
    assert without_titles(editor.exported()["output"]) == without_titles(api_form)


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_two_nodes_of_a_template_overlap(editor: Editor, name: str):
    editor.open_template(name)
    boxes = editor.page.evaluate(
        "() => app.rootGraph.nodes.map(node => [node.type, ...node.getBounding()])"
    )
    for i, (type_a, xa, ya, wa, ha) in enumerate(boxes):
        for type_b, xb, yb, wb, hb in boxes[:i]:
            apart = xa + wa <= xb or xb + wb <= xa or ya + ha <= yb or yb + hb <= ya
            assert apart, f"{type_a} and {type_b} overlap"
