"""The demo, run from the frontend: a saved file, a preview in the node, and the graph back from the file."""

from __future__ import annotations

import io
import urllib.parse

import av
import pytest

from .conftest import Editor, Server
from .watching import Watched

FRAMES, WIDTH, HEIGHT, FPS = 33, 480, 272, 16


pytestmark = pytest.mark.parametrize("frontend", ["pinned"], indirect=True)


@pytest.fixture
def saved(demo: Watched) -> dict:
    """Filename, subfolder and type of the one file."""
    [ui] = [output for output in demo.entry["outputs"].values() if "images" in output]
    [file] = ui["images"]
    return file


def test_run_saves_a_video(saved: dict, server: Server):
    assert saved["type"] == "output" and saved["subfolder"] == "video"
    assert saved["filename"].startswith("async_demo_") and saved["filename"].endswith(".mp4")
    with av.open(io.BytesIO(server.download(**saved))) as container:
        [stream] = container.streams.video
        sizes = [(frame.width, frame.height) for frame in container.decode(stream)]
        assert sizes == [(WIDTH, HEIGHT)] * FRAMES
        assert stream.average_rate == FPS


def test_run_reports_what_the_lanes_did(demo: Watched):
    assert demo.report["frames"] == FRAMES


def test_the_video_plays_in_the_node(demo: Watched, saved: dict):
    page = demo.editor.page
    # 1: the browser has read the file's header and can play it.
    page.wait_for_function("() => document.querySelector('video')?.readyState >= 1")
    preview = page.evaluate(
        "() => [...document.querySelectorAll('video')]"
        ".map(v => ({src: v.src, size: [v.videoWidth, v.videoHeight], seconds: v.duration}))"
    )
    assert len(preview) == 1, "one saver, one preview"
    shown = urllib.parse.parse_qs(urllib.parse.urlparse(preview[0]["src"]).query)
    assert shown["filename"] == [saved["filename"]]
    assert preview[0]["size"] == [WIDTH, HEIGHT]
    assert preview[0]["seconds"] == pytest.approx(FRAMES / FPS, abs=0.5 / FPS)


def test_dropping_the_video_on_the_canvas_restores_the_graph(demo: Watched, saved: dict, editor: Editor):
    editor.clear()
    editor.drop("/view?" + urllib.parse.urlencode(saved), saved["filename"])
    editor.page.wait_for_function("() => app.rootGraph.nodes.some(node => node.type === 'SaveVideoStreaming')")
    assert editor.missing_node_types() == []
    assert editor.exported() == demo.before
