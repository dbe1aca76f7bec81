#!/usr/bin/env python3
"""Write what follows from the workflows and nodes: API forms, thumbnails, and the pictures of the help pages
and the README.

    .host/venv/bin/python tests/workflows/export.py [api] [thumbnails] [help] [swap] [readme]     (default: all)

Needs what scripts/test installs; CHROMIUM_PATH as there.

Run it after changing a workflow, or how a node looks, and look at what it made. Everything comes out of the real
frontend. The pictures show graphs and the bundled clip: never a result that no model has made.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import av
from PIL import Image
from playwright.sync_api import Page, sync_playwright

REPO = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(REPO), str(REPO / "tests" / "workflows")]

from names import API_FORMS  # noqa: E402
from stand_ins import STAND_INS  # noqa: E402

from tests.frontend.conftest import CHROMIUM_FLAGS, READY, Editor, Server  # noqa: E402

WORKFLOWS = REPO / "workflows"
HELP = REPO / "web" / "docs"
DOCS = REPO / "docs"
# Nothing over the canvas, and text at every zoom.
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasMenu": False,
    "Comfy.Graph.CanvasInfo": False,
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,
}

# Title, subtitle, what the last nodes do.
CARDS = {
    "HunyuanVideo 1.5 text to video": ("HunyuanVideo", "1.5 · text to video", "lanes"),
    "LTX-2.3 text to video": ("LTX-2.3", "text to video · with sound", "lanes"),
    "Resume from rescued latents": ("Resume", "from rescued latents", "lanes"),
    "Wan 2.2 14B text to video": ("Wan 2.2 14B", "text to video", "lanes"),
    "Wan 2.2 14B text to video, 4 steps": ("Wan 2.2 14B", "text to video · 4 steps", "lanes"),
    "Wan 2.2 14B text to video, 4 steps, decode elsewhere": ("Wan 2.2 14B", "4 steps · decode elsewhere", "elsewhere"),
    "Wan 2.2 14B text to video, 4 steps, smoother": ("Wan 2.2 14B", "4 steps · smoother, larger", "twice"),
    "Wan 2.2 14B image to video": ("Wan 2.2 14B", "image to video", "lanes"),
    "Wan 2.2 14B image to video, 4 steps": ("Wan 2.2 14B", "image to video · 4 steps", "lanes"),
    "Wan 2.2 5B text or image to video": ("Wan 2.2 5B", "text or image to video", "lanes"),
    "Wan 2.2 5B long clip": ("Wan 2.2 5B", "long clip, straight to file", "lanes"),
}
STYLE = """
    body { margin: 0; width: 512px; height: 512px; background: #14171c; color: #f2f4f7; overflow: hidden;
           font-family: "DejaVu Sans", sans-serif; display: flex; flex-direction: column }
    h1 { margin: 26px 28px 0; font-size: 50px }
    h2 { margin: 4px 28px 22px; font-size: 27px; font-weight: normal; color: #9db4cc }
    .graph { width: 512px; filter: brightness(1.4) }
    .rest { flex: 1; display: flex; flex-direction: column; justify-content: center }
    .row { position: relative; height: 38px; margin-left: 28px; font-size: 20px; line-height: 28px; color: #9db4cc }
    .row i, .row b { position: absolute; height: 26px; border-radius: 5px } .row b { color: #f2f4f7 }
    .boxes { justify-content: space-evenly; flex-direction: row; align-items: center }
    .boxes div { background: #2f6fb0; border-radius: 10px; padding: 14px; font-size: 20px; text-align: center;
                 line-height: 1.4 }
    .frames { position: relative; width: 512px; height: 460px; overflow: hidden } .frames img { position: absolute }
    .frames img + img { right: 14px; bottom: 14px; border: 3px solid #f2f4f7; border-radius: 6px }
    .caption { line-height: 52px; text-align: center; font-size: 24px; background: #191919 }
"""


def lane(name: str, start: int, width: int, color: str, end: str = "") -> str:
    """Four pieces of work; those of the next lane begin where these end."""
    lefts = [94 + start + 58 * i for i in range(4)]
    bars = "".join(f'<i style="left: {left}px; width: {width}px; background: {color}"></i>' for left in lefts)
    return f'<div class="row">{name}{bars}<b style="left: {lefts[-1] + width + 10}px">{end}</b></div>'


LANES = lane("decode", 0, 54, "#3a7fc8") + lane("copy", 58, 22, "#8a63d2") + lane("encode", 84, 46, "#2e9e63", ".mp4")
ELSEWHERE = lane("GPU 0", 6, 54, "#3a7fc8", "next") + lane("GPU 1", 64, 24, "#2e9e63", ".mp4")
TWICE = "<div>decode<br>once</div><div>16 fps<br>640x640</div><div>32 fps<br>1280x1280</div>"


@contextlib.contextmanager
def frontend(viewport: tuple[int, int] = (2800, 1700)) -> Iterator[tuple[Server, Editor]]:
    """A server with an empty file for each model, so that none is shown as missing; and the bare canvas."""
    with tempfile.TemporaryDirectory() as base:
        for folder, name in STAND_INS:
            path = Path(base, "models", folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        with Server(base=Path(base)) as server, sync_playwright() as playwright:
            # Not ComfyUI's own picture of this name: what is made here is part of this repository.
            Image.linear_gradient("L").resize((768, 768)).convert("RGB").save(server.base / "input" / "example.png")
            for name, value in SETTINGS.items():
                server.post(f"/settings/{name}", value)
            chromium = os.environ.get("CHROMIUM_PATH", "/usr/bin/chromium")
            browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
            page = browser.new_context(viewport={"width": viewport[0], "height": viewport[1]}).new_page()
            page.set_default_timeout(300_000)  # for a decode on a busy machine
            page.goto(server.url)
            page.wait_for_function(READY)
            editor = Editor(page)
            page.evaluate("() => app.extensionManager.command.execute('Workspace.ToggleFocusMode')")
            yield server, editor
            browser.close()


def open_workflow(editor: Editor, path: Path) -> None:
    graph = json.loads(path.read_text())
    editor.page.evaluate("graph => app.loadGraphData(graph)", graph)
    editor.page.wait_for_function("id => app.rootGraph.id === id", arg=graph["id"])


def picture(
    page: Page, width: int, types: str = "node => node.type !== 'MarkdownNote'", margin: int = 24
) -> Image.Image:
    """The part of the graph with these nodes and the groups around them, `width` pixels wide."""
    page.wait_for_function("() => app.rootGraph.nodes.every(node => node.type !== 'LoadImage' || node.imgs?.length)")
    settle(page)
    height = page.evaluate(
        """async ([wanted, width, margin]) => {
            const nodes = app.rootGraph.nodes.filter(eval(wanted))
            const inside = ([x, y, w, h], node) =>
                node.pos[0] >= x && node.pos[1] >= y && node.pos[0] < x + w && node.pos[1] < y + h
            const groups = app.rootGraph.groups.filter(group => nodes.some(node => inside(group._bounding, node)))
            const boxes = [...nodes.map(node => [...node.getBounding()]), ...groups.map(group => [...group._bounding])]
            const left = Math.min(...boxes.map(b => b[0])) - margin, top = Math.min(...boxes.map(b => b[1])) - margin
            const w = Math.max(...boxes.map(b => b[0] + b[2])) + margin - left
            const h = Math.max(...boxes.map(b => b[1] + b[3])) + margin - top
            app.canvas.ds.scale = width / w
            app.canvas.ds.offset = [-left, -top]
            app.canvas.setDirty(true, true)
            // The elements over the canvas follow one frame behind it.
            for (let i = 0; i < 3; i++) await new Promise(requestAnimationFrame)
            return Math.round(h * width / w)
        }""",
        [types, width, margin],
    )
    return Image.open(io.BytesIO(page.screenshot(clip={"x": 0, "y": 0, "width": width, "height": height}))).convert(
        "RGB"
    )


def data_url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def rendered(page: Page, body: str) -> Image.Image:
    """HTML on a card of 512x512."""
    page.set_viewport_size({"width": 512, "height": 512})
    page.set_content(f"<style>{STYLE}</style>{body}")
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def write_api_forms(editor: Editor) -> None:
    for path in sorted(WORKFLOWS.glob("*.json")):
        open_workflow(editor, path)
        text = json.dumps(editor.exported()["output"], indent=2, ensure_ascii=False) + "\n"
        (WORKFLOWS / "api" / f"{API_FORMS[path.stem]}.json").write_text(text)


def write_thumbnails(editor: Editor) -> None:
    card = editor.page.context.new_page()
    for name, (title, subtitle, ending) in CARDS.items():
        open_workflow(editor, WORKFLOWS / f"{name}.json")
        graph = picture(editor.page, 1024)
        rest = {
            "lanes": f'<div class="rest">{LANES}</div>',
            "elsewhere": f'<div class="rest">{ELSEWHERE}</div>',
            "twice": f'<div class="rest boxes">{TWICE}</div>',
        }[ending]
        body = f'<h1>{title}</h1><h2>{subtitle}</h2><img class="graph" src="{data_url(graph)}">{rest}'
        rendered(card, body).save(WORKFLOWS / f"{name}.jpg", quality=88)
    card.close()


def write_demo_thumbnail(server: Server, editor: Editor) -> None:
    """The demo that scales: the same frame of both files it saves."""
    outputs = server.run(json.loads((WORKFLOWS / "api" / "demo_upscale.json").read_text()))["outputs"]
    frames = []
    for file in [file for output in outputs.values() for file in output.get("images", [])]:
        with av.open(io.BytesIO(server.download(**file))) as container:
            frames.append(next(frame for i, frame in enumerate(container.decode(video=0)) if i == 16).to_image())
    small, large = sorted(frames, key=lambda frame: frame.width)
    body = (
        f'<div class="frames"><img src="{data_url(large)}" style="height: 460px">'
        f'<img src="{data_url(small)}" style="height: 150px"></div><div class="caption">decode once, save twice</div>'
    )
    card = editor.page.context.new_page()
    rendered(card, body).save(WORKFLOWS / "Demo in two sizes.jpg", quality=88)
    card.close()


def show(editor: Editor, nodes: dict[str, tuple], links: list[tuple[str, int, str, str]]) -> None:
    """Show a graph.

    Args:
        nodes: name -> (type, position, size, {widget: value} or "collapsed").
        links: (from, output, to, input).
    """
    editor.page.evaluate(
        """([nodes, links]) => {
            app.rootGraph.clear()
            app.nodeOutputs = {}  // else a node shows what one of the same number made before
            const made = {}
            for (const [name, [type, pos, size, widgets]] of Object.entries(nodes)) {
                const node = (made[name] = LiteGraph.createNode(type))
                app.rootGraph.add(node)
                node.pos = pos
                node.setSize(size)
                if (widgets === 'collapsed') node.collapse()
                else for (const [key, value] of Object.entries(widgets))
                    node.widgets.find(w => w.name === key).value = value
            }
            for (const [from, output, to, input] of links)
                made[from].connect(output, made[to], made[to].findInputSlot(input))
        }""",
        [nodes, links],
    )


# What a farm would tell of a job of the node that decodes elsewhere.
TELL = """async job => {
    const { api } = await import('/scripts/api.js')
    const node_id = `${app.rootGraph.nodes.find(node => node.type === 'AsyncSaveVideoElsewhere').id}`
    api.dispatchCustomEvent('async_frame_pipeline.job', { job_id: 'a', node_id, ...job })
}"""


def write_help_pictures(server: Server, editor: Editor) -> None:
    """Narrow ones: the info panel shows them some 250 pixels wide."""
    page = editor.page
    everything = "() => true"
    source = {
        "sampler": ("KSampler", [0, 0], [250, 260], "collapsed"),
        "vae": ("VAELoader", [0, 70], [250, 58], {"vae_name": "wan_2.1_vae.safetensors"}),
    }
    save = {"filename_prefix": "video/fox"}

    nodes = source | {
        "decode": ("AsyncVAEDecodeToVideo", [40, 200], [250, 178], {}),
        "save": ("SaveVideoStreaming", [80, 450], [250, 130], save),
    }
    show(
        editor,
        nodes,
        [("sampler", 0, "decode", "samples"), ("vae", 0, "decode", "vae"), ("decode", 0, "save", "video")],
    )
    save_jpg(picture(page, 640, everything), HELP / "AsyncVAEDecodeToVideo" / "graph.jpg")

    nodes = source | {
        "decode": ("AsyncVAEDecodeVideo", [40, 200], [250, 78], {}),
        "scale": ("ImageScaleBy", [80, 348], [250, 82], {"upscale_method": "lanczos", "scale_by": 2}),
        "video": ("CreateVideo", [80, 500], [250, 102], {"fps": 16}),
        "save": ("SaveVideoStreaming", [80, 672], [250, 130], save),
    }
    links = [("sampler", 0, "decode", "samples"), ("vae", 0, "decode", "vae"), ("decode", 0, "scale", "image")]
    show(editor, nodes, [*links, ("scale", 0, "video", "images"), ("video", 0, "save", "video")])
    save_jpg(picture(page, 640, everything), HELP / "AsyncVAEDecodeVideo" / "graph.jpg")

    for node, output in (("AsyncVAEDecodeTiled", "images"), ("AsyncVAEDecodeTiledToVideo", "video")):
        nodes = source | {
            "decode": (
                node,
                [40, 200],
                [290, 180 if output == "images" else 280],
                {"fps": 24} if output == "video" else {},
            ),
            "save": ("SaveVideoStreaming", [80, 450 if output == "images" else 550], [250, 130], save),
        }
        links = [("sampler", 0, "decode", "samples"), ("vae", 0, "decode", "vae"), ("decode", 0, "save", output)]
        show(editor, nodes, links)
        save_jpg(picture(page, 640, everything), HELP / node / "graph.jpg")

    links = [("sampler", 0, "decode", "samples"), ("vae", 0, "decode", "vae")]
    nodes = source | {"decode": ("AsyncSaveVideoElsewhere", [40, 200], [310, 290], {**save, "fps": 16})}
    show(editor, nodes, links)
    page.evaluate(TELL, {"state": "in_progress", "frames": 34, "total": 81, "seconds_left": 7})
    settle(page)
    save_jpg(picture(page, 640, everything), HELP / "AsyncSaveVideoElsewhere" / "graph.jpg")
    nodes = source | {
        "decode": ("AsyncDecodeElsewhere", [40, 200], [270, 230], {"fps": 16, "quality": "very high"}),
        "save": ("SaveVideoStreaming", [80, 500], [250, 130], save),
    }
    show(editor, nodes, [*links, ("decode", 0, "save", "video")])
    save_jpg(picture(page, 640, everything), HELP / "AsyncDecodeElsewhere" / "graph.jpg")
    nodes = {
        "collect": ("AsyncCollectVideo", [0, 0], [330, 60], {"job": "5b3c1e9a7d2f4c86a0e1f2d3c4b5a697"}),
        "parts": ("GetVideoComponents", [80, 120], [250, 90], {}),
    }
    show(editor, nodes, [("collect", 0, "parts", "video")])
    settle(page)
    save_jpg(picture(page, 640, everything), HELP / "AsyncCollectVideo" / "graph.jpg")

    nodes = {
        "sample": ("SampleVideoLatent", [0, 0], [270, 70], {}),
        "decode": ("AsyncVAEDecodeToVideo", [40, 140], [270, 178], {}),
        "save": ("SaveVideoStreaming", [0, 400], [340, 460], {"filename_prefix": "video/bunny"}),
    }
    show(
        editor,
        nodes,
        [("sample", 0, "decode", "samples"), ("sample", 1, "decode", "vae"), ("decode", 0, "save", "video")],
    )
    entry = server.wait(queue(editor))
    assert entry["status"]["status_str"] == "success", entry["status"]
    show_second(page, 1)
    save_jpg(picture(page, 640, everything), HELP / "SampleVideoLatent" / "graph.jpg")
    save_jpg(
        picture(page, 640, "node => node.type === 'SaveVideoStreaming'"), HELP / "SaveVideoStreaming" / "graph.jpg"
    )


def write_swap_picture(editor: Editor) -> None:
    """Its menu, and what comes of it."""
    page = editor.page
    nodes = {
        "sampler": ("KSampler", [0, 40], [270, 262], {}),
        "vae": ("VAELoader", [0, 360], [270, 58], {"vae_name": "wan_2.1_vae.safetensors"}),
        "decode": ("VAEDecode", [320, 40], [210, 46], {}),
        "video": ("CreateVideo", [320, 150], [250, 102], {"fps": 16}),
        "save": ("SaveVideo", [620, 40], [270, 106], {}),
    }
    links = [("sampler", 0, "decode", "samples"), ("vae", 0, "decode", "vae"), ("decode", 0, "video", "images")]
    show(editor, nodes, [*links, ("video", 0, "save", "video")])
    page.set_viewport_size({"width": 960, "height": 640})
    # Low enough for the message not to cover the nodes.
    page.evaluate(
        "() => { app.canvas.ds.scale = 1; app.canvas.ds.offset = [40, 180]; app.canvas.setDirty(true, true) }"
    )
    settle(page)
    page.mouse.click(40 + 320 + 60, 180 + 40 - 12, button="right")
    entry = page.get_by_text("Swap with Create Video for Async VAE Decode to Video", exact=True)
    entry.hover()
    menu = screenshot(page)
    entry.click()
    page.get_by_text("VAE Decode + Create Video → Async VAE Decode to Video").wait_for()
    page.wait_for_function("() => app.rootGraph.nodes.length === 4")
    settle(page)
    save_jpg(side_by_side(menu, screenshot(page)), DOCS / "swap.jpg", quality=80)


def write_readme_pictures(server: Server, editor: Editor) -> None:
    """The lanes, while they run and after; all of the demo."""
    page = editor.page
    open_workflow(editor, WORKFLOWS / "Demo.json")
    page.set_viewport_size({"width": 1200, "height": 1000})
    saver = "node => node.type === 'SaveVideoStreaming'"
    prompt_id = queue(editor)
    page.wait_for_function("() => parseInt(document.querySelector('.afp-lanes-head strong')?.textContent) >= 20")
    settle(page)
    running = picture(page, 640, saver)
    entry = server.wait(prompt_id)
    assert entry["status"]["status_str"] == "success", entry["status"]
    show_second(page, 1)
    save_jpg(side_by_side(running, picture(page, 640, saver)), DOCS / "lanes.jpg", quality=80)
    save_jpg(picture(page, 1100, "() => true"), DOCS / "demo.jpg", quality=85)


def queue(editor: Editor) -> str:
    with editor.page.expect_response(
        lambda response: response.url.endswith("/prompt") and response.request.method == "POST"
    ) as sent:
        editor.page.evaluate("() => void app.queuePrompt(0)")
    return sent.value.json()["prompt_id"]


def show_second(page: Page, second: float) -> None:
    """Stop the video in the node at this time."""
    page.wait_for_function("() => document.querySelector('video')?.readyState >= 2")
    page.evaluate(
        "second => { const video = document.querySelector('video'); video.pause(); video.currentTime = second }", second
    )
    page.wait_for_function("() => !document.querySelector('video').seeking")
    settle(page)


def settle(page: Page) -> None:
    """Some frames, in which nodes grow to fit and elements take their places."""
    page.evaluate("async () => { for (let i = 0; i < 30; i++) await new Promise(requestAnimationFrame) }")


def screenshot(page: Page) -> Image.Image:
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def side_by_side(left: Image.Image, right: Image.Image) -> Image.Image:
    both = Image.new("RGB", (left.width + 12 + right.width, max(left.height, right.height)), "#191919")
    both.paste(left, (0, 0))
    both.paste(right, (left.width + 12, 0))
    return both


def save_jpg(image: Image.Image, path: Path, quality: int = 88) -> None:
    path.parent.mkdir(exist_ok=True)
    image.save(path, quality=quality, optimize=True)


def main(parts: list[str]) -> None:
    wanted = parts or ["api", "thumbnails", "help", "swap", "readme"]
    with frontend() as (server, editor):
        if "api" in wanted:
            write_api_forms(editor)
        if "thumbnails" in wanted:
            write_thumbnails(editor)
            write_demo_thumbnail(server, editor)
        if "help" in wanted:
            write_help_pictures(server, editor)
        if "swap" in wanted:
            write_swap_picture(editor)
        if "readme" in wanted:
            write_readme_pictures(server, editor)


if __name__ == "__main__":
    main(sys.argv[1:])
