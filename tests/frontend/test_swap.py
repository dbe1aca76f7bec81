"""Swapping decodes in the real frontend: the pinned one and the newest, canvas and Nodes 2.0."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from async_frame_pipeline.automation import swap
from async_frame_pipeline.automation.rules import DECODES, DEFAULTS, LAYOUT, OUR_SAVER
from host import PromptRejected
from playwright.sync_api import expect

from ..automation.graphs import by_id, connections, flaws, subgraph, workflow
from ..automation.templates import graphs_of, is_counted_version, official_templates, swapped_templates
from .conftest import Server, ShareEditor
from .swap_editor import RESTORE, SERIALIZED, SETTLED, SPEED_UP, SwapEditor

TO_IMAGES = "Swap for Async VAE Decode (Video)"
TO_VIDEO = "Swap with Create Video for Async VAE Decode to Video"
TO_SAVER = "Swap for Save Video (Streaming)"
WITH_SAVER = "Swap with its saver, to save while it decodes"
BACK = "Restore stock VAE Decode"
SAVER_BACK = "Restore the saver that this was"
ELSEWHERE = "Swap for Save Video (Decode Elsewhere)"
ELSEWHERE_BACK = "Restore the decode and the saver that this was"


@pytest.fixture(scope="module", params=["canvas", "nodes 2.0"])
def editor(request: pytest.FixtureRequest, share_editor: ShareEditor, frontend: Server) -> Iterator[SwapEditor]:
    """The page that most tests share; each here shows its workflow in a tab of its own."""
    with share_editor(frontend, nodes_2=request.param == "nodes 2.0") as editor:
        yield SwapEditor(editor.page)


# The newest is looked at before every merge too, but briefly.
in_both = pytest.mark.parametrize("frontend", ["pinned", "newest"], indirect=True)
on_canvas = pytest.mark.parametrize("editor", ["canvas"], indirect=True)

IN_GROUP = """id => {
    const [group] = app.rootGraph.groups
    group.recomputeInsideNodes()
    return group.nodes.some((node) => node.id == id)
}"""
MINE = {"title": "My decode", "color": "#432", "bgcolor": "#653", "size": [300, 90]}
SHARED = workflow(
    {1: "SampleVideoLatent", 8: "VAEDecode", 9: "CreateVideo", 10: "SaveVideo", 11: "PreviewImage"},
    "1>8.samples 1.1>8.vae 8>9.images 9>10.video 8>11.images",
    n8=MINE,
)
PAIR = workflow(
    {1: "SampleVideoLatent", 4: "PrimitiveFloat", 8: "VAEDecode", 9: "CreateVideo", 10: "SaveVideo"},
    "1>8.samples 1.1>8.vae 8>9.images 4>9.fps 9>10.video",
    n9={"title": "My video", "widgets_values": [30, 10]},
)
INSIDE = "c0ffee00-0000-4000-8000-000000000000"
NESTED = workflow(
    {1: "SampleVideoLatent", 7: INSIDE, 10: "SaveVideo"},
    "1>7.samples 1.1>7.vae 7>10.video",
    n7={"inputs": "samples:LATENT vae:VAE", "outputs": "VIDEO:VIDEO"},
    subgraphs=[
        subgraph(
            INSIDE,
            {8: "VAEDecode", 9: "CreateVideo", 11: "PreviewImage"},
            "-10.0>8.samples -10.1>8.vae 8>9.images 9>-20.0 8>11.images",
            inputs="samples:LATENT vae:VAE",
            outputs="VIDEO:VIDEO",
        )
    ],
)
STREAMED = workflow(
    {1: "SampleVideoLatent", 4: "PrimitiveFloat", 8: "VAEDecode", 10: "SaveWEBM"},
    "1>8.samples 1.1>8.vae 8>10.images 4>10.fps",
    n10={"inputs": "images:IMAGE [fps:FLOAT]", "widgets_values": ["shots/a", "vp9", 24, 20], "title": "My saver"},
)


def unordered(serialized: str) -> dict:
    """A workflow without what the editor makes anew each time it loads one: the order of links and of execution."""
    workflow = json.loads(serialized)
    for graph in graphs_of(workflow):
        graph["links"].sort(key=lambda link: link["id"] if isinstance(link, dict) else link[0])
        for node in graph["nodes"]:
            del node["order"]
    return workflow


# What our nodes have besides the widgets of those that they stand for.
OWN = {name: DEFAULTS[name] for name in ("decoder", "save_latents_first")}
STREAMS = " (Wan 2.1: streamed)"
FITS = (
    " (Wan 2.1: streamed without tiles: the fast decoder fits itself into what memory is free; "
    "its tile settings are back when you restore it)"
)
AWAY = " (Wan 2.1: decoded elsewhere, the next prompt starts at once)"


def without_what_the_editor_adds(workflow: dict) -> dict:
    """A workflow in which our nodes have no size, which is as large as their names need, and no input for a widget
    that nothing is linked to.
    """
    for graph in graphs_of(workflow):
        for node in graph["nodes"]:
            if node["type"].startswith("Async"):
                del node["size"]
                node.pop("widgets_values_named", None)
                node["inputs"] = [
                    slot for slot in node["inputs"] if slot["link"] is not None or slot["name"] not in DEFAULTS
                ]
    return workflow


def swap_by_menu(editor: SwapEditor, node_id: int, item: str) -> None:
    editor.menu_of(node_id)
    editor.page.get_by_text(item, exact=True).click()


def expect_restored(editor: SwapEditor, before: str, steps: int, node_id: int, swapped: str) -> None:
    """All is as before the swap; undone, it is swapped again; undone once more, all is back."""
    editor.page.evaluate(SETTLED)
    assert unordered(editor.serialized()) == unordered(before)
    editor.undo()
    editor.page.wait_for_function("([id, type]) => app.rootGraph.getNodeById(id).type === type", arg=[node_id, swapped])
    editor.page.evaluate(SETTLED)
    expect_undo_restores(editor, before, steps)


def expect_undo_restores(editor: SwapEditor, before: str, steps: int) -> None:
    assert editor.undo_steps() == steps + 1, "a swap is one step"
    editor.undo()
    editor.page.wait_for_function(f"before => ({SERIALIZED})() === before", arg=before)
    assert editor.undo_steps() == steps


# ---------------------------------------------------------------------------- right-click


def test_right_click_on_a_decode(editor: SwapEditor):
    editor.show(SHARED)
    before, steps = editor.serialized(), editor.undo_steps()
    editor.menu_of(8)
    expect(editor.page.get_by_text(TO_IMAGES, exact=True)).to_be_visible()
    expect(editor.page.get_by_text(TO_VIDEO, exact=True)).to_have_count(0)  # the decode feeds a preview as well
    editor.page.get_by_text(TO_IMAGES, exact=True).click()
    editor.expect_toast("Decodes swapped: 1", f"VAE Decode → Async VAE Decode (Video){STREAMS}")

    after = editor.workflow()
    node, was = by_id(after)[8], by_id(json.loads(before))[8]
    assert node["type"] == "AsyncVAEDecodeVideo"
    for key in ("pos", "size", "title", "color", "bgcolor", "mode", "flags"):
        assert node[key] == was[key], key
    assert connections(after) == connections(json.loads(before))
    assert editor.page.evaluate(IN_GROUP, 8), "still in its group"
    assert editor.page.evaluate("() => [...app.canvas.selectedItems].map(item => Number(item.id))") == [8]
    assert editor.missing_node_types() == []
    expect_undo_restores(editor, before, steps)


@in_both
def test_right_click_on_a_pair_and_back(editor: SwapEditor):
    editor.show(PAIR)
    before, steps = editor.serialized(), editor.undo_steps()
    swap_by_menu(editor, 8, TO_VIDEO)
    editor.expect_toast("Decodes swapped: 1", f"VAE Decode + Create Video → Async VAE Decode to Video{STREAMS}")
    after = editor.workflow()
    node = by_id(after)[9]
    assert (
        node["type"] == "AsyncVAEDecodeToVideo"
        and node["title"] == "My video"
        and node["widgets_values"] == [30, 10, "auto", False]
    )
    assert node["properties"]["Node name for S&R"] == "CreateVideo", "or %CreateVideo.fps% in a file name would break"
    assert connections(after) == {"1.0>9.samples", "1.1>9.vae", "4.0>9.fps", "9.0>10.video"}
    assert editor.prompt()["9"]["inputs"] == {
        "samples": ["1", 0],
        "vae": ["1", 1],
        "fps": ["4", 0],
        "bit_depth": 10,
        **OWN,
    }

    swap_by_menu(editor, 9, BACK)
    editor.expect_toast("Decodes restored: 1", "Async VAE Decode to Video → VAE Decode + Create Video")
    expect_restored(editor, before, steps, 9, "AsyncVAEDecodeToVideo")


IN_TILES = workflow(
    {1: "EmptyLatent", 2: "VAELoader", 8: "VAEDecodeTiled", 9: "CreateVideo", 10: "SaveVideo"},
    "1>8.samples 2>8.vae 8>9.images 9>10.video",
    n2={"widgets_values": ["ltx-2.3_vae.safetensors"]},
    n8={
        "inputs": "samples:LATENT vae:VAE [tile_size:INT] [overlap:INT] [temporal_size:INT] [temporal_overlap:INT]",
        "outputs": "IMAGE:IMAGE",
        "widgets_values": [768, 64, 4096, 4],
    },
)
TILES = dict(zip(DECODES["VAEDecodeTiled"]["widgets"], [768, 64, 4096, 4]))


@pytest.mark.parametrize(
    "item, kind, told",
    [
        (
            "Swap with Create Video for Async VAE Decode (Tiled) to Video",
            "AsyncVAEDecodeTiledToVideo",
            "Async VAE Decode (Tiled) to Video (LTX: streamed in the same tiles, if memory suffices for all of them "
            "side by side)",
        ),
        (
            f"{TO_VIDEO}, without tiles",
            "AsyncVAEDecodeToVideo",
            "Async VAE Decode to Video (LTX: streamed without tiles, in less time and at 1280x704 in no more memory; "
            "its tile settings are back when you restore it)",
        ),
    ],
    ids=["in the same tiles", "without tiles"],
)
def test_right_click_on_tiles_and_back(editor: SwapEditor, item: str, kind: str, told: str):
    editor.show(IN_TILES)
    before, steps = editor.serialized(), editor.undo_steps()
    swap_by_menu(editor, 8, item)
    editor.expect_toast("Decodes swapped: 1", f"VAE Decode (Tiled) + Create Video → {told}")
    swapped = by_id(editor.workflow())[9]
    assert swapped["type"] == kind
    if "Tiled" in kind:
        assert swapped["size"][1] == LAYOUT["pair_height"][kind], "the editor made it higher, over what is below it"
    given = editor.prompt()["9"]["inputs"]
    assert {name: given[name] for name in TILES if name in given} == (TILES if "Tiled" in kind else {})
    swap_by_menu(editor, 9, BACK)
    expect_restored(editor, before, steps, 9, kind)


@pytest.mark.parametrize("there, back", [((8, WITH_SAVER), (10, SAVER_BACK)), ((10, TO_SAVER), (8, BACK))])
def test_right_click_on_a_decode_and_its_saver_and_back(editor: SwapEditor, there: tuple, back: tuple):
    editor.show(STREAMED)
    before, steps = editor.serialized(), editor.undo_steps()
    swap_by_menu(editor, *there)
    both = "Async VAE Decode to Video + Save Video (Streaming)"
    editor.expect_toast(
        f"{'Savers' if there[0] == 10 else 'Decodes'} swapped: 1", f"VAE Decode + Save WEBM → {both}{STREAMS}"
    )
    after = editor.workflow()
    assert by_id(after)[10]["title"] == "My saver"
    assert connections(after) == {"1.0>8.samples", "1.1>8.vae", "4.0>8.fps", "8.0>10.video"}
    prompt = editor.prompt()
    assert prompt["8"]["inputs"] == {"samples": ["1", 0], "vae": ["1", 1], "fps": ["4", 0], "bit_depth": 8, **OWN}
    expected = {**OUR_SAVER["widgets"], "filename_prefix": "shots/a", "format": "webm (vp9)", "crf": 20}
    assert prompt["10"]["inputs"] == {"video": ["8", 0], **expected}

    swap_by_menu(editor, *back)
    editor.expect_toast(f"{'Savers' if back[0] == 10 else 'Decodes'} restored: 1", f"{both} → VAE Decode + Save WEBM")
    expect_restored(editor, before, steps, 10, "SaveVideoStreaming")


# Nodes 2.0 makes a Save Video that is put in another node's place a row higher than it was.
@on_canvas
@pytest.mark.parametrize("node", [8, 10])
def test_right_click_to_decode_elsewhere_and_back(editor: SwapEditor, node: int):
    editor.show(PAIR)
    before, steps = editor.serialized(), editor.undo_steps()
    swap_by_menu(editor, node, ELSEWHERE)
    stock, ours = "VAE Decode + Create Video + Save Video", "Save Video (Decode Elsewhere)"
    editor.expect_toast("Decodes swapped: 1", f"{stock} → {ours}{AWAY}")
    assert connections(editor.workflow()) == {"1.0>10.samples", "1.1>10.vae", "4.0>10.fps"}
    assert editor.prompt()["10"]["inputs"] == {
        "samples": ["1", 0],
        "vae": ["1", 1],
        "fps": ["4", 0],
        "filename_prefix": "video/ComfyUI",
        "format": "mp4 (h264)",
        "quality": "medium",
        "bit_depth": "10",
        "priority": "std",
        "if_unreachable": "decode here",
    }
    swap_by_menu(editor, 10, ELSEWHERE_BACK)
    editor.expect_toast("Decodes restored: 1", f"{ours} → {stock}")
    expect_restored(editor, before, steps, 10, "AsyncSaveVideoElsewhere")


@on_canvas
def test_right_click_on_savers_that_nothing_can_be_streamed_into(editor: SwapEditor):
    types = {1: "SampleVideoLatent", 8: "VAEDecode", 9: "CreateVideo", 10: "SaveWEBM", 11: "SaveVideo"}
    links = "1>8.samples 1.1>8.vae 8>9.images 8>10.images 9>11.video"
    editor.show(workflow(types, links, n11={"widgets_values": ["video/b", "auto", "auto"]}))
    for id, name in ((10, "Save WEBM"), (11, "Save Video")):
        swap_by_menu(editor, id, TO_SAVER)
        won = "decoding takes as long as before, the saver is mostly quicker"
        editor.expect_toast("Savers swapped: 1", f"{name} → Save Video (Streaming) ({won})")
    assert connections(editor.workflow()) >= {"8.0>9.images", "8.0>10.images", "9.0>11.video"}
    prompt = editor.prompt()
    assert prompt["10"]["inputs"].items() >= {"format": "webm (vp9)", "fps": 24, "crf": 32}.items()
    assert prompt["11"]["inputs"].items() >= {"filename_prefix": "video/b", "format": "mp4 (h264)"}.items()
    swap_by_menu(editor, 10, SAVER_BACK)
    editor.expect_toast("Savers restored: 1", "Save Video (Streaming) → Save WEBM")


def test_right_click_in_a_subgraph(editor: SwapEditor):
    editor.show(NESTED)
    editor.enter_subgraph(7)
    before, steps = editor.serialized(), editor.undo_steps()
    swap_by_menu(editor, 8, TO_IMAGES)
    editor.expect_toast("Decodes swapped: 1", f"VAE Decode → Async VAE Decode (Video){STREAMS}")
    assert editor.page.evaluate("() => app.canvas.graph.id") == INSIDE, "the subgraph stays open"
    [inside] = editor.workflow()["definitions"]["subgraphs"]
    assert by_id(inside)[8]["type"] == "AsyncVAEDecodeVideo"
    assert connections(inside) == {"-10.0>8.samples", "-10.1>8.vae", "8.0>9.images", "9.0>-20.0", "8.0>11.images"}
    expect_undo_restores(editor, before, steps)


@on_canvas
def test_other_nodes_have_no_such_entry(editor: SwapEditor):
    editor.show(SHARED)
    editor.menu_of(9)
    expect(editor.page.get_by_text("Pin", exact=True)).to_be_visible()
    assert editor.page.get_by_text("Async VAE").count() == 0


# ---------------------------------------------------------------------------- the commands


@on_canvas
def test_the_commands_are_in_the_menu(editor: SwapEditor):
    editor.show(PAIR)
    page = editor.page
    for command, told in (
        ("Speed up video decoding in this workflow", "Decodes swapped: 1"),
        ("Speed up video decoding in this workflow", "Nothing to change"),
        ("Restore stock video decoding", "Decodes restored: 1"),
    ):
        page.locator(".comfyui-logo").first.click()
        page.get_by_text("Edit", exact=True).first.hover()
        page.get_by_text(command, exact=True).click()
        expect(page.get_by_text(told, exact=True).first).to_be_visible()


@on_canvas
def test_the_toast_tells_what_was_left_alone_and_why(editor: SwapEditor):
    types = {
        1: "SampleVideoLatent",
        8: "VAEDecode",
        9: "CreateVideo",
        18: "VAEDecode",
        19: "CreateVideo",
        28: "VAEDecode",
        29: "SaveWEBM",
        30: "PreviewImage",
        38: "VAEDecode",
        39: "PreviewImage",
        48: "VAEDecodeTiled",
        49: "CreateVideo",
    }
    links = "8>9.images 18>19.images 28>29.images 28>30.images 38>39.images 48>49.images"
    editor.show(workflow(types, " ".join(f"1>{id}.samples 1.1>{id}.vae" for id in (8, 18, 28, 38, 48)) + " " + links))
    editor.run_command(SPEED_UP)
    editor.expect_toast(
        "Decodes swapped: 4",
        f"2 × VAE Decode + Create Video → Async VAE Decode to Video{STREAMS}",
        f"VAE Decode → Async VAE Decode (Video){STREAMS}",
        "VAE Decode left alone: its frames do not go into a video",
        f"VAE Decode (Tiled) + Create Video → Async VAE Decode to Video{FITS}",
    )
    before, steps = editor.serialized(), editor.undo_steps()
    editor.run_command(SPEED_UP)
    expect(editor.page.get_by_text("Decodes swapped: 0", exact=True).first).to_be_visible()
    assert editor.serialized() == before and editor.undo_steps() == steps, "nothing to swap, nothing done"


# ---------------------------------------------------------------------------- every official template


@on_canvas
@pytest.mark.parametrize(
    "nth", [pytest.param(1, marks=pytest.mark.nightly, id="all"), pytest.param(10, id="one in ten")]
)
def test_every_official_template(editor: SwapEditor, frontend: Server, nth: int):
    templates = official_templates()
    convertible = [
        name for name, (_, changes) in swapped_templates().items() if any(change.after for change in changes)
    ]
    assert len(convertible) == 66 or not is_counted_version()
    for name in convertible[::nth]:
        editor.load(templates[name])
        before, prompt_before, missing_before = editor.serialized(), editor.prompt(), editor.missing_node_types()
        editor.run_command(SPEED_UP)
        after, prompt = editor.serialized(), editor.prompt()

        # It agrees with the command line, on the file and on the prompt.
        expected, changes = swap(json.loads(before))
        assert without_what_the_editor_adds(unordered(after)) == without_what_the_editor_adds(
            unordered(json.dumps(expected))
        ), name
        if not feeds_inactive_nodes(json.loads(before), changes):
            assert bare(prompt) == bare(swap(prompt_before)[0]), name

        # It is as sound as the original: no missing node, no loose link, and the server says the same about it.
        assert "AsyncVAEDecode" in after and "AsyncVAEDecode" not in before, name
        assert editor.missing_node_types() == missing_before, name
        for graph, graph_before in zip(graphs_of(json.loads(after)), graphs_of(json.loads(before))):
            assert set(flaws(graph)) <= set(flaws(graph_before)), name  # some templates are flawed as they come
        assert validation(frontend, prompt) == validation(frontend, prompt_before), name

        editor.run_command(RESTORE)
        assert unordered(editor.serialized()) == unordered(before), name


def feeds_inactive_nodes(workflow: dict, changes: list) -> bool:
    """Whether a decode that was swapped feeds a muted or bypassed node: in a prompt, there is no such node."""
    swapped = {id for change in changes if change.after for id in change.nodes}
    for graph in graphs_of(workflow):
        nodes = by_id(graph)
        for link in graph["links"]:
            origin, target = (link["origin_id"], link["target_id"]) if isinstance(link, dict) else (link[1], link[3])
            if origin in swapped and nodes.get(target, {}).get("mode"):
                return True
    return False


def bare(prompt: dict) -> dict:
    """A prompt without what only people and the reverse of a swap read,
    and without the default that the editor spells out.
    """
    return {
        id: {
            "class_type": node.get("class_type"),
            "inputs": {name: value for name, value in node["inputs"].items() if OWN.get(name) != value},
            "title": node.get("_meta", {}).get("title"),
        }
        for id, node in prompt.items()
    }


def validation(server: Server, prompt: dict) -> set[tuple]:
    """What the server has against a prompt: node, kind of error, details. Nothing of it is run."""
    try:
        server.submit(prompt)
    except PromptRejected as rejected:
        answer = rejected.body
    else:
        answer = {"node_errors": {}}
    server.post("/queue", {"clear": True})
    server.interrupt()
    found = {
        (id, error["type"], error["details"]) for id, node in answer["node_errors"].items() for error in node["errors"]
    }
    return found | ({("", answer["error"]["type"], "")} if "error" in answer else set())
