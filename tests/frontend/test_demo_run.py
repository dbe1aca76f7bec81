"""The demo, run from the frontend: a saved file, a preview in the node, and the graph back from the file."""

from __future__ import annotations

import dataclasses
import io
import urllib.parse
from collections.abc import Callable, Iterator

import av
import pytest

from .conftest import Editor, Server

FRAMES, WIDTH, HEIGHT, FPS = 33, 480, 272, 16


@dataclasses.dataclass
class DemoRun:
    """What one press on Run left behind."""

    editor: Editor
    queued: dict  # the graph and prompt at the time
    outputs: dict  # ui output by node id
    file: dict  # filename, subfolder, type

    @property
    def url(self) -> str:
        return "/view?" + urllib.parse.urlencode(self.file)


@pytest.fixture(scope="module")
def demo_run(open_editor: Callable[[], Editor], server: Server) -> Iterator[DemoRun]:
    """The demo template, run once for all tests here: decoding takes half a minute on a CPU."""
    editor = open_editor()
    editor.open_template("demo")
    queued = editor.exported()
    with editor.page.expect_response(lambda response: response.url.endswith("/prompt") and response.request.method == "POST") as sent:
        editor.page.get_by_test_id("queue-button").click()
    entry = server.wait(sent.value.json()["prompt_id"])
    assert entry["status"]["status_str"] == "success", entry["status"]
    [ui] = [output for output in entry["outputs"].values() if "images" in output]
    [file] = ui["images"]
    yield DemoRun(editor, queued, entry["outputs"], file)
    editor.page.context.close()


def test_run_saves_a_video(demo_run: DemoRun, server: Server):
    assert demo_run.file["type"] == "output" and demo_run.file["subfolder"] == "video"
    assert demo_run.file["filename"].startswith("async_demo_") and demo_run.file["filename"].endswith(".mp4")
    with av.open(io.BytesIO(server.download(**demo_run.file))) as container:
        [stream] = container.streams.video
        sizes = [(frame.width, frame.height) for frame in container.decode(stream)]
        assert sizes == [(WIDTH, HEIGHT)] * FRAMES
        assert stream.average_rate == FPS


def test_run_reports_what_the_lanes_did(demo_run: DemoRun):
    [report] = next(output["async_frame_pipeline"] for output in demo_run.outputs.values() if "async_frame_pipeline" in output)
    assert report["frames"] == FRAMES


def test_the_video_plays_in_the_node(demo_run: DemoRun):
    page = demo_run.editor.page
    # 1: the browser has read the file's header and can play it.
    page.wait_for_function("() => document.querySelector('video')?.readyState >= 1")
    preview = page.evaluate(
        "() => [...document.querySelectorAll('video')].map(v => ({src: v.src, size: [v.videoWidth, v.videoHeight], seconds: v.duration}))"
    )
    assert len(preview) == 1, "one saver, one preview"
    shown = urllib.parse.parse_qs(urllib.parse.urlparse(preview[0]["src"]).query)
    assert shown["filename"] == [demo_run.file["filename"]]
    assert preview[0]["size"] == [WIDTH, HEIGHT]
    assert preview[0]["seconds"] == pytest.approx(FRAMES / FPS, abs=0.5 / FPS)


def test_dropping_the_video_on_the_canvas_restores_the_graph(demo_run: DemoRun, editor: Editor):
    editor.clear()
    editor.drop(demo_run.url, demo_run.file["filename"])
    editor.page.wait_for_function("() => app.rootGraph.nodes.some(node => node.type === 'SaveVideoStreaming')")
    assert editor.missing_node_types() == []
    assert editor.exported() == demo_run.queued
