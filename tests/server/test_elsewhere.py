"""Decode elsewhere, with a real ComfyUI, a real farm and its real decoder, on the CPU.

Nothing here waits for a time: where a job must still be under way, no worker is there yet, or it stands still.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import aiohttp
import av
import host
import numpy as np
import pytest
from async_frame_pipeline.farm.client import farm
from async_frame_pipeline.farm.roles import CLIENT, WORKER
from async_frame_pipeline.farm.settings import Settings
from async_frame_pipeline.tests.farm.ground import Ground
from graph import Graph, Link, refusal, run
from mp4 import read
from resume import rescued_name

PATIENCE_SECONDS = 120
SIZE = {"latent_frames": 2, "height": 4, "width": 6}
FRAMES = 5
EVENT = "async_frame_pipeline.job"
JOB = "async_frame_pipeline_job"


class Farm:
    """A nats-server, and a worker as `farm worker` starts it."""

    def __init__(self, folder: Path):
        self.ground = Ground(folder, Settings())
        asyncio.run(self.ground.prepare())

    def start_worker(self, name: str = "worker", *arguments: object) -> subprocess.Popen:
        command = [sys.executable, host.REPO / "farm" / "__main__.py", "work", name, "--device", "cpu", *arguments]
        env = {**os.environ, "AFP_FARM": self.ground.given(WORKER), "CUDA_VISIBLE_DEVICES": ""}
        worker = subprocess.Popen([*map(str, command)], env=env, stdin=subprocess.PIPE)
        self.ground._processes.append(worker)
        return worker

    @contextlib.contextmanager
    def worker_stands_still(self):
        self.worker.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.worker.send_signal(signal.SIGCONT)

    def ask(self, question):
        """The answer of a coroutine function to a client."""

        async def ask():
            async with farm(self.ground.given(CLIENT)) as client:
                return await asyncio.wait_for(question(client), PATIENCE_SECONDS)

        return asyncio.run(ask())

    def record(self, job_id: str):
        return self.ask(lambda client: client.broker.record(job_id))


class Page:
    """A page that is open: what it is told, in order."""

    def __init__(self, server):
        self.id, self.told = uuid.uuid4().hex, []
        self._url, self._open = f"{server.url}/ws", threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._listen()), daemon=True).start()
        assert self._open.wait(PATIENCE_SECONDS)

    async def _listen(self):
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(self._url, params={"clientId": self.id}) as socket,
        ):
            self._open.set()
            async for message in socket:
                if message.type is aiohttp.WSMsgType.TEXT:
                    self.told.append(json.loads(message.data))

    def of(self, event: str) -> list[dict]:
        return [each["data"] for each in list(self.told) if each["type"] == event]


@pytest.fixture(scope="module")
def the_farm(tmp_path_factory):
    the_farm = Farm(tmp_path_factory.mktemp("ground"))
    yield the_farm
    the_farm.ground.close()


@pytest.fixture(scope="module")
def start_comfyui(the_farm, tmp_path_factory):
    """Start the same ComfyUI, as a user starts it again."""
    base = tmp_path_factory.mktemp("comfyui")
    packs = [Path(__file__).parent / "pack"]
    return lambda: host.Server(base=base, env={"AFP_FARM": the_farm.ground.given(CLIENT)}, packs=packs)


@pytest.fixture(scope="module")
def restarted(the_farm, start_comfyui):
    """A ComfyUI whose first run sent a job, ran another prompt meanwhile, and was killed; and what it had sent.

    There was no worker until it was gone: so the next prompt can only have run while the job waited.
    """
    with start_comfyui() as server:
        graph, saver = sending("killed")
        sent = job_of(run(server, graph).ui(saver)[JOB])
        other = Graph()
        other("PreviewAny", source=other("SampleVideoLatent"))
        run(server, other)
        [before] = jobs(server)
        server.process.kill()
        server.process.wait()
        files = [path for path in server.output_dir.rglob("*") if path.is_file()]
    the_farm.worker = the_farm.start_worker()
    record = until(lambda: (found := the_farm.record(sent["job_id"])).state == "completed" and found)
    with start_comfyui() as server:
        yield {"server": server, "sent": sent, "before": before, "files": files, "record": record}


@pytest.fixture(scope="module")
def comfyui(restarted):
    return restarted["server"]


def sending(prefix: str, node="AsyncSaveVideoElsewhere", crop=SIZE, **more: object) -> tuple[Graph, Link]:
    """A prompt that sends a piece of the bundled latent."""
    graph = Graph()
    sample = graph("SampleVideoLatent")
    latent = graph("AFPTestCropLatent", samples=sample[0], **crop)
    if node == "AsyncSaveVideoElsewhere":
        more["filename_prefix"] = prefix
    return graph, graph(node, **{"samples": latent, "vae": sample[1], "fps": 16.0, "quality": "lossless", **more})


def job_of(texts: list[str]) -> dict:
    [text] = texts
    return json.loads(text)


def jobs(server) -> list[dict]:
    return server.get("/async_frame_pipeline/jobs")["jobs"]


def until(condition):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)
    return found


def ended(server, job_id: str) -> dict:
    """What a page is told of a job, when it is over."""
    over = ("completed", "failed", "cancelled")
    return until(
        lambda: next((each for each in jobs(server) if each["job_id"] == job_id and each["state"] in over), None)
    )


def path_of(server, job: dict) -> Path:
    [image] = job["ui"]["images"]
    return server.output_dir / image["subfolder"] / image["filename"]


def files(server, prefix: str) -> list[str]:
    """Of whatever kind, hidden ones too."""
    return sorted(path.name for path in server.output_dir.iterdir() if prefix in path.name)


def test_the_next_prompt_runs_while_the_job_waits(restarted):
    assert restarted["sent"]["state"] == "queued"
    assert (restarted["before"]["state"], restarted["before"]["before"]) == ("queued", 0)
    assert restarted["files"] == []


def test_the_file_of_a_comfyui_that_was_killed_is_there_after_its_restart_once(restarted, comfyui, the_farm):
    job = ended(comfyui, restarted["sent"]["job_id"])
    path = path_of(comfyui, job)
    assert len(read(path).pts) == FRAMES and files(comfyui, "killed") == [path.name]
    until(lambda: the_farm.record(job["job_id"]).delivered)


def test_the_pixels_are_those_that_are_decoded_here(comfyui):
    """By the same decoder, on the same kind of device; with sound; the file brings the workflow back."""
    graph, saver = sending("there")
    graph.prompt[saver.node]["inputs"]["audio"] = [graph("AFPTestAudio", seconds=1.0).node, 0]
    outcome = run(comfyui, graph)
    here = Graph()
    sample = here("SampleVideoLatent")
    latent = here("AFPTestCropLatent", samples=sample[0], **SIZE)
    video = here("AsyncVAEDecodeToVideo", samples=latent, vae=sample[1], fps=16.0)
    file = here("SaveVideoStreaming", video=video, filename_prefix="here", quality="lossless")
    [image] = run(comfyui, here).ui(file)["images"]
    path = path_of(comfyui, ended(comfyui, job_of(outcome.ui(saver)[JOB])["job_id"]))
    a, b = read(path), read(comfyui.output_dir / image["filename"])
    assert a.frames_equal(b) and len(a.pts) == FRAMES and a.colour == b.colour
    with av.open(str(path)) as container:
        assert json.loads(container.metadata["prompt"]) == graph.prompt
        heard = np.concatenate([frame.to_ndarray().ravel() for frame in container.decode(audio=0)])
    assert np.abs(heard).max() > 0.1


def test_the_page_and_the_history_are_told(comfyui):
    page = Page(comfyui)
    graph, saver = sending("told", priority="pro")
    queued = {"prompt": graph.prompt, "client_id": page.id}
    prompt_id = comfyui.post("/prompt", queued)["prompt_id"]
    job_id = job_of(comfyui.result(prompt_id)["outputs"][saver.node][JOB])["job_id"]
    job = ended(comfyui, job_id)
    shown = until(lambda: [each for each in page.of("executed") if "images" in (each["output"] or {})])
    assert [(each["node"], each["prompt_id"]) for each in shown] == [(saver.node, prompt_id)]
    assert shown[0]["output"]["images"] == job["ui"]["images"] and shown[0]["output"]["animated"] == [True]
    told = until(lambda: [each for each in page.of(EVENT) if each["state"] == "completed"])
    assert {key: value for key, value in job.items() if key != "ui"} == told[-1]
    assert {(each["job_id"], each["node_id"], each["prompt_id"]) for each in page.of(EVENT)} == {
        (job_id, saver.node, prompt_id)
    }
    until(lambda: "images" in comfyui.get(f"/history/{prompt_id}")[prompt_id]["outputs"][saver.node])
    # Queued again it is as with every saver: nothing runs, and the same file is shown.
    again = comfyui.result(comfyui.post("/prompt", queued)["prompt_id"])
    assert again["outputs"][saver.node]["images"] == job["ui"]["images"]
    assert len(files(comfyui, "told")) == 1


def test_others_are_told_nothing(comfyui):
    page = Page(comfyui)
    graph, saver = sending("others")
    ended(comfyui, job_of(run(comfyui, graph).ui(saver)[JOB])["job_id"])
    assert page.of(EVENT) == page.of("executed") == []


def test_decode_elsewhere_and_collect_give_videos(comfyui):
    graph, saver = sending("collected")
    node = graph("AsyncDecodeElsewhere", **sending("", "AsyncDecodeElsewhere")[0].prompt["3"]["inputs"])
    for video in (graph("AsyncCollectVideo", job=saver), Link(node.node)):
        frames = graph("GetVideoComponents", video=video)
        graph("AFPTestCompareImages", a=frames, b=frames)
    outcome = run(comfyui, graph)
    compared = [each["comparison"][0] for each in outcome.entry["outputs"].values() if "comparison" in each]
    assert len(compared) == 2 and compared[0] == compared[1] and compared[0]["distinct_values"] > 100
    assert len(files(comfyui, "collected")) == 1


def test_an_interrupt_cancels_the_job(comfyui, the_farm):
    graph, node = sending("", "AsyncDecodeElsewhere", fps=12.0)  # else it came out of ComfyUI's cache
    graph("PreviewAny", source=node)
    with the_farm.worker_stands_still():
        known = {each["job_id"] for each in jobs(comfyui)}
        prompt_id = comfyui.submit(graph.prompt)
        [job] = until(lambda: [each for each in jobs(comfyui) if each["job_id"] not in known])
        comfyui.interrupt()
        with pytest.raises(host.PromptFailed) as failed:
            comfyui.result(prompt_id)
        assert failed.value.interrupted
        until(lambda: the_farm.record(job["job_id"]).state == "cancelled")
    # Who wants it all the same has it retried; no node waits for it any more, so it is a file.
    the_farm.ask(lambda client: client.retry(job["job_id"]))
    [again] = until(lambda: [each for each in jobs(comfyui) if each["job_id"] == job["job_id"] and each["ui"]])
    assert again["state"] == "completed" and len(read(path_of(comfyui, again)).pts) == FRAMES


def test_a_job_that_fails_says_why_and_leaves_its_latents(comfyui):
    graph = Graph()
    sample = graph("SampleVideoLatent")
    latent = graph("AFPTestBadLatent", fault="nan")
    saver = graph("AsyncSaveVideoElsewhere", samples=latent, vae=sample[1], fps=16.0, filename_prefix="failed")
    job = ended(comfyui, job_of(run(comfyui, graph).ui(saver)[JOB])["job_id"])
    assert job["state"] == "failed" and "NaN" in job["reason"] and job["ui"] is None
    name = rescued_name(job["reason"])
    [choices, *_] = comfyui.get("/object_info/LoadLatent")["LoadLatent"]["input"]["required"]["latent"]
    assert name in choices
    loaded, again = Graph(), Graph()
    loaded("PreviewAny", source=loaded("LoadLatent", latent=name))
    again("PreviewAny", source=again("AFPTestBadLatent", fault="nan"))
    assert [*run(comfyui, loaded).entry["outputs"].values()] == [*run(comfyui, again).entry["outputs"].values()]
    assert files(comfyui, "failed") == []
    # Queued again, the node runs again, as one that failed itself.
    assert job_of(run(comfyui, graph).ui(saver)[JOB])["job_id"] != job["job_id"]


@pytest.mark.parametrize("given", ["taehv", "batch"])
def test_what_cannot_go_elsewhere_is_decoded_here(comfyui, given):
    graph = Graph()
    sample = graph("SampleVideoLatent")
    shape = {"batch": 2 if given == "batch" else 1, "channels": 16, "latent_frames": 2, "height": 4, "width": 4}
    latent = graph("AFPTestLatent", **shape, seed=1)
    vae = graph("AFPTestVAE", kind="taehv", seed=1, name=f"elsewhere {given}") if given == "taehv" else sample[1]
    inputs = {"samples": latent, "vae": vae, "fps": 16.0, "filename_prefix": f"not_{given}"}
    saver = graph("AsyncSaveVideoElsewhere", **inputs)
    outcome = run(comfyui, graph)
    job = job_of(outcome.ui(saver)[JOB])
    assert job["state"] == "here" and job["reason"].startswith("decoded here")
    assert ("needs a worker with a ComfyUI" in job["reason"]) == (given == "taehv")
    [image] = outcome.ui(saver)["images"]
    assert read(comfyui.output_dir / image["filename"]).pts
    assert sum("decoded here" in line for line in outcome.our_log) == 1
    assert outcome.report(saver)["notes"] == [job["reason"]]


def test_what_needs_a_comfyui_is_decoded_by_the_worker_that_has_one(comfyui, the_farm):
    graph = Graph()
    latent = graph("AFPTestLatent", batch=1, channels=128, latent_frames=2, height=2, width=3, seed=1)
    inputs = {"samples": latent, "vae": graph("AFPTestVAE", kind="ltx", seed=1, name="ltx elsewhere"), "fps": 16.0}
    video = graph("AsyncVAEDecodeToVideo", **inputs)
    here = graph("SaveVideoStreaming", video=video, filename_prefix="ltx_here", quality="lossless")
    there = graph("AsyncSaveVideoElsewhere", **inputs, filename_prefix="ltx_there", quality="lossless")
    # Before it comes it is decoded here; then the same prompt is sent, once.
    assert job_of(run(comfyui, graph).ui(there)[JOB])["state"] == "here"
    worker = the_farm.start_worker("exact", "--comfyui", comfyui.host.root)
    try:
        until(lambda: the_farm.ask(has_exact))
        outcome, again = run(comfyui, graph), run(comfyui, graph)
        assert job_of(again.ui(there)[JOB])["job_id"] == job_of(outcome.ui(there)[JOB])["job_id"]
        job = ended(comfyui, job_of(outcome.ui(there)[JOB])["job_id"])
    finally:
        worker.kill()
        worker.wait()
    assert job["state"] == "completed" and the_farm.record(job["job_id"]).worker == "exact"
    [image] = outcome.ui(here)["images"]
    a, b = read(path_of(comfyui, job)), read(comfyui.output_dir / image["filename"])
    assert a.frames_equal(b) and len(a.pts) == 9


async def has_exact(client) -> bool:
    return any(each["decoders"] == ["exact"] for each in await client.broker.ask_all("workers.ask", 0.3))


@pytest.mark.parametrize("node", ["AsyncSaveVideoElsewhere", "AsyncDecodeElsewhere"])
@pytest.mark.parametrize(
    "given",
    [{"format": "webm (vp9)"}, {"bit_depth": "16"}, {"priority": "first"}],
    ids=["format", "depth", "priority"],
)
def test_what_cannot_be_is_refused_before_anything_runs(comfyui, node, given):
    graph, link = sending("refused", node, **given)
    graph("PreviewAny", source=link)
    with pytest.raises(host.PromptRejected, match=next(reversed(given))):
        comfyui.submit(graph.prompt)


def test_a_prefix_that_leads_out_is_refused_before_anything_runs(comfyui):
    graph, _ = sending("../outside")
    with pytest.raises(host.PromptRejected, match="filename_prefix"):
        comfyui.submit(graph.prompt)


def test_many_jobs_of_two_clients_come_back_and_the_urgent_ones_first(comfyui, the_farm):
    """25 of a ComfyUI and 25 of a script; every fifth is a pro's, and is queued after those before it."""
    priorities = ["std" if number % 5 else "pro" for number in range(25)]

    async def by_script(client):
        job = (await client.broker.record(mine[0])).job
        latent = the_farm.ground.files / "latents" / job.latent.sha256
        vae = the_farm.ground.files / "vaes" / job.vae.sha256
        jobs = [await client.submit(latent, vae, priority=priority, user="other") for priority in priorities]
        return [job.id for job in jobs]

    async def completed(client):
        records = []
        for job_id in sent:
            while (record := await client.broker.record(job_id)).state != "completed":
                await asyncio.sleep(0.05)
            records.append(record)
        return records

    with the_farm.worker_stands_still():
        prompts = []
        for number, priority in enumerate(priorities):
            graph, saver = sending("many", crop=SIZE | {"latent_frames": 1}, fps=1.0 + number, priority=priority)
            prompts.append(comfyui.submit(graph.prompt))
        outputs = [comfyui.result(prompt)["outputs"][saver.node] for prompt in prompts]
        mine = [job_of(each[JOB])["job_id"] for each in outputs]
        sent = [*mine, *the_farm.ask(by_script)]
        # Ahead of a std job are all pros, also those that a script queued later.
        by_priority = [[number for number in range(25) if priorities[number] == each] for each in ("pro", "std")]
        expected = {number: index for index, number in enumerate(by_priority[0])}
        expected |= {number: 10 + index for index, number in enumerate(by_priority[1])}

        def ahead():
            told = {job["job_id"]: job["before"] for job in jobs(comfyui)}
            return {number: told[job_id] for number, job_id in enumerate(mine)}

        until(lambda: ahead() == expected)
    records = the_farm.ask(completed)
    started = [record.job.priority for record in sorted(records, key=lambda record: record.started)]
    # One may have been on its way to the worker when that was stopped.
    assert started[started[0] == "std" :][:10] == ["pro"] * 10
    until(lambda: len(files(comfyui, "many")) == 25)
    assert files(comfyui, "many") == [f"many_{number:05}_.mp4" for number in range(1, 26)]


def test_without_a_farm_that_answers(comfyui, the_farm):
    """The last test: it ends the farm."""
    the_farm.ground.kill_server()
    graph, saver = sending("decoded_here")
    outcome = run(comfyui, graph)
    job = job_of(outcome.ui(saver)[JOB])
    assert job["state"] == "here" and "does not answer" in job["reason"]
    [image] = outcome.ui(saver)["images"]
    assert len(read(comfyui.output_dir / image["filename"]).pts) == FRAMES
    collected = Graph()
    video = collected("AsyncCollectVideo", job=job["job_id"])
    collected("PreviewAny", source=collected("GetVideoComponents", video=video))
    run(comfyui, collected)

    graph, _ = sending("refused", if_unreachable="error")
    message = refusal(comfyui, graph)
    assert "does not answer" in message and rescued_name(message)
    assert files(comfyui, "refused") == []
