"""The bundled workflows: found in the template browser, whole, and equal to their API forms."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import urllib.parse
import urllib.request
from collections.abc import Callable

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from ..workflows.names import API_FORMS
from .conftest import PACK_NAME, REPO, Editor, Server

from host import PromptRejected  # isort: skip  (in scripts/, which conftest put on the path)

TEMPLATES = sorted(path.stem for path in (REPO / "workflows").glob("*.json"))
NEED_MODELS = [name for name in TEMPLATES if name.startswith(("HunyuanVideo", "LTX", "Wan"))]


def stored(name: str) -> dict:
    return json.loads((REPO / "workflows" / f"{name}.json").read_text())


def api_form(name: str) -> dict:
    return json.loads((REPO / "workflows" / "api" / f"{API_FORMS[name]}.json").read_text())


def models(name: str) -> set[str]:
    """The files it needs; some are loaded by several nodes."""
    return {model["name"] for node in stored(name)["nodes"] for model in node["properties"].get("models", [])}


def without_titles(prompt: dict) -> dict:
    """An API prompt without the `_meta` that only people read."""
    return {node_id: {key: node[key] for key in ("class_type", "inputs")} for node_id, node in prompt.items()}


def browse(editor: Editor) -> None:
    """Show our templates in the template browser."""
    editor.page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    editor.page.get_by_role("dialog").get_by_text(PACK_NAME).click()


@dataclasses.dataclass(frozen=True)
class Opened:
    """What the frontend made of one template.

    Attributes:
        red: types of the nodes that it shows in red: it does not know them, or something of theirs is missing.
        output: the prompt it would queue.
        boxes: name and bounding box of each node.
        groups: name and bounding box of each group.
        cut_off: notes that show only a part of their text.
        downloads: the missing models that it offers to download.
    """

    name: str
    red: list[str]
    output: dict
    boxes: list[tuple]
    boxes_2: list[tuple]
    groups: list[tuple]
    cut_off: list[str]
    downloads: list[str]


@pytest.fixture(scope="module", params=TEMPLATES)
def opened(request: pytest.FixtureRequest, open_editor: Callable[..., Editor], server: Server) -> Opened:
    """Each template, opened once for all tests here as a user does: by its card, in a fresh page."""
    editor = open_editor(server)
    try:
        return look_at(editor, request.param)
    finally:
        editor.page.context.close()


def look_at(editor: Editor, name: str) -> Opened:
    page = editor.page
    browse(editor)
    page.get_by_test_id(f"template-workflow-{name}").click()
    # The card's click loads the graph some moments later.
    page.wait_for_function("id => app.rootGraph.id === id", arg=stored(name)["id"])
    boxes = page.evaluate("() => app.rootGraph.nodes.map(node => [node.title, ...node.getBounding()])")
    groups = page.evaluate("() => app.rootGraph.groups.map(group => [group.title, ...group._bounding])")
    downloads = []
    if models(name):
        page.get_by_text("View details").click()
        buttons = page.get_by_role("button", name=".safetensors").filter(has_text="Download")
        expect(buttons).to_have_count(len(models(name)))
        downloads = [button.get_attribute("aria-label").removeprefix("Download ") for button in buttons.all()]
    # Notes are elements over the canvas; they have a size once they have been shown.
    page.evaluate(
        "() => { app.canvas.ds.scale = 1; app.canvas.ds.offset = [600, 100]; app.canvas.setDirty(true, true) }"
    )
    notes = page.locator(".comfy-markdown .tiptap:visible")
    expect(notes).to_have_count(sum(node["type"] == "MarkdownNote" for node in stored(name)["nodes"]))
    cut_off = [
        note.text_content()[:40]
        for note in notes.all()
        if note.evaluate("note => note.scrollHeight > note.clientHeight + 1")
    ]
    return Opened(
        name,
        editor.missing_node_types(),
        editor.exported()["output"],
        boxes,
        drawn_by_nodes_2(page),
        groups,
        cut_off,
        downloads,
    )


def drawn_by_nodes_2(page: Page) -> list[tuple]:
    """Boxes of the nodes as the newer renderer draws them: it makes most of them larger."""
    page.evaluate("() => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', true)")
    page.wait_for_function("() => document.querySelectorAll('[data-node-id]').length === app.rootGraph.nodes.length")
    # They grow to fit in the frames after they appear.
    boxes = page.evaluate(
        """async () => {
            for (let i = 0; i < 30; i++) await new Promise(requestAnimationFrame)
            return [...document.querySelectorAll('[data-node-id]')].map(element => {
                const {x, y, width, height} = element.getBoundingClientRect()
                return [app.rootGraph.getNodeById(element.dataset.nodeId).title, x, y, width, height]
            })
        }"""
    )
    page.evaluate("() => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', false)")
    return boxes


def test_the_server_lists_the_templates_and_nothing_else(server: Server):
    # workflows/api and workflows/sample must not show up as templates.
    assert sorted(server.get("/workflow_templates")[PACK_NAME]) == TEMPLATES


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_has_a_thumbnail(server: Server, name: str):
    path = urllib.parse.quote(f"/api/workflow_templates/{PACK_NAME}/{name}.jpg")
    with urllib.request.urlopen(server.url + path) as answer:
        assert answer.headers["Content-Type"] == "image/jpeg"
        content = answer.read()
    picture = Image.open(io.BytesIO(content))
    assert picture.format == "JPEG" and len(content) < 200_000
    assert min(picture.size) >= 256, "too small for the card in the template browser"
    assert all(high - low > 100 for low, high in picture.convert("RGB").getextrema()), (
        "the picture is nearly one colour"
    )


def test_ours_are_listed_by_name_whatever_their_order_on_the_disk(editor: Editor):
    on_disk = json.dumps({"another-pack": ["b", "a"], PACK_NAME: TEMPLATES[::-1]})
    editor.page.route("**/workflow_templates", lambda route: route.fulfill(body=on_disk))
    listed = editor.page.evaluate("async () => (await import('/scripts/api.js')).api.getWorkflowTemplates()")
    assert listed == {"another-pack": ["b", "a"], PACK_NAME: TEMPLATES}


def test_the_template_browser_shows_them_by_name_with_thumbnails(editor: Editor):
    browse(editor)
    cards = editor.page.get_by_test_id(re.compile("^template-workflow-"))
    expect(cards).to_have_count(len(TEMPLATES))
    assert [card.get_attribute("data-testid").removeprefix("template-workflow-") for card in cards.all()] == TEMPLATES
    for name in TEMPLATES:
        card = editor.page.get_by_test_id(f"template-workflow-{name}")
        card.scroll_into_view_if_needed()
        image = card.locator("img")
        image.wait_for()
        editor.page.wait_for_function("image => image.naturalWidth > 0", arg=image.element_handle())


def test_a_template_opens_with_nothing_missing_but_models(opened: Opened):
    assert opened.red == [node["type"] for node in stored(opened.name)["nodes"] if node["properties"].get("models")]


def test_a_missing_node_would_be_noticed(editor: Editor):
    # The check of the test above, on a graph where it must find something.
    graph = stored("Demo")
    graph["nodes"][0]["type"] = "NoSuchNode"
    editor.page.evaluate("graph => app.loadGraphData(graph)", graph)
    assert editor.missing_node_types() == ["NoSuchNode"]


def test_the_api_form_is_what_the_frontend_queues(opened: Opened):
    assert without_titles(opened.output) == without_titles(api_form(opened.name)), "run tests/workflows/export.py"


def test_no_two_nodes_of_a_template_overlap(opened: Opened):
    assert overlaps(opened.boxes) == []
    assert overlaps(opened.boxes_2) == []


def test_savers_have_room_for_what_they_show_after_a_run(opened: Opened):
    """The chart, the video and its size, in the narrowest of our savers, by the newer renderer: 546 pixels."""
    savers = [node for node in stored(opened.name)["nodes"] if node["type"] == "SaveVideoStreaming"]
    assert all(node["size"][0] >= 440 and node["size"][1] >= 560 for node in savers)


def test_no_two_groups_of_a_template_overlap(opened: Opened):
    assert overlaps(opened.groups) == []


def test_every_node_but_the_notes_is_in_a_group_of_the_larger_templates(opened: Opened):
    if not opened.groups:
        assert len(opened.boxes) < 10
        return
    notes = {node["title"] for node in stored(opened.name)["nodes"] if node["type"] == "MarkdownNote"}
    outside = [title for title, *box in opened.boxes if not any(contains(group, box) for _, *group in opened.groups)]
    assert set(outside) == notes


def test_notes_show_all_their_text(opened: Opened):
    assert opened.cut_off == []


def test_the_frontend_offers_every_missing_model_for_download(opened: Opened):
    assert sorted(opened.downloads) == sorted(models(opened.name))


@pytest.mark.parametrize("name", NEED_MODELS)
def test_nothing_but_the_models_is_missing(server: Server, name: str):
    # What the server itself says of the prompt: the model files that are not there, and nothing else.
    with pytest.raises(PromptRejected) as rejected:
        server.submit(api_form(name))
    errors = [error for node in rejected.value.body["node_errors"].values() for error in node["errors"]]
    assert {error["type"] for error in errors} == {"value_not_in_list"}
    assert {error["extra_info"]["received_value"] for error in errors} == models(name)


def overlaps(boxes: list[tuple]) -> list[tuple[str, str]]:
    pairs = []
    for i, (name_a, xa, ya, wa, ha) in enumerate(boxes):
        for name_b, xb, yb, wb, hb in boxes[:i]:
            if not (xa + wa <= xb or xb + wb <= xa or ya + ha <= yb or yb + hb <= ya):
                pairs.append((name_a, name_b))
    return pairs


def contains(outer: list[float], inner: list[float]) -> bool:
    (x, y, w, h), (xi, yi, wi, hi) = outer, inner
    return x <= xi and y <= yi and xi + wi <= x + w and yi + hi <= y + h
