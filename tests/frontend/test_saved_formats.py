"""Saved files in a real browser: what plays, what brings the workflow back; and the saver's inputs on the canvas."""

from __future__ import annotations

import importlib
import itertools
import urllib.parse
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from .conftest import Editor, Server, ShareEditor
from .test_node_help import definition, input_options

formats = importlib.import_module("async_frame_pipeline.pipeline.sinks.formats")
FRAMES, FPS, WIDTH, HEIGHT = 8, 16, 160, 96


def offered() -> list[tuple[str, dict]]:
    """(format, further inputs) of every chroma, depth and alpha of videos; further, what else changes the stream."""
    found = []
    for name, each in formats.FORMATS.items():
        for chroma, depths in each.depths.items() if each.is_video and "nvenc" not in name else ():
            for bits, alpha in itertools.product(depths, (False, True) if chroma in each.alpha else (False,)):
                found.append((name, {"chroma": chroma, "bit_depth": str(bits)} | ({"alpha": "yes"} if alpha else {})))
    found += [("mp4 (h264)", {"quality": "lossless"}), ("webm (vp9)", {"quality": "lossless"})]
    return found + [(name, {"color": "BT.601 full range"}) for name in ("mp4 (h264)", "mp4 (av1)", "webm (vp9)")]


OFFERED = offered()
PICTURES = [("webp (animated)", {}), ("gif", {}), ("png sequence", {})]
# One of each kind of file.
DROPPED = [
    (name, {})
    for name in (
        "mp4 (h264)",
        "mp4 (h265)",
        "mp4 (av1)",
        "webm (vp9)",
        "webm (av1)",
        "mov (prores)",
        "mkv (h264)",
        "mkv (ffv1)",
    )
]
FIRST, LAST = (0x20, 0x80, 0x40), (0xC0, 0x30, 0x20)


@pytest.fixture(scope="module")
def saved(server: Server) -> dict:
    """(format, inputs as text) -> the first file's entry in the node's report:
    all from one prompt, with one workflow.
    """
    numbers = {"width": WIDTH, "height": HEIGHT, "batch_size": FRAMES // 2}
    prompt = {
        "1": {"class_type": "EmptyImage", "inputs": numbers | {"color": int.from_bytes(FIRST, "big")}},
        "7": {"class_type": "EmptyImage", "inputs": numbers | {"color": int.from_bytes(LAST, "big")}},
        "8": {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["7", 0]}},
        "2": {"class_type": "CreateVideo", "inputs": {"images": ["8", 0], "fps": FPS, "audio": ["6", 0]}},
        "3": {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": WIDTH, "height": HEIGHT}},
        "4": {"class_type": "JoinImageWithAlpha", "inputs": {"image": ["8", 0], "alpha": ["3", 0]}},
        "5": {"class_type": "CreateVideo", "inputs": {"images": ["4", 0], "fps": FPS}},
        "6": {"class_type": "EmptyAudio", "inputs": {"duration": 1.0, "sample_rate": 44100, "channels": 2}},
    }
    nodes = {}
    for format, more in [*OFFERED, *PICTURES, *DROPPED]:
        node = str(100 + len(nodes))
        clear = more.get("alpha") == "yes"
        inputs = {"quality": "high", "speed": "fast"} | {name: value for name, value in more.items() if name != "alpha"}
        prompt[node] = {
            "class_type": "SaveVideoStreaming",
            "inputs": {"video": ["5" if clear else "2", 0], "filename_prefix": f"plays/{node}", "format": format}
            | inputs,
        }
        nodes[format, str(more)] = node
    entry = server.run(prompt, {"extra_pnginfo": {"workflow": WORKFLOW}})
    return {key: entry["outputs"][node]["images"][0] for key, node in nodes.items()}


WORKFLOW = {
    "last_node_id": 7,
    "last_link_id": 0,
    "links": [],
    "groups": [],
    "config": {},
    "extra": {},
    "version": 0.4,
    "nodes": [
        {
            "id": 7,
            "type": "EmptyImage",
            "pos": [100, 100],
            "size": [300, 150],
            "flags": {},
            "order": 0,
            "mode": 0,
            "inputs": [],
            "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": []}],
            "properties": {},
            "title": "From the file",
            "widgets_values": [320, 240, 3, 4660],
        }
    ],
}


def url(server: Server, file: dict) -> str:
    return f"{server.url}/view?filename={file['filename']}&subfolder={file['subfolder']}&type={file['type']}"


PLAY_ALL = """async ([addresses, frameSeconds, lastFrame]) => {
    const event = (video, name) => new Promise((resolve, reject) => {
        video['on' + name] = resolve
        video.onerror = () => reject(video.error.message)
    })
    const play = async address => {
        const video = document.createElement('video')
        video.muted = true
        video.src = address
        if (!await event(video, 'loadeddata').then(() => true, () => false)) return null
        if (!video.videoWidth) return null  // of some it plays the sound alone
        const size = {width: video.videoWidth, height: video.videoHeight}
        const canvas = Object.assign(document.createElement('canvas'), size)
        const context = canvas.getContext('2d')
        // "seeked" and "ended" may come before the frame does; this tells which frame is shown.
        const colourAt = async seconds => {
            const shown = new Promise(resolve => {
                const look = (_, {mediaTime}) =>
                    Math.abs(mediaTime - seconds) < frameSeconds ? resolve() : video.requestVideoFrameCallback(look)
                video.requestVideoFrameCallback(look)
            })
            video.currentTime = seconds
            await shown
            context.clearRect(0, 0, canvas.width, canvas.height)
            context.drawImage(video, 0, 0)
            return [...context.getImageData(canvas.width >> 1, canvas.height >> 1, 1, 1).data]
        }
        const ended = event(video, 'ended')
        video.playbackRate = 4
        await video.play()
        await ended
        const {videoWidth: width, videoHeight: height, duration} = video
        const seen = {width, height, duration, first: await colourAt(0.1), last: await colourAt(lastFrame)}
        video.removeAttribute('src')
        video.load()
        return seen
    }
    const seen = []
    const todo = [...addresses.entries()]
    const playOneByOne = async () => {
        for (let next; (next = todo.shift()); ) {
            const tooLong = new Promise((_, reject) => setTimeout(reject, 60_000, 'it hangs'))
            seen[next[0]] = await Promise.race([play(next[1]), tooLong]).catch(error => ({error: `${error}`}))
        }
    }
    await Promise.all(Array.from({length: 6}, playOneByOne))
    return seen
}"""


@pytest.fixture(scope="module")
def played(saved, share_editor: ShareEditor, server: Server) -> dict:
    """(format, inputs as text) -> what the browser makes of the video, None where it plays none;
    all from a few elements.
    """
    wanted = [(format, str(more)) for format, more in OFFERED]
    with share_editor(server) as editor:
        addresses = [url(server, saved[key]) for key in wanted]
        return dict(zip(wanted, editor.page.evaluate(PLAY_ALL, [addresses, 1 / FPS, (FRAMES - 0.5) / FPS])))


@pytest.mark.parametrize("format, more", OFFERED, ids=str)
def test_the_browser_plays_it(played, format: str, more: dict):
    """All that we say browsers play; and what else this one plays has its size, length and colours."""
    seen = played[format, str(more)]
    bits = int(more.get("bit_depth", 8))
    if seen is None:
        assert not formats.Choice(formats.FORMATS[format], bit_depth=bits, chroma=more.get("chroma", "")).plays
        return
    assert "error" not in seen
    assert (seen["width"], seen["height"]) == (WIDTH, HEIGHT)
    assert abs(seen["duration"] - FRAMES / FPS) < 0.03
    for got, wanted in ((seen["first"], FIRST), (seen["last"], LAST)):
        if more.get("alpha"):
            # JoinImageWithAlpha takes a mask: 1 is what is to be transparent.
            assert got[3] == 0
        else:
            assert got[3] == 255
            assert max(abs(a - b) for a, b in zip(got, wanted)) <= 6, "colours as the tags say"


@pytest.mark.parametrize("format, more", PICTURES, ids=str)
def test_the_browser_shows_it(saved, server: Server, editor: Editor, format: str, more: dict):
    file = saved[format, str(more)]
    seen = editor.page.evaluate(
        """async ([address, type]) => {
            const decoder = new ImageDecoder({data: (await fetch(address)).body, type})
            await decoder.completed
            const track = decoder.tracks.selectedTrack
            const seen = {repeats: track.repetitionCount, milliseconds: 0, colours: []}
            for (let frameIndex = 0; frameIndex < track.frameCount; frameIndex++) {
                const {image} = await decoder.decode({frameIndex})
                const canvas = new OffscreenCanvas(image.displayWidth, image.displayHeight)
                const context = canvas.getContext('2d')
                context.drawImage(image, 0, 0)
                seen.size = [canvas.width, canvas.height]
                seen.milliseconds += image.duration / 1000
                seen.colours.push([...context.getImageData(canvas.width >> 1, canvas.height >> 1, 1, 1).data])
            }
            return seen
        }""",
        [url(server, file), "image/" + file["filename"].rsplit(".")[-1]],
    )
    assert seen["size"] == [WIDTH, HEIGHT]
    colours = [FIRST] if format == "png sequence" else [FIRST, LAST]
    for got, wanted in zip((seen["colours"][0], seen["colours"][-1]), colours):
        assert got[3] == 255 and max(abs(a - b) for a, b in zip(got, wanted)) <= 6
    if format != "png sequence":
        assert abs(seen["milliseconds"] - 1000 * FRAMES / FPS) <= 10
        assert seen["repeats"] is None or seen["repeats"] > 10**6, "for ever"


@pytest.mark.parametrize("format, more", [*DROPPED, *PICTURES], ids=str)
def test_dropped_on_the_canvas_it_brings_the_workflow_back(
    saved, server: Server, editor: Editor, format: str, more: dict
):
    file = dict(saved[format, str(more)])
    if format.startswith("mkv") or format == "gif":
        file["filename"] = file["filename"].rsplit(".", 1)[0] + ".png"
    editor.clear()
    editor.drop(url(server, file), file["filename"], TYPES[file["filename"].rsplit(".")[-1]])
    editor.page.wait_for_function("() => app.rootGraph.nodes.some(node => node.title === 'From the file')")


# What a browser says a file is, by its name.
TYPES = {"mp4": "video/mp4", "webm": "video/webm", "mov": "video/quicktime", "webp": "image/webp", "png": "image/png"}


SHOWN = [
    ("gif", "img"),
    ("webp (animated)", "img"),
    ("png sequence", "img"),
    ("mov (prores)", "video"),
    ("mp4 (h264)", "video"),
]


@pytest.fixture(params=["canvas", "Nodes 2.0"])
def renderer(editor: Editor, request: pytest.FixtureRequest) -> Iterator[str]:
    choose = "on => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)"
    editor.page.evaluate(choose, request.param == "Nodes 2.0")
    yield request.param
    editor.page.evaluate(choose, False)


def build(editor: Editor, renderer: str, format: str, preview: bool = True) -> None:
    """A graph of a few empty pictures and our saver, its last node."""
    editor.page.evaluate(
        """([format, preview, width, height]) => {
            app.rootGraph.clear()
            const make = (type, x, values) => {
                const node = LiteGraph.createNode(type)
                app.rootGraph.add(node)
                node.pos = [x, 0]
                for (const [name, value] of Object.entries(values))
                    node.widgets.find(w => w.name === name).value = value
                return node
            }
            const image = make('EmptyImage', 0, {width, height, batch_size: 4})
            const video = make('CreateVideo', 300, {})
            const saver = make('SaveVideoStreaming', 600, {format, preview, filename_prefix: 'shown/it'})
            saver.setSize([380, 500])
            image.connect(0, video, 0)
            video.connect(0, saver, saver.findInputSlot('video'))
            app.canvas.ds.scale = 1
            app.canvas.ds.offset = [100, 150]
        }""",
        [format, preview, WIDTH, HEIGHT],
    )
    if renderer != "canvas":
        editor.page.wait_for_function("() => document.querySelectorAll('[data-node-id]').length === 3")


def run(editor: Editor, server: Server) -> dict:
    """Run what is on the canvas; the one file that counts as its output."""
    with editor.page.expect_response(
        lambda response: response.url.endswith("/prompt") and response.request.method == "POST"
    ) as sent:
        editor.page.evaluate("() => void app.queuePrompt(0)")
    outputs = server.result(sent.value.json()["prompt_id"])["outputs"]
    [[saved]] = [output["images"] for output in outputs.values() if "images" in output]
    return saved


# What is seen of the saver, by address; and whatever the frontend itself would show of an output in the node.
SEEN = """() => {
    app.canvas.setDirty(true, true)
    const all = [...document.querySelectorAll(':is(.lg-node, .dom-widget) :is(video, img)')]
        .filter(each => each.src.includes('/view?'))
    const saver = app.rootGraph.nodes.at(-1)
    return {
        shown: all.filter(each => each.closest('.afp-stage') && each.checkVisibility()
            && (each.videoWidth || each.naturalWidth)).map(each => [each.tagName.toLowerCase(), each.src]),
        others: all.filter(each => !each.closest('.afp-stage')).length
            + (saver.imgs?.length ?? 0) + document.querySelectorAll('.lg-node .video-preview').length
    }
}"""


@pytest.mark.parametrize("format, element", SHOWN)
def test_the_node_shows_what_it_saved(editor: Editor, server: Server, renderer: str, format: str, element: str):
    """Pictures as pictures, and of what browsers do not play the small copy; once, and nothing that failed."""
    page = editor.page
    build(editor, renderer, format)
    saved = run(editor, server)
    page.wait_for_function(f"element => ({SEEN})().shown[0]?.[0] === element", arg=element)
    seen = page.evaluate(SEEN)
    assert seen["others"] == 0 and len(seen["shown"]) == 1
    [[_, address]] = seen["shown"]
    [name] = urllib.parse.parse_qs(urllib.parse.urlparse(address).query)["filename"]
    if format == "mov (prores)":
        assert name.endswith("preview_00001_.mp4") and name != saved["filename"], "downloaded, it is another file"
    else:
        assert name == saved["filename"]


def test_where_nothing_can_be_shown_the_facts_are(editor: Editor, server: Server, renderer: str):
    page = editor.page
    build(editor, renderer, "mkv (ffv1)", preview=False)
    saved = run(editor, server)
    expect(page.locator(".afp-file strong")).to_have_text(saved["filename"])
    assert page.evaluate(SEEN) == {"shown": [], "others": 0}
    assert page.get_by_text("Video failed to load").count() == 0


@pytest.mark.parametrize("format", ["gif", "mkv (ffv1)"])
def test_the_node_does_not_go_on_showing_an_older_video(editor: Editor, server: Server, renderer: str, format: str):
    page = editor.page
    build(editor, renderer, "mp4 (h264)", preview=False)
    older = run(editor, server)["filename"]
    shows = f"name => ({SEEN})().shown.some(([, address]) => address.includes(name))"
    page.wait_for_function(shows, arg=older)
    page.evaluate(
        "format => { app.rootGraph.nodes.at(-1).widgets.find(each => each.name === 'format').value = format }", format
    )
    newer = run(editor, server)["filename"]
    expect(page.locator(".afp-file strong")).to_have_text(newer)
    page.wait_for_function(
        "name => ![...document.querySelectorAll('video')].some(each => each.src.includes(name))", arg=older
    )
    if format == "gif":
        page.wait_for_function(shows, arg=newer)


SOCKETS = ("video", "images", "audio")  # of the saver, with no widget


@pytest.mark.parametrize("node_type", ["SaveVideoStreaming", "AsyncVAEDecodeToVideo"])
def test_inputs_that_few_need_are_folded_away(editor: Editor, server: Server, renderer: str, node_type: str):
    """And give their room back when they are folded away again."""
    page = editor.page
    options = input_options(definition(server, node_type))
    always = [name for name, more in options.items() if not more.get("advanced")]
    if node_type == "SaveVideoStreaming":
        assert always == ["filename_prefix", "video", "format", "quality", "images", "fps", "audio", "save_output"]
    else:
        assert always == ["samples", "vae", "fps", "audio", "bit_depth"]
    editor.add(node_type)
    node = "app.rootGraph.nodes[0]"
    if renderer == "canvas":
        page.wait_for_function(f"() => {node}.widgets[0].last_y > 0")
        height, toggle = f"() => {node}.size[1]", lambda: page.evaluate(f"() => {node}.toggleAdvanced()")
    else:
        height = "() => document.querySelector('[data-node-id]').offsetHeight"
        # Not by the mouse: the frontend's mask may lie over it while it goes away.
        toggle = lambda: page.get_by_test_id("advanced-inputs-button").dispatch_event("click")  # noqa: E731
    low = page.evaluate(height)
    shown = page.evaluate(f"() => {node}.widgets.filter(w => {node}.isWidgetVisible(w)).map(w => w.name)")
    assert shown == [name for name in always if name in shown]
    toggle()
    page.wait_for_function(f"low => ({height})() > low + 30", arg=low)
    toggle()
    # A row may be laid out after the first look.
    page.wait_for_function(f"low => ({height})() < low + 30", arg=low)


def test_a_fresh_saver_is_as_wide_as_the_stock_one(editor: Editor):
    editor.add("SaveVideoStreaming")
    ours = editor.page.evaluate("() => app.rootGraph.nodes[0].size[0]")
    editor.add("SaveVideo")
    assert ours >= editor.page.evaluate("() => app.rootGraph.nodes[0].size[0]")


def test_older_workflows_keep_their_values(editor: Editor, server: Server):
    """Saved before there were more than three widgets: the new ones take their defaults."""
    workflow = {
        "last_node_id": 1,
        "last_link_id": 0,
        "links": [],
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
        "nodes": [
            {
                "id": 1,
                "type": "SaveVideoStreaming",
                "pos": [100, 100],
                "size": [300, 150],
                "flags": {},
                "order": 0,
                "mode": 0,
                "inputs": [{"name": "video", "type": "VIDEO", "link": None}],
                "outputs": [{"name": "VIDEO", "type": "VIDEO", "links": None}],
                "properties": {},
                "widgets_values": ["here/it", "mp4 (h264)", "low"],
            }
        ],
    }
    editor.page.evaluate("graph => app.loadGraphData(graph)", workflow)
    editor.page.wait_for_function("() => app.rootGraph.nodes[0]?.type === 'SaveVideoStreaming'")
    inputs = editor.exported()["output"]["1"]["inputs"]
    options = input_options(definition(server, "SaveVideoStreaming"))
    defaults = {name: more["default"] for name, more in options.items() if name not in SOCKETS}
    assert inputs == defaults | {"filename_prefix": "here/it", "format": "mp4 (h264)", "quality": "low"}
