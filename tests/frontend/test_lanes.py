"""The lanes in a node: they move while it runs, end in a summary, and leave no trace in the workflow.

To look at them, name a folder in AFP_PICTURES: the tests then put pictures of the nodes there.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from .conftest import READY, Editor, Server, ShareEditor
from .watching import RECORD, Watched, queue, settle, watch

FRAMES = 33
PANEL = ".afp-lanes"
SHOW_FRAME = "AsyncFramePipeline.ShowLatestFrame"
THEMES = ("dark", "light")
RENDERERS = {"canvas": False, "nodes_2": True}
# The newest is looked at before every merge too, but briefly.
in_both = pytest.mark.parametrize("frontend", ["pinned", "newest"], indirect=True)
# So that no saver is answered from ComfyUI's cache.
_prefixes = (f"lanes/{number}" for number in itertools.count(1))

# Contrast (WCAG 2) of an element's text, or of a bar, with what is behind it.
CONTRAST = """([element, property, behind]) => {
    const context = Object.assign(document.createElement('canvas'), { width: 1, height: 1 }).getContext('2d')
    const luminance = (...colours) => {
        context.clearRect(0, 0, 1, 1)
        for (const colour of colours) { context.fillStyle = colour; context.fillRect(0, 0, 1, 1) }
        const [r, g, b] = [...context.getImageData(0, 0, 1, 1).data].slice(0, 3)
            .map(code => code / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b
    }
    const panel = getComputedStyle(element.closest('.afp-lanes')).backgroundColor
    const ground = behind ? [panel, getComputedStyle(element.closest(behind)).backgroundColor] : [panel]
    const [dark, light] = [luminance(...ground), luminance(...ground, getComputedStyle(element)[property])]
        .sort((a, b) => a - b)
    return (light + 0.05) / (dark + 0.05)
}"""


@pytest.fixture
def editor(share_editor: ShareEditor, frontend: Server) -> Iterator[Editor]:
    """Both frontends, each in the page that most tests share."""
    with share_editor(frontend) as editor:
        yield editor


def short_graph(
    editor: Editor, saver: str | None = "SaveVideoStreaming", subgraph: bool = False, latent_frames: int = 3
) -> None:
    """The demo's graph with fewer frames, to a saver or to an IMAGE; if wanted, the end of it in a subgraph."""
    editor.clear()
    editor.page.evaluate(
        """([saver, prefix, subgraph, latentFrames]) => {
            const add = (type, x, y) => {
                const node = LiteGraph.createNode(type)
                node.pos = [x, y]
                app.rootGraph.add(node)
                return node
            }
            const sample = add('SampleVideoLatent', 50, 50)
            const trim = add('TrimVideoLatent', 50, 200)
            trim.widgets[0].value = 9 - latentFrames
            sample.connect(0, trim, 0)
            const decode = add(saver ? 'AsyncVAEDecodeToVideo' : 'AsyncVAEDecodeVideo', 400, 50)
            trim.connect(0, decode, 0)
            sample.connect(1, decode, 1)
            const output = add(saver ?? 'SaveWEBM', 800, 50)
            // The frontend gives a new node what one with its id had before the graph was cleared.
            const values = saver === 'SaveVideo' ? { format: 'auto', codec: 'auto' } : { format: 'mp4 (h264)' }
            for (const [name, value] of Object.entries({ ...values, filename_prefix: prefix })) {
                const widget = output.widgets.find(widget => widget.name === name)
                if (widget) widget.value = value
            }
            decode.connect(0, output, 0)
            if (subgraph) {
                const { node } = app.rootGraph.convertToSubgraph(new Set([decode, output]))
                app.canvas.openSubgraph(node.subgraph, node)
            }
            app.canvas.ds.scale = 1
            app.canvas.ds.offset = [0, 100]
            app.canvas.setDirty(true, true)
        }""",
        [saver, next(_prefixes), subgraph, latent_frames],
    )


def set_setting(editor: Editor, name: str, value: object) -> None:
    editor.page.evaluate("([name, value]) => app.extensionManager.setting.set(name, value)", [name, value])


@pytest.fixture(params=RENDERERS)
def renderer(request: pytest.FixtureRequest) -> str:
    return request.param


def show_in(editor: Editor, renderer: str) -> Locator:
    """The panel, drawn by the canvas or by Nodes 2.0."""
    set_setting(editor, "Comfy.VueNodes.Enabled", RENDERERS[renderer])
    inside = editor.page.locator(f".lg-node {PANEL}")
    expect(inside).to_have_count(1 if RENDERERS[renderer] else 0)
    panel = editor.page.locator(PANEL)
    expect(panel).to_be_visible()
    settle(editor)
    return panel


def picture(editor: Editor, name: str) -> None:
    if folder := os.environ.get("AFP_PICTURES"):
        settle(editor)
        editor.page.screenshot(path=Path(folder) / f"{name}.png")


DEFAULTS = {"Comfy.VueNodes.Enabled": False, "Comfy.ColorPalette": "dark", SHOW_FRAME: True}


@pytest.fixture
def back_to_defaults(request: pytest.FixtureRequest, frontend: Server) -> Iterator[None]:
    """Undo what a test sets: on the server, for pages to come, and in the page of `demo` where the test uses it."""
    yield
    for name, value in DEFAULTS.items():
        frontend.post(f"/settings/{name}", value)
        if "demo" in request.fixturenames:
            set_setting(request.getfixturevalue("demo").editor, name, value)


# -- while it runs ----------------------------------------------------------------------------------


def test_the_lanes_move_while_the_node_runs(demo: Watched):
    written = [int(moment["write"]) for moment in demo.running]
    decoded = [int(moment["decode"]) for moment in demo.running]
    assert len(set(written)) > 3 and written == sorted(written)
    assert all(d >= w for d, w in zip(decoded, written))
    assert all(moment["title"] == f"{moment['write']} of {FRAMES} frames" for moment in demo.running)
    assert len({moment["bars"] for moment in demo.running}) > 3, "the chart grows"


def test_the_pace_and_the_time_left_are_told(demo: Watched):
    paces = [moment["pace"] for moment in demo.running if moment["pace"]]
    assert paces and all(re.fullmatch(r"[\d.]+ frames/s\s· (\d+ min)? ?(\d+ s)? left", pace) for pace in paces)


def test_events_come_no_faster_than_four_a_second(demo: Watched):
    assert len(demo.running) <= 4 * demo.last["detail"]["report"]["total_seconds"] + 1


def test_the_latest_frame_appears_and_gives_way_to_the_video(demo: Watched):
    assert max(moment["picture"] for moment in demo.running) == 320
    assert sum(moment["frame_sent"] for moment in demo.running) > 1, "it moves"
    assert sum(moment["frame_sent"] for moment in demo.running) <= demo.last["detail"]["report"]["total_seconds"] + 1
    page = demo.editor.page
    expect(page.locator(f"{PANEL} img")).to_be_hidden()
    page.wait_for_function("() => document.querySelector('.afp-stage video')?.readyState >= 1")


def test_nothing_jumps_when_the_first_frame_or_the_video_comes(demo: Watched):
    """The picture has its room, in the frames' proportions, from the first event on."""
    heights = {moment["stage_height"] for moment in demo.running if moment["stage_height"]}  # 0: not laid out yet
    heights.add(demo.editor.page.locator(".afp-stage").evaluate("element => element.offsetHeight"))
    assert len(heights) == 1 and heights.pop() > 100


def test_it_says_which_decoder_ran(demo: Watched):
    """And why not the fast one, where it did not: test_a_decode_that_goes_the_stock_way_says_why."""
    decoder = demo.editor.page.locator(".afp-lanes-decoder")
    expect(decoder).to_have_text("Decoder: fast")
    assert demo.running[-1]["decoder"] == decoder.text_content(), "from the start on"


def test_the_facts_of_the_file_can_be_read_copied_and_opened_by_keyboard(demo: Watched):
    [file] = demo.report["files"]
    assert (file["frames"], file["fps"], file["codec"], file["sound"]) == (FRAMES, 16, "h264", None)
    assert Path(file["path"]).stat().st_size == file["bytes"]
    page = demo.editor.page
    shown = page.locator(".afp-file")
    expect(shown.locator("strong")).to_have_text(file["filename"])
    expect(shown).to_contain_text(
        re.compile(rf"480×272\s· {FRAMES}\sframes\s· 16\sfps\s· 2\.1\ss\s· h264\s· [\d.]+\skB")
    )
    link = shown.get_by_role("link", name="Open")
    link.focus()
    expect(link).to_be_focused()
    assert page.request.get(link.evaluate("element => element.href")).body() == Path(file["path"]).read_bytes()
    page.keyboard.press("Tab")
    expect(shown.get_by_role("button")).to_be_focused()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.keyboard.press("Enter")
    expect(shown.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("() => navigator.clipboard.readText()") == file["path"]


def test_the_video_plays_without_sound_but_under_the_pointer(demo: Watched, renderer: str, back_to_defaults: None):
    page = demo.editor.page
    show_in(demo.editor, renderer)
    video = page.locator(".afp-stage video")
    page.mouse.move(0, 0)
    page.wait_for_function(
        "() => { const [v] = document.querySelectorAll('.afp-stage video'); return v && !v.paused && v.muted }"
    )
    video.hover()
    page.wait_for_function("() => !document.querySelector('.afp-stage video').muted")
    page.mouse.move(0, 0)
    page.wait_for_function("() => document.querySelector('.afp-stage video').muted")


def test_the_preview_can_be_hidden_for_a_node(demo: Watched):
    page = demo.editor.page
    choose = """text => {
        const node = app.rootGraph.nodes.find(node => node.type === 'SaveVideoStreaming')
        app.collectNodeMenuItems(node).find(item => item?.content === text).callback()
        return node.serialize().properties
    }"""
    height = page.locator(PANEL).evaluate("element => element.offsetHeight")
    before = page.evaluate("() => app.rootGraph.nodes.find(node => node.type === 'SaveVideoStreaming').size[1]")
    assert page.evaluate(choose, "Hide preview")["async_frame_pipeline_hides_preview"] is True
    expect(page.locator(".afp-stage")).to_be_hidden()
    expect(page.locator(".afp-stage video")).to_have_count(0)
    page.wait_for_function(
        "before => app.rootGraph.nodes.find(node => node.type === 'SaveVideoStreaming').size[1] < before", arg=before
    )
    properties = page.evaluate(choose, "Show preview")
    assert "async_frame_pipeline_hides_preview" not in properties
    expect(page.locator(".afp-stage video")).to_be_visible()
    page.wait_for_function(
        "([panel, height]) => document.querySelector(panel).offsetHeight === height", arg=[PANEL, height]
    )


# -- afterwards -------------------------------------------------------------------------------------


def test_it_ends_in_a_summary_with_a_verdict(demo: Watched, frontend: Server):
    report = demo.report
    panel = demo.editor.page.locator(PANEL)
    expect(panel).to_have_attribute("data-state", "done")
    expect(panel.locator(".afp-lanes-head strong")).to_have_text(re.compile(f"^{FRAMES} frames in "))
    expect(panel.locator(".afp-lanes-verdict")).to_have_text(report["verdict"])
    # There is nothing to copy on a CPU.
    expect(panel.locator(".afp-lanes-row:visible")).to_have_count(2 if report["device"] == "cpu" else 3)


def test_screen_readers_hear_how_it_goes_now_and_then_and_how_it_ended(demo: Watched):
    panel = demo.editor.page.locator(PANEL)
    status = panel.get_by_role("status")
    report = demo.last["detail"]["report"]
    expect(status).to_have_attribute("aria-live", "polite")
    expect(status).to_contain_text(report["verdict"])
    heard = [text for text, _ in itertools.groupby(moment["status"] for moment in demo.running)]
    assert 1 <= len(heard) <= report["total_seconds"] / 10 + 1, "more is chatter"
    assert demo.editor.page.get_by_role("group", name="Frame pipeline").count() == 1
    chart = panel.get_by_role("img", name=re.compile(r"^Lanes: Decode .*; .*Write .* busy \d+%$"))
    expect(chart).to_have_count(1)
    chart.focus()
    expect(chart).to_be_focused()


def test_the_limit_is_told_by_more_than_a_colour(demo: Watched):
    panel = demo.editor.page.locator(PANEL)
    limit = demo.last["detail"]["report"]["limit"]
    expect(panel.locator(".afp-lanes-limit")).to_have_count(1)
    name = panel.locator(f".afp-lanes-{limit} .afp-lanes-name")
    assert int(name.evaluate("element => getComputedStyle(element).fontWeight")) >= 600
    assert ", the limit" in panel.locator(".afp-lanes-chart").get_attribute("aria-label")


@pytest.mark.parametrize("theme", THEMES)
def test_it_is_readable_in_every_theme(demo: Watched, renderer: str, theme: str, back_to_defaults: None):
    editor = demo.editor
    set_setting(editor, "Comfy.ColorPalette", theme)
    panel = show_in(editor, renderer)
    texts = panel.locator("strong, span, p").all()
    assert len(texts) > 8
    for text in texts:
        if text.is_visible() and text.text_content():
            contrast = editor.page.evaluate(CONTRAST, [text.element_handle(), "color", None])
            assert contrast >= 4.5, text.text_content()
    for lane in ("decode", "copy", "write"):
        bar = panel.locator(f".afp-lanes-{lane} path")
        assert editor.page.evaluate(CONTRAST, [bar.element_handle(), "fill", "svg"]) >= 3, lane
    picture(editor, f"{renderer}_{theme}")


@pytest.mark.parametrize("width", [140, 225, 700])
def test_nothing_is_cut_off_at_any_width(demo: Watched, renderer: str, width: int, back_to_defaults: None):
    editor = demo.editor
    node = "app.rootGraph.nodes.find(node => node.type === 'SaveVideoStreaming')"
    width_before = editor.page.evaluate(f"() => {node}.size[0]")
    panel = show_in(editor, renderer)
    try:
        editor.page.evaluate(
            f"width => {{ const node = {node}; node.setSize([width, node.size[1]]); app.canvas.setDirty(true, true) }}",
            width,
        )
        settle(editor)
        picture(editor, f"{renderer}_{width}")
        cut_off = panel.evaluate(
            """panel => [panel, ...panel.querySelectorAll('strong, span, p, svg')]
                .filter(element => element.checkVisibility() && element.getAttribute('role') !== 'status')
                .filter(element => {
                    const inside = element.getBoundingClientRect(), outside = panel.getBoundingClientRect()
                    return inside.right > outside.right + 1 || inside.bottom > outside.bottom + 1
                        || element.scrollWidth > element.clientWidth + 1
                        && getComputedStyle(element).display !== 'inline'
                }).map(element => element.className?.baseVal ?? element.className + element.textContent)"""
        )
        assert cut_off == []
    finally:
        editor.page.evaluate(f"width => {{ const node = {node}; node.setSize([width, node.size[1]]) }}", width_before)


def test_the_canvas_can_be_moved_with_the_pointer_on_the_panel(demo: Watched, renderer: str, back_to_defaults: None):
    page = demo.editor.page
    box = show_in(demo.editor, renderer).bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    view = page.evaluate("() => [app.canvas.ds.scale, ...app.canvas.ds.offset]")
    page.mouse.wheel(0, 100)
    page.wait_for_function("scale => app.canvas.ds.scale !== scale", arg=view[0])
    page.evaluate(
        "([scale, ...offset]) => { Object.assign(app.canvas.ds, { scale, offset }); app.canvas.setDirty(true, true) }",
        view,
    )


def without_the_players_traces(exported: dict) -> dict:
    """The frontend's own video player adds an input to the prompt, and makes its node taller."""
    exported = json.loads(json.dumps(exported))
    for node in exported["output"].values():
        node["inputs"].pop("video-preview", None)
    for node in exported["workflow"]["nodes"]:
        if node["type"] in ("SaveVideoStreaming", "SaveWEBM"):
            node["size"] = None
    return exported


def test_nothing_is_added_to_the_workflow_or_the_prompt_of_a_saver(demo: Watched):
    assert without_the_players_traces(demo.after) == without_the_players_traces(demo.before)


# -- elsewhere --------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=RENDERERS)
def image_run(request: pytest.FixtureRequest, share_editor: ShareEditor, frontend: Server) -> Iterator[Watched]:
    """Async VAE Decode (Video), run once in each renderer."""
    with share_editor(frontend, nodes_2=RENDERERS[request.param]) as editor:
        # Of different lengths, or the second is answered from ComfyUI's cache.
        short_graph(editor, saver=None, latent_frames=2 if RENDERERS[request.param] else 3)
        settle(editor)
        yield watch(editor, frontend)


def test_a_decode_to_images_shows_its_lanes_and_no_frame(image_run: Watched):
    assert not any(moment["frame_sent"] for moment in image_run.seen)
    assert int(image_run.running[-1]["write"]) > 0
    verdict = image_run.last["detail"]["report"]["verdict"]
    expect(image_run.editor.page.locator(".afp-lanes-verdict")).to_have_text(verdict)
    picture(image_run.editor, "decode_to_images")


def test_not_a_byte_of_a_decoders_workflow_or_prompt_changes(image_run: Watched):
    assert without_the_players_traces(image_run.after) == without_the_players_traces(image_run.before)


def test_the_summary_is_there_again_after_an_undo_and_a_change_of_tab(image_run: Watched):
    page = image_run.editor.page
    verdict = image_run.last["detail"]["report"]["verdict"]
    page.evaluate("() => app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState?.()")
    page.evaluate(
        """() => {
            const node = app.rootGraph.nodes.find(node => node.type === 'AsyncVAEDecodeVideo')
            node.color = '#223344'
            app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState?.()
        }"""
    )
    page.evaluate("() => app.extensionManager.command.execute('Comfy.Undo')")
    page.wait_for_function(
        "() => app.rootGraph.nodes.find(node => node.type === 'AsyncVAEDecodeVideo')?.color === undefined"
    )
    expect(page.locator(".afp-lanes-verdict")).to_have_text(verdict)
    page.evaluate("() => app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    expect(page.locator(PANEL)).to_have_count(0)
    page.evaluate("() => app.extensionManager.command.execute('Workspace.PreviousOpenedWorkflow')")
    expect(page.locator(".afp-lanes-verdict")).to_have_text(verdict)


@in_both
def test_in_a_subgraph_drawn_by_nodes_2_without_the_latest_frame(
    editor: Editor, frontend: Server, back_to_defaults: None
):
    set_setting(editor, "Comfy.VueNodes.Enabled", True)
    set_setting(editor, SHOW_FRAME, False)
    short_graph(editor, subgraph=True)
    watched = watch(editor, frontend)
    assert re.fullmatch(r"\d+:\d+", watched.last["detail"]["node"]), "a node of the root graph"
    assert len({moment["write"] for moment in watched.running}) > 1
    assert not any(moment["frame_sent"] or moment["picture"] for moment in watched.seen), "the setting is off"
    panel = editor.page.locator(f".lg-node {PANEL}")
    expect(panel).to_be_visible()
    expect(panel.locator(".afp-lanes-verdict")).to_have_text(watched.last["detail"]["report"]["verdict"])
    picture(editor, "subgraph")


def test_a_cancelled_run_says_how_far_it_came_and_a_removed_node_is_no_trouble(editor: Editor, frontend: Server):
    errors = []

    def note(error: object) -> None:
        errors.append(error)

    editor.page.on("pageerror", note)
    # The lanes are those of the node that runs, whoever made it.
    short_graph(editor, "SaveVideo")
    editor.page.evaluate(RECORD)
    prompt_id = queue(editor)
    editor.page.wait_for_function("() => window.lanes.some(({ detail }) => detail.written > 0)")
    frontend.interrupt()
    assert frontend.wait(prompt_id)["status"]["status_str"] == "error"
    expect(editor.page.locator(f"{PANEL} .afp-lanes-head strong")).to_have_text(
        re.compile("^Stopped after [1-8] of 9 frames$")
    )
    expect(editor.page.locator(f"{PANEL} img")).to_be_hidden()
    picture(editor, "stopped")
    editor.page.evaluate(
        """async () => {
            const { api } = await import('/scripts/api.js')
            app.rootGraph.remove(app.rootGraph.nodes.find(node => node.type === 'SaveVideo'))
            api.dispatchCustomEvent('async-frame-pipeline.lanes', window.lanes.at(-1).detail)
        }"""
    )
    expect(editor.page.locator(PANEL)).to_have_count(0)
    editor.page.remove_listener("pageerror", note)
    assert errors == []


@in_both
def test_a_decode_that_goes_the_stock_way_says_why(editor: Editor, frontend: Server):
    editor.clear()
    editor.page.evaluate(
        """() => {
            const types = ['VAELoader', 'EmptyLatentImage', 'AsyncVAEDecodeVideo', 'PreviewImage']
            const [vae, latent, decode, preview] = types.map((type, n) => {
                const node = LiteGraph.createNode(type)
                node.pos = [50 + 350 * n, 100]
                app.rootGraph.add(node)
                return node
            })
            vae.widgets[0].value = 'pixel_space'
            latent.widgets[0].value = latent.widgets[1].value = 64
            latent.connect(0, decode, 0)
            vae.connect(0, decode, 1)
            decode.connect(0, preview, 0)
        }"""
    )
    queue(editor)
    panel = editor.page.locator(PANEL)
    expect(panel.locator(".afp-lanes-verdict")).to_have_text(
        re.compile(r"^Decoding took [\d.]+ s, and nothing overlapped")
    )
    expect(panel.locator(".afp-lanes-decoder")).to_have_text(
        re.compile(r"^Decoder: stock \(\w+ is not a VAE of Wan 2.1, Wan 2.2, .+, TAEHV\)$")
    )
    expect(panel.locator(".afp-lanes-chart")).to_be_hidden()
    shown = editor.page.evaluate(
        """() => {
            const node = app.rootGraph.nodes.find(node => node.type === 'AsyncVAEDecodeVideo')
            return node.widgets.filter(widget => node.isWidgetVisible(widget)).map(widget => widget.name)
        }"""
    )
    assert shown == ["async_frame_pipeline_lanes"], "its decoder is folded away, in newer frontends too"
    picture(editor, "stock")


def test_an_error_names_the_file_with_the_latents_and_what_to_do(editor: Editor, frontend: Server):
    """The folder of the file to be is a file."""
    (frontend.output_dir / "lanes_in_the_way").write_text("")
    short_graph(editor, latent_frames=1)
    editor.page.evaluate(
        """() => app.rootGraph.nodes.find(node => node.type === 'SaveVideoStreaming').widgets
            .find(widget => widget.name === 'filename_prefix').value = 'lanes_in_the_way/it'"""
    )
    assert frontend.wait(queue(editor))["status"]["status_str"] == "error"
    panel = editor.page.locator(PANEL)
    expect(panel).to_have_attribute("data-state", "failed")
    expect(panel).to_contain_text("lanes_in_the_way")
    expect(panel).to_contain_text(re.compile(r"Nothing is lost: the latents are saved as 'rescued_\w+-\w+\.latent'"))
    expect(panel).to_contain_text("open Templates > async-frame-pipeline > Resume from rescued latents")
    picture(editor, "failed")


# The end of a run, as the server tells it; the runs above have shown that it does.
REPORT = {
    "verdict": "The encoder was the limit.",
    "texts": {"verdict": [{"text": "The encoder was the limit."}]},
    "frames": 3,
    "device": "cpu",
    "total_seconds": 1,
    "span_seconds": 1,
    "busy_share": 0.5,
    "copy_seconds": 0,
    "write_seconds": 0.9,
    "limit": "write",
}
# A list of [id, type of node], as a tab of its own.
OPEN = """async ([nodes, id]) => app.loadGraphData({
    id, version: 0.4, links: [], groups: [],
    nodes: nodes.map(([id, type]) => ({ id, type, pos: [400 * id - 350, 50], size: [300, 200] }))
})"""
DONE = """async ([node, type, report]) => {
    const { api } = await import('/scripts/api.js')
    api.dispatchCustomEvent('async-frame-pipeline.lanes', { node, type, state: 'done', report })
}"""
EXECUTED = """async ([node, output]) => {
    const { api } = await import('/scripts/api.js')
    api.dispatchCustomEvent('executed', { node, display_node: node, output })
}"""
WITH_PANEL = """() => app.rootGraph.nodes.filter(node => node.widgets?.some(
    widget => widget.name === 'async_frame_pipeline_lanes')).map(node => node.type)"""


def output_of(report: dict) -> dict:
    return {"async_frame_pipeline": [json.dumps(report)]}


def test_what_ran_in_another_tab_is_not_shown_in_a_stranger_with_its_id(editor: Editor):
    page = editor.page
    page.evaluate(OPEN, [[[1, "KSampler"], [2, "SaveVideo"], [3, "SaveVideoStreaming"]], None])
    for node in ("1", "2", "3"):
        page.evaluate(EXECUTED, [node, output_of(REPORT)])
    assert page.evaluate(WITH_PANEL) == ["SaveVideoStreaming"]


def test_the_lanes_behind_a_stock_saver_are_there_again_after_a_change_of_tab(editor: Editor):
    page = editor.page
    page.evaluate(OPEN, [[[1, "SaveVideo"]], None])
    page.evaluate(DONE, ["1", "SaveVideo", REPORT])
    page.evaluate(EXECUTED, ["1", {"images": []}])
    assert page.evaluate(WITH_PANEL) == ["SaveVideo"]
    page.evaluate("() => app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    expect(page.locator(PANEL)).to_have_count(0)
    page.evaluate("() => app.extensionManager.command.execute('Workspace.PreviousOpenedWorkflow')")
    expect(page.locator(".afp-lanes-verdict")).to_have_text(REPORT["verdict"])


def test_a_panel_goes_with_its_workflow(editor: Editor):
    """In a subgraph too, of whose nodes nobody says that they are gone: what speaks another language is still here."""
    page = editor.page
    short_graph(editor, subgraph=True)
    inside = page.evaluate(
        """() => app.rootGraph.nodes.find(node => node.subgraph).id + ':'
            + app.canvas.graph.nodes.find(node => node.type === 'SaveVideoStreaming').id"""
    )
    page.evaluate(DONE, [inside, "SaveVideoStreaming", REPORT])
    spoken = """() => {
        window.afpPanels ??= [...document.querySelectorAll('.afp-lanes')]
        for (const panel of window.afpPanels) panel.lang = ''
        app.ui.settings.dispatchEvent(new CustomEvent('Comfy.Locale.change'))
        return window.afpPanels.map(panel => panel.lang)
    }"""
    assert page.evaluate(spoken) == ["en"]
    editor.clear()
    assert page.evaluate(spoken) == [""]
    page.evaluate("() => delete window.afpPanels")


def test_what_a_workflow_gave_earlier_is_not_shown_in_the_tab_opened_meanwhile(editor: Editor):
    page = editor.page
    ids = [f"00000000-0000-4000-8000-00000000000{number}" for number in (1, 2)]
    page.evaluate(
        """async ([first, output]) => {
            const { api } = await import('/scripts/api.js')
            const { fetchApi } = api
            let answer
            const answered = new Promise(resolve => (answer = resolve))
            api.fetchApi = async (path, ...more) => {
                if (!path.startsWith('/jobs')) return fetchApi.call(api, path, ...more)
                if (path.includes('workflow_id') && !path.includes(first)) return { json: async () => ({ jobs: [] }) }
                await answered
                return { json: async () => ({ jobs: [{ id: 'x' }], outputs: { 1: output } }) }
            }
            window.afpAnswer = async () => {
                answer()
                await new Promise(resolve => setTimeout(resolve)) // after all that waits for it
                api.fetchApi = fetchApi
                delete window.afpAnswer
            }
        }""",
        [ids[0], output_of(REPORT)],
    )
    try:
        for workflow_id in ids:
            page.evaluate(OPEN, [[[1, "SaveVideoStreaming"]], workflow_id])
    finally:
        page.evaluate("() => window.afpAnswer()")
    assert page.evaluate(WITH_PANEL) == []


def test_after_a_reload_the_video_and_the_summary_are_there_again(demo: Watched):
    """The last one here: a page that is reloaded is another page."""
    page = demo.editor.page
    # The frontend keeps the workflow a moment after it was changed.
    page.wait_for_function("() => Object.values(localStorage).some(text => text.includes('SaveVideoStreaming'))")
    page.reload()
    page.wait_for_function(READY)
    expect(page.locator(".afp-lanes-verdict")).to_have_text(demo.report["verdict"])
    page.wait_for_function("() => document.querySelector('.afp-stage video')?.readyState >= 1")
