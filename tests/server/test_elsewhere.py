"""Decode elsewhere, with a real ComfyUI, a real farm and its real decoder, on the CPU.

Nothing here waits for a time: where a job must still be under way, there is no worker yet.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import host
import pytest
from async_frame_pipeline.farm.settings import Settings
from async_frame_pipeline.tests.farm.ground import Ground
from graph import Graph, Link, run
from mp4 import read

PATIENCE_SECONDS = 120
SIZE = {"latent_frames": 2, "height": 4, "width": 6}
FRAMES = 5


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """A farm without a worker."""
    ground = Ground(tmp_path_factory.mktemp("ground"), Settings())
    asyncio.run(ground.prepare())
    yield ground
    ground.close()


@pytest.fixture(scope="module")
def start_comfyui(ground, tmp_path_factory):
    """Start a ComfyUI that knows the farm: each time the same one, as a user starts it again."""
    base = tmp_path_factory.mktemp("comfyui")

    def start(**env):
        packs = [Path(__file__).parent / "pack"]
        return host.Server(base=base, env={"AFP_FARM": ground.given, **env}, packs=packs)

    return start


def worker(ground, name="worker"):
    """One as `farm worker` starts it."""
    command = [sys.executable, str(host.REPO / "farm" / "__main__.py"), "work", name, "--device", "cpu"]
    env = {**os.environ, "AFP_FARM": ground.given, "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE)
    ground._workers.append(process)
    return process


def sending(prefix: str, **more: object) -> tuple[Graph, Link]:
    """A prompt that sends a piece of the bundled latent, whose name is in the seed."""
    graph = Graph()
    sample = graph("SampleVideoLatent")
    latent = graph("AFPTestCropLatent", samples=sample[0], **SIZE)
    inputs = {"fps": 16.0, "filename_prefix": prefix, "quality": "lossless", **more}
    return graph, graph("AsyncSaveVideoElsewhere", samples=latent, vae=sample[1], **inputs)


def jobs(server) -> list[dict]:
    return server.get("/async_frame_pipeline/jobs")["jobs"]


def until(condition):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)
    return found


def told_of(server, job_id: str, *states: str) -> dict:
    """What the page would be told of a job, as soon as it is in one of these states."""
    return until(
        lambda: next((each for each in jobs(server) if each["job_id"] == job_id and each["state"] in states), None)
    )


def test_the_video_comes_back(ground, start_comfyui):
    with start_comfyui() as server:
        graph, saver = sending("first")
        job_id = json.loads(run(server, graph).ui(saver)["async_frame_pipeline_job"][0])["job_id"]
        worker(ground)
        [image] = told_of(server, job_id, "completed", "failed")["ui"]["images"]
        assert len(read(server.output_dir / image["filename"]).pts) == FRAMES
