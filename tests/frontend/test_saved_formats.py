"""Saved files in a real browser: what plays, what brings the workflow back; and the saver's inputs on the canvas."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from .conftest import Editor, Server
from .test_node_help import definition, input_options

FRAMES, FPS, WIDTH, HEIGHT = 16, 16, 160, 96
# (format, further inputs) of what our table says browsers play.
PLAYS = [
    ("mp4 (h264)", {}), ("mp4 (h264)", {"bit_depth": "10"}), ("mp4 (h264)", {"quality": "lossless"}),
    ("mp4 (h264)", {"color": "BT.601 full range"}), ("mp4 (av1)", {}), ("mp4 (av1)", {"bit_depth": "10"}),
    ("webm (vp9)", {}), ("webm (vp9)", {"alpha": "yes"}), ("webm (av1)", {}), ("webm (av1)", {"bit_depth": "10"}),
]  # fmt: skip
PICTURES = [("webp (animated)", {}), ("gif", {}), ("png sequence", {})]
OTHERS = [("mp4 (h265)", {}), ("mov (prores)", {}), ("mkv (h264)", {}), ("mkv (ffv1)", {})]
_numbers = itertools.count(1)
RED = 0xC03020


@pytest.fixture(scope="module")
def saved(server: Server, open_editor) -> dict:
    """(format, inputs as text) -> the first file's entry in the node's report: all from one prompt, with one workflow."""
    prompt = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": WIDTH, "height": HEIGHT, "batch_size": FRAMES, "color": RED}},
        "2": {"class_type": "CreateVideo", "inputs": {"images": ["1", 0], "fps": FPS, "audio": ["6", 0]}},
        "3": {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": WIDTH, "height": HEIGHT}},
        "4": {"class_type": "JoinImageWithAlpha", "inputs": {"image": ["1", 0], "alpha": ["3", 0]}},
        "5": {"class_type": "CreateVideo", "inputs": {"images": ["4", 0], "fps": FPS}},
        "6": {"class_type": "EmptyAudio", "inputs": {"duration": 1.0, "sample_rate": 44100, "channels": 2}},
    }
    nodes = {}
    for format, more in [*PLAYS, *PICTURES, *OTHERS]:
        node = str(100 + next(_numbers))
        clear = more.get("alpha") == "yes"
        inputs = {"quality": "high"} | {name: value for name, value in more.items() if name != "alpha"}
        prompt[node] = {
            "class_type": "SaveVideoStreaming",
            "inputs": {"video": ["5" if clear else "2", 0], "filename_prefix": f"plays/{node}", "format": format} | inputs,
        }
        nodes[format, str(more)] = node
    entry = server.run(prompt, {"extra_pnginfo": {"workflow": WORKFLOW}})
    return {key: entry["outputs"][node]["images"][0] for key, node in nodes.items()}


WORKFLOW = {
    "last_node_id": 7, "last_link_id": 0, "links": [], "groups": [], "config": {}, "extra": {}, "version": 0.4,
    "nodes": [
        {
            "id": 7, "type": "EmptyImage", "pos": [100, 100], "size": [300, 150], "flags": {}, "order": 0, "mode": 0,
            "inputs": [], "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": []}], "properties": {},
            "title": "From the file", "widgets_values": [320, 240, 3, 4660],
        }
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def editor(open_editor) -> Iterator[Editor]:
    """One page for all: what these tests look at does not depend on what was there before."""
    editor = open_editor()
    yield editor
    editor.page.context.close()


def url(server: Server, file: dict) -> str:
    return f"{server.url}/view?filename={file['filename']}&subfolder={file['subfolder']}&type={file['type']}"


PLAY = """async address => {
    const video = document.createElement('video')
    video.muted = true
    video.src = address
    await new Promise((resolve, reject) => { video.onloadeddata = resolve; video.onerror = () => reject(video.error.message) })
    const ended = new Promise((resolve, reject) => { video.onended = resolve; video.onerror = () => reject(video.error.message) })
    const canvas = Object.assign(document.createElement('canvas'), {width: video.videoWidth, height: video.videoHeight})
    const context = canvas.getContext('2d')
    await video.play()
    await ended
    context.drawImage(video, 0, 0)
    const [x, y] = [canvas.width >> 1, canvas.height >> 1]
    return {
        width: video.videoWidth, height: video.videoHeight, duration: video.duration,
        frames: video.getVideoPlaybackQuality().totalVideoFrames, colour: [...context.getImageData(x, y, 1, 1).data],
    }
}"""


@pytest.mark.parametrize("format, more", PLAYS, ids=str)
def test_the_browser_plays_it(saved, server: Server, editor: Editor, format: str, more: dict):
    seen = editor.page.evaluate(PLAY, url(server, saved[format, str(more)]))
    assert (seen["width"], seen["height"]) == (WIDTH, HEIGHT)
    assert abs(seen["duration"] - FRAMES / FPS) < 0.03
    red, green, blue, alpha = seen["colour"]
    if more.get("alpha"):
        # JoinImageWithAlpha takes a mask: 1 is what is to be transparent.
        assert alpha == 0
    else:
        assert alpha == 255
        assert max(abs(red - 0xC0), abs(green - 0x30), abs(blue - 0x20)) <= 6, "colours as the tags say"


@pytest.mark.parametrize("format, more", PICTURES, ids=str)
def test_the_browser_shows_it(saved, server: Server, editor: Editor, format: str, more: dict):
    seen = editor.page.evaluate(
        """async address => {
            const image = new Image()
            image.src = address
            await image.decode()
            return [image.naturalWidth, image.naturalHeight]
        }""",
        url(server, saved[format, str(more)]),
    )
    assert seen == [WIDTH, HEIGHT]


@pytest.mark.parametrize("format, more", [*PLAYS[:1], *PLAYS[4:5], *PLAYS[6:9], *PICTURES, *OTHERS], ids=str)
def test_dropped_on_the_canvas_it_brings_the_workflow_back(saved, server: Server, editor: Editor, format: str, more: dict):
    file = dict(saved[format, str(more)])
    if format.startswith("mkv") or format == "gif":
        file["filename"] = file["filename"].rsplit(".", 1)[0] + ".png"
    editor.clear()
    editor.drop(url(server, file), file["filename"], TYPES[file["filename"].rsplit(".")[-1]])
    editor.page.wait_for_function("() => app.rootGraph.nodes.some(node => node.title === 'From the file')")


# What a browser says a file is, by its name.
TYPES = {"mp4": "video/mp4", "webm": "video/webm", "mov": "video/quicktime", "webp": "image/webp", "png": "image/png"}


def test_inputs_that_few_need_are_folded_away(editor: Editor, server: Server):
    options = input_options(definition(server, "SaveVideoStreaming"))
    always = [name for name, more in options.items() if not more.get("advanced")]
    assert always == ["video", "filename_prefix", "format", "quality"]
    editor.add("SaveVideoStreaming")
    look = "() => { const node = app.rootGraph.nodes[0]; return [node.widgets.filter(w => node.isWidgetVisible(w)).length, node.size[1]] }"
    editor.page.wait_for_function("() => app.rootGraph.nodes[0].widgets[0].last_y > 0")
    few, low = editor.page.evaluate(look)
    assert few == 3 and low < 200
    editor.page.evaluate("() => app.rootGraph.nodes[0].toggleAdvanced()")
    editor.page.wait_for_function("() => app.rootGraph.nodes[0].size[1] > 400")
    many, _ = editor.page.evaluate(look)
    assert many == len(options) - 1


def test_older_workflows_keep_their_values(editor: Editor, server: Server):
    """Saved before there were more than three widgets: the new ones take their defaults."""
    workflow = {
        "last_node_id": 1, "last_link_id": 0, "links": [], "groups": [], "config": {}, "extra": {}, "version": 0.4,
        "nodes": [{
            "id": 1, "type": "SaveVideoStreaming", "pos": [100, 100], "size": [300, 150], "flags": {}, "order": 0, "mode": 0,
            "inputs": [{"name": "video", "type": "VIDEO", "link": None}], "outputs": [{"name": "VIDEO", "type": "VIDEO", "links": None}],
            "properties": {}, "widgets_values": ["here/it", "mp4 (h264)", "low"],
        }],
    }  # fmt: skip
    editor.page.evaluate("graph => app.loadGraphData(graph)", workflow)
    editor.page.wait_for_function("() => app.rootGraph.nodes[0]?.type === 'SaveVideoStreaming'")
    inputs = editor.exported()["output"]["1"]["inputs"]
    options = input_options(definition(server, "SaveVideoStreaming"))
    defaults = {name: more["default"] for name, more in options.items() if name != "video"}
    assert inputs == defaults | {"filename_prefix": "here/it", "format": "mp4 (h264)", "quality": "low"}
