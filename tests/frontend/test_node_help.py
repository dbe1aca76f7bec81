"""What the frontend tells about each node: its help page and its tooltips."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import TimeoutError, expect

from .conftest import PATIENCE_MS, REPO, Editor, Server

DOCS = REPO / "web" / "docs"
LOCALES = {path.name for path in (REPO / "locales").iterdir()}
NODES = (
    "AsyncVAEDecodeVideo",
    "AsyncVAEDecodeToVideo",
    "AsyncVAEDecodeTiled",
    "AsyncVAEDecodeTiledToVideo",
    "SaveVideoStreaming",
    "SampleVideoLatent",
    "AsyncSaveVideoElsewhere",
    "AsyncDecodeElsewhere",
    "AsyncCollectVideo",
)


def definition(server: Server, node_id: str) -> dict:
    return server.get(f"/object_info/{node_id}")[node_id]


def input_options(node: dict) -> dict[str, dict]:
    """Input name -> its options, required and optional."""
    groups = (node["input"].get(group, {}) for group in ("required", "optional"))
    return {name: (spec[1] if len(spec) > 1 else {}) for group in groups for name, spec in group.items()}


def test_the_page_names_every_format():
    formats = importlib.import_module("async_frame_pipeline.pipeline.sinks.formats").FORMATS
    for page in [DOCS / "SaveVideoStreaming.md", *(DOCS / "SaveVideoStreaming").glob("*.md")]:
        text = page.read_text(encoding="utf-8")
        assert [
            name for name in formats if not re.search(rf"(^\| |, |`){re.escape(name)}", text, re.MULTILINE)
        ] == [], page


def test_these_are_all_of_our_nodes(server: Server):
    ours = {
        name for name, node in server.get("/object_info").items() if "async-frame-pipeline" in node["python_module"]
    }
    assert ours == set(NODES)


@pytest.mark.parametrize("node_id", NODES)
def test_the_info_panel_shows_the_help_page(editor: Editor, server: Server, node_id: str):
    editor.add(node_id)
    editor.page.get_by_test_id("info-button").click()
    name = definition(server, node_id)["display_name"]
    expect(editor.page.get_by_role("heading", name=name, level=1)).to_be_visible()
    # A page of ours, not the description that the frontend shows where there is no page.
    first_words = (DOCS / f"{node_id}.md").read_text().split("\n\n")[1].split(".")[0]
    expect(editor.page.get_by_text(re.sub(r"[*`]", "", first_words))).to_be_visible()
    see_the_picture_and_all_of_the_page(editor, node_id)


@pytest.mark.parametrize("node_id", NODES)
@pytest.mark.parametrize("path", ["{}.md", "{}/zh.md"])
def test_the_help_page_names_every_input_and_output(server: Server, node_id: str, path: str):
    node = definition(server, node_id)
    page = (DOCS / path.format(node_id)).read_text(encoding="utf-8")
    documented = set(re.findall(r"^- \*\*(\w+)\*\* \(", page, flags=re.MULTILINE))
    assert documented == set(input_options(node)) | set(node["output_name"])


@pytest.mark.parametrize("node_id", NODES)
def test_a_translated_page_has_all_parts_of_the_english_one(node_id: str):
    def parts(path: Path) -> list[str]:
        """What the page consists of, without its words."""
        page = path.read_text(encoding="utf-8")
        return re.findall(r"^(#+|-|!|\*\*)", page, flags=re.MULTILINE)

    translated = sorted((DOCS / node_id).glob("*.md"))
    assert translated, "no translated page"
    for path in translated:
        assert path.stem in LOCALES, "a language that the frontend looks for"
        assert parts(path) == parts(DOCS / f"{node_id}.md"), path
        title = json.loads((REPO / "locales" / path.stem / "nodeDefs.json").read_text(encoding="utf-8"))[node_id][
            "display_name"
        ]
        assert path.read_text(encoding="utf-8").startswith(f"# {title}\n")


@pytest.mark.parametrize("node_id", NODES)
def test_the_info_panel_shows_the_page_in_chinese(chinese_editor: Editor, node_id: str):
    editor = chinese_editor
    editor.add(node_id)
    editor.page.get_by_test_id("info-button").click()
    page = (DOCS / node_id / "zh.md").read_text(encoding="utf-8")
    expect(editor.page.get_by_role("heading", name=page.splitlines()[0].removeprefix("# "), level=1)).to_be_visible()
    first_words = re.sub(r"[*`]", "", page.split("\n\n")[1].split("。")[0])
    expect(editor.page.get_by_text(first_words)).to_be_visible()
    see_the_picture_and_all_of_the_page(editor, node_id)


def see_the_picture_and_all_of_the_page(editor: Editor, node_id: str) -> None:
    picture = editor.page.locator(f"img[src*='{node_id}/graph.jpg']")
    picture.wait_for()
    editor.page.wait_for_function("image => image.naturalWidth >= 400", arg=picture.element_handle())
    assert picture.get_attribute("alt")
    # Who reads on does not scroll sideways, as in a wide table.
    cut_off = editor.page.evaluate(
        """picture => {
            const page = picture.closest(':has(h1)')
            return [page, ...page.querySelectorAll('*')]
                .filter(each => each.clientWidth && each.scrollWidth > each.clientWidth)
                .map(each => each.textContent.slice(0, 40))
        }""",
        picture.element_handle(),
    )
    assert cut_off == []


@pytest.mark.parametrize("node_id", NODES)
def test_the_node_and_its_slots_have_tooltips(server: Server, node_id: str):
    node = definition(server, node_id)
    assert node["description"], "shown where the pointer rests on the node's title"
    assert [name for name, options in input_options(node).items() if not options.get("tooltip")] == []
    assert all(node["output_tooltips"])


def test_a_tooltip_shows_where_the_pointer_rests(editor: Editor, server: Server):
    editor.add("SaveVideoStreaming")
    # A widget has its place once the node has been drawn.
    x, y = editor.page.wait_for_function(
        """() => {
            const node = app.rootGraph.nodes[0]
            const widget = node.widgets.find(widget => widget.name === 'quality')
            if (!(widget.last_y > 0)) return false
            const [x, y] = app.canvas.ds.convertOffsetToCanvas([node.pos[0] + 30, node.pos[1] + widget.last_y + 10])
            const box = document.getElementById('graph-canvas').getBoundingClientRect()
            return [box.x + x, box.y + y]
        }"""
    ).json_value()
    tooltip = editor.page.get_by_text(input_options(definition(server, "SaveVideoStreaming"))["quality"]["tooltip"])
    # The frontend looks once, a moment after the pointer came to rest, and may then not have drawn the node
    # under it yet. So the pointer moves a little, and rests, until the tooltip is there.
    for attempt in range(20):
        editor.page.mouse.move(x + attempt % 2, y)
        try:
            tooltip.wait_for(timeout=PATIENCE_MS / 20)
            return
        except TimeoutError:
            continue
    pytest.fail("the tooltip of 'quality' never showed")
