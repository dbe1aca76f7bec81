"""What a node shows of videos that are decoded elsewhere: place in the queue, frames, the video or why there is none.

Most of it with events as the server sends them; the last test has the real nodes and a real farm. To look at it, name a
folder in AFP_PICTURES.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator

import av
import numpy as np
import pytest
from async_frame_pipeline.farm.roles import CLIENT, WORKER
from async_frame_pipeline.farm.settings import Settings
from async_frame_pipeline.tests.farm.ground import Ground
from playwright.sync_api import Locator, expect

from ..automation.loops import run_apart
from .conftest import READY, REPO, Editor, Server, greet_nobody
from .test_lanes import EXECUTED, OPEN, PANEL, RENDERERS, REPORT, picture, set_setting
from .watching import queue, settle

SAVER = "AsyncSaveVideoElsewhere"
FRAMES = 81
_numbers = itertools.count(1)
SEND = """async ([event, detail]) => {
    const { api } = await import('/scripts/api.js')
    api.dispatchCustomEvent(event, detail)
}"""


class Job:
    """One job of node 1 of a workflow of its own, or of another's."""

    def __init__(self, editor: Editor, workflow: str | None = None, node: str = "1"):
        self.editor, number = editor, next(_numbers)
        self.workflow = workflow or f"10000000-0000-4000-8000-{number:012}"
        self.told = {
            "prompt_id": f"20000000-0000-4000-8000-{number:012}",
            "node_id": node,
            "workflow_id": self.workflow,
            "job_id": f"{number:032x}",
            **dict.fromkeys(("before", "frames", "total", "seconds_left", "reason")),
        }

    def tell(self, state: str, **more: object) -> None:
        self.told |= {"state": state, **more}
        self.editor.page.evaluate(SEND, ["async_frame_pipeline.job", self.told])

    def output(self, file: dict) -> dict:
        told = {**self.told, "state": "completed", "frames": FRAMES, "total": FRAMES}
        return {"async_frame_pipeline_job": [json.dumps(told)], "images": [file], "animated": [True]}

    def show(self, file: dict) -> None:
        """As the server does when the video is there."""
        node = self.told["node_id"]
        detail = {"node": node, "display_node": node, "output": self.output(file), "prompt_id": self.told["prompt_id"]}
        self.editor.page.evaluate(SEND, ["executed", detail])


@pytest.fixture(scope="module")
def video(server: Server) -> dict:
    """A finished video in the output folder, as ComfyUI names it."""
    with av.open(str(server.output_dir / "elsewhere.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = 320, 192, "yuv420p"
        for number in range(8):
            picture = np.full((192, 320, 3), (40, 90 + 10 * number, 160), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    return {"filename": "elsewhere.mp4", "subfolder": "", "type": "output"}


def opened(editor: Editor, *jobs: Job) -> Locator:
    """Show the workflow of a job; its panel."""
    editor.page.evaluate(OPEN, [[[1, SAVER], [2, "KSampler"]], jobs[0].workflow])
    return editor.page.locator(PANEL)


def title(panel: Locator) -> Locator:
    return panel.locator(".afp-lanes-head strong")


def expect_video(editor: Editor) -> None:
    editor.page.wait_for_function("() => document.querySelector('.afp-stage video')?.readyState >= 1")
    # The node of Nodes 2.0 grows with it.
    editor.page.wait_for_function(
        """() => {
            const panel = document.querySelector('.afp-lanes'), node = panel.closest('.lg-node')
            return !node || panel.getBoundingClientRect().bottom <= node.getBoundingClientRect().bottom
        }"""
    )
    settle(editor)


@pytest.mark.parametrize("renderer", RENDERERS)
def test_a_job_is_followed_to_its_video(editor: Editor, video: dict, renderer: str):
    set_setting(editor, "Comfy.VueNodes.Enabled", RENDERERS[renderer])
    job, panel = Job(editor), editor.page.locator(PANEL)
    opened(editor, job)
    expect(panel).to_have_count(0)
    job.tell("queued", before=2)
    expect(title(panel)).to_have_text("Queued, 2 before it")
    picture(editor, f"job-{renderer}-1-queued")
    job.tell("queued", before=0, reason="the worker was killed: attempt 2")
    expect(title(panel)).to_have_text("Queued, next to be decoded")
    expect(panel).to_contain_text("the worker was killed")
    job.tell("in_progress", before=None, reason=None)
    expect(title(panel)).to_have_text("Decoding elsewhere")
    job.tell("in_progress", frames=20, total=FRAMES, seconds_left=12.3)
    expect(title(panel)).to_have_text(f"20 of {FRAMES} frames")
    expect(panel.locator(".afp-lanes-head span")).to_have_text("13 s left")
    expect(panel.locator(".afp-lanes-chart")).to_be_hidden()
    settle(editor)
    bar = panel.locator(".afp-job-bar")
    share = bar.evaluate("bar => bar.firstChild.offsetWidth / bar.offsetWidth")
    assert abs(share - 20 / FRAMES) < 0.02
    expect(panel.locator("[role=status]")).to_have_text(re.compile("Decoding elsewhere|20 of 81 frames"))
    picture(editor, f"job-{renderer}-2-frames")
    job.show(video)
    expect_video(editor)
    expect(title(panel)).to_have_text(f"{FRAMES} frames, decoded elsewhere")
    expect(bar).to_be_hidden()
    expect(panel).to_have_count(1)
    width, height = panel.locator(".afp-stage").evaluate("stage => [stage.offsetWidth, stage.offsetHeight]")
    assert abs(width / height - 320 / 192) < 0.05, "the box has the video's proportions"
    picture(editor, f"job-{renderer}-3-video")
    # The next prompt of the same node: its job is told, the video that is there stays.
    second, third = Job(editor, job.workflow), Job(editor, job.workflow)
    second.tell("in_progress", frames=40, total=FRAMES, seconds_left=7)
    third.tell("queued", before=0)
    expect(title(panel)).to_have_text(f"40 of {FRAMES} frames")
    expect(panel).to_contain_text("1 more after it")
    expect(panel.locator("video")).to_have_count(1)
    picture(editor, f"job-{renderer}-4-more")
    second.tell("failed", reason="no worker could decode it\n\nThe latents are saved as 'x.latent'.")
    expect(title(panel)).to_have_text("Queued, next to be decoded")
    third.tell("cancelled", frames=40, total=FRAMES)
    expect(title(panel)).to_have_text(f"Stopped after 40 of {FRAMES} frames")
    expect(panel.locator("video")).to_have_count(0)
    picture(editor, f"job-{renderer}-5-cancelled")
    last = Job(editor, job.workflow)
    last.tell("failed", reason="no worker could decode it\n\nThe latents are saved as 'x.latent'.")
    expect(title(panel)).to_have_text("Failed")
    expect(panel.locator(".afp-lanes-error")).to_have_text(
        ["no worker could decode it", "The latents are saved as 'x.latent'."]
    )
    picture(editor, f"job-{renderer}-6-failed")


def test_another_workflow_and_a_deleted_node_stay_as_they_are(editor: Editor, video: dict):
    page, errors = editor.page, []
    page.on("pageerror", lambda error: errors.append(error))
    mine, other = Job(editor), Job(editor)
    panel = opened(editor, mine)
    mine.tell("queued", before=1)
    expect(title(panel)).to_have_text("Queued, 1 before it")
    opened(editor, other)
    # Node 1 is one that decodes elsewhere here too, and 2 never is.
    stranger = Job(editor, mine.workflow, node="2")
    for job in (mine, stranger):
        job.tell("in_progress", frames=1, total=FRAMES)
        job.show(video)
    expect(panel).to_have_count(0)
    assert page.evaluate("() => app.nodeOutputs") == {}
    page.evaluate("() => app.extensionManager.command.execute('Workspace.PreviousOpenedWorkflow')")
    expect(title(panel)).to_have_text(f"{FRAMES} frames, decoded elsewhere")
    expect_video(editor)
    page.evaluate("() => app.rootGraph.remove(app.rootGraph.getNodeById(1))")
    expect(panel).to_have_count(0)
    late = Job(editor, mine.workflow)
    late.tell("in_progress", frames=1, total=FRAMES)
    late.show(video)
    expect(panel).to_have_count(0)
    assert errors == []


def test_what_was_decoded_here_after_all_says_why(editor: Editor, video: dict):
    job = Job(editor)
    panel = opened(editor, job)
    job.tell("here", reason="decoded here, and not elsewhere: the farm does not answer")
    expect(title(panel)).to_have_text("Decoded here")
    expect(panel).to_contain_text("the farm does not answer")


def test_what_was_decoded_here_is_told_before_an_older_job_that_waits(editor: Editor, video: dict):
    old = Job(editor)
    panel = opened(editor, old)
    old.tell("queued")
    here = Job(editor, old.workflow)
    here.told |= {"state": "here", "reason": "decoded here, and not elsewhere: the farm does not answer"}
    report = REPORT | {"texts": {**REPORT["texts"], "notes": [{"text": here.told["reason"]}]}, "files": []}
    output = {
        "async_frame_pipeline_job": [json.dumps(here.told)],
        "async_frame_pipeline": [json.dumps(report)],
        "images": [video],
        "animated": [True],
    }

    def expect_report() -> None:
        expect(title(panel)).to_have_text("3 frames in 1.0 s")
        expect(panel).to_contain_text("the farm does not answer")
        expect(panel).to_contain_text("1 more after it")

    editor.page.evaluate(EXECUTED, ["1", output])
    expect_report()
    here.tell("here")
    old.tell("queued", before=1)
    expect_report()
    picture(editor, "job-here-and-one-more")
    old.tell("cancelled")
    expect(panel).not_to_contain_text("more after it")
    expect(title(panel)).to_have_text("3 frames in 1.0 s")


def test_a_failure_is_gone_when_the_node_runs_again(editor: Editor):
    page, job = editor.page, Job(editor)
    page.evaluate(OPEN, [[[1, "AsyncCollectVideo"], [2, "KSampler"]], job.workflow])
    panel = page.locator(PANEL)
    size = "() => [...app.rootGraph.getNodeById(1).size]"
    before, exported = page.evaluate(size), editor.exported()
    failed = {"node_id": "1", "node_type": "AsyncCollectVideo", "exception_message": "the farm has no job 'ffff'"}
    for _ in range(2):
        page.evaluate(SEND, ["execution_error", failed])
        expect(panel).to_contain_text("no job 'ffff'")
        settle(editor)
        page.evaluate(SEND, ["executing", "2"])
        expect(panel).to_have_count(1)
        page.evaluate(SEND, ["executing", "1"])
        expect(panel).to_have_count(0)
        assert page.evaluate(size) == before
        assert editor.exported() == exported
    page.evaluate(SEND, ["executing", None])


def test_a_job_is_cancelled_from_the_menu_of_its_node(editor: Editor):
    page, asked = editor.page, []
    page.route(
        "**/async_frame_pipeline/jobs/*/cancel",
        lambda route: (asked.append((route.request.method, route.request.url)), route.fulfill(status=200)),
    )
    items = """text => app.collectNodeMenuItems(app.rootGraph.getNodeById(1))
        .filter(item => item?.content?.match(/elsewhere/))
        .map(item => (item.content === text && item.callback(), item.content))"""
    first = Job(editor)
    opened(editor, first)
    assert page.evaluate(items) == []
    second = Job(editor, first.workflow)
    first.tell("queued", before=0)
    one, several = "Cancel the decode elsewhere", "Cancel all decodes elsewhere of this node"
    assert page.evaluate(items) == [one]
    second.tell("in_progress")
    with page.expect_response("**/cancel"):
        assert page.evaluate(items, one) == [one, several]
    [(method, url)] = asked
    assert method == "POST" and second.told["job_id"] in url, "the one that is told in the node"
    page.unroute_all()
    with page.expect_response("**/cancel") as answer:
        page.evaluate(items, one)
    assert answer.value.status == 404, "the real server does not know it"
    expect(page.get_by_text("It could not be cancelled")).to_be_visible()


def test_after_a_reload_the_server_tells_of_all_jobs(open_editor: Callable[..., Editor], server: Server, video: dict):
    editor = open_editor(server)
    page = editor.page
    job = Job(editor)
    opened(editor, job)
    told = {"jobs": []}
    page.route("**/async_frame_pipeline/jobs", lambda route: route.fulfill(json=told))

    def reload(*jobs: dict) -> Locator:
        # The frontend keeps the workflow a moment after it was changed.
        page.wait_for_function("id => Object.values(localStorage).some(text => text.includes(id))", arg=job.workflow)
        told["jobs"] = [*jobs]
        page.reload()
        page.wait_for_function(READY)
        return page.locator(PANEL)

    panel = reload({**job.told, "state": "in_progress", "frames": 9, "total": FRAMES, "ui": None})
    expect(title(panel)).to_have_text(f"9 of {FRAMES} frames")
    done = {**job.told, "state": "completed", "frames": FRAMES, "total": FRAMES}
    panel = reload({**done, "ui": {"images": [video], "animated": [True]}})
    expect(title(panel)).to_have_text(f"{FRAMES} frames, decoded elsewhere")
    expect_video(editor)
    # A ComfyUI that was started again tells it to a page that stayed.
    told["jobs"] = [{**done, "state": "failed", "reason": "no more", "ui": None}]
    page.evaluate(SEND, ["reconnected", None])
    expect(title(panel)).to_have_text("Failed")
    page.context.close()


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """A farm without a worker."""
    ground = Ground(tmp_path_factory.mktemp("ground"), Settings())
    run_apart(ground.prepare())
    yield ground
    ground.close()


@pytest.fixture(scope="module")
def farmed(ground: Ground, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A ComfyUI that knows the farm."""
    packs = [REPO / "tests" / "server" / "pack"]
    with Server(base=tmp_path_factory.mktemp("farmed"), env={"AFP_FARM": ground.given(CLIENT)}, packs=packs) as server:
        greet_nobody(server)
        yield server


# The bundled latent, of which a piece is sent: a CPU has it in seconds.
GRAPH = """() => {
    const add = (type, x, y) => {
        const node = LiteGraph.createNode(type)
        node.pos = [x, y]
        app.rootGraph.add(node)
        return node
    }
    const set = (node, values) => Object.entries(values).forEach(([name, value]) =>
        (node.widgets.find(widget => widget.name === name).value = value))
    app.rootGraph.clear()
    app.rootGraph.id = crypto.randomUUID()
    const sample = add('SampleVideoLatent', 50, 50), crop = add('AFPTestCropLatent', 50, 200)
    const saver = add('AsyncSaveVideoElsewhere', 400, 50)
    set(crop, { latent_frames: 2, height: 12, width: 18 })
    set(saver, { filename_prefix: 'elsewhere/it', if_unreachable: 'error' })
    sample.connect(0, crop, 0)
    crop.connect(0, saver, 0)
    sample.connect(1, saver, 1)
}"""

PREFIX = """prefix => app.rootGraph.nodes.find(node => node.type === 'AsyncSaveVideoElsewhere').widgets
    .find(widget => widget.name === 'filename_prefix').value = prefix"""


def test_a_real_farm_decodes_it_and_the_video_is_there_after_a_reload(
    open_editor: Callable[..., Editor], ground: Ground, farmed: Server
):
    editor = open_editor(farmed)
    page = editor.page
    page.evaluate(GRAPH)
    panel = page.locator(PANEL)
    assert farmed.wait(queue(editor))["status"]["status_str"] == "success", "the prompt ends without a worker"
    expect(title(panel)).to_have_text("Queued, next to be decoded")
    # ComfyUI would answer the same prompt from its cache.
    page.evaluate(PREFIX, "elsewhere/other")
    farmed.wait(queue(editor))
    expect(panel).to_contain_text("1 more after it")
    # The one that is told is cancelled, by the user in the menu.
    page.evaluate(
        """() => app.collectNodeMenuItems(app.rootGraph.nodes.find(node => node.type === 'AsyncSaveVideoElsewhere'))
            .find(item => item?.content === 'Cancel the decode elsewhere').callback()"""
    )
    expect(panel).not_to_contain_text("more after it")
    expect(title(panel)).to_have_text("Queued, next to be decoded")
    command = [sys.executable, str(REPO / "farm" / "__main__.py"), "work", "worker", "--device", "cpu"]
    env = {**os.environ, "AFP_FARM": ground.given(WORKER), "CUDA_VISIBLE_DEVICES": ""}
    ground._processes.append(subprocess.Popen(command, env=env, stdin=subprocess.PIPE))
    expect(title(panel)).to_have_text("5 frames, decoded elsewhere")
    expect_video(editor)
    assert [path.name for path in (farmed.output_dir / "elsewhere").iterdir()] == ["other_00001_.mp4"]
    picture(editor, "job-farm-1")
    page.wait_for_function("() => Object.values(localStorage).some(text => text.includes(app.rootGraph.id))")
    page.reload()
    page.wait_for_function(READY)
    expect(title(panel)).to_have_text("5 frames, decoded elsewhere")
    expect_video(editor)
    picture(editor, "job-farm-2")
    page.context.close()
