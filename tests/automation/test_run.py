"""The worked example of the API, and swapped prompts, against a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import pytest
from async_frame_pipeline.automation import swap
from async_frame_pipeline.automation.source import read

REPO = Path(__file__).resolve().parent.parent.parent
sys.path.append(str(REPO / "scripts"))

from host import Server  # noqa: E402

FRAMES = 5
# Encodes and decodes with no model: this VAE's latents are the pixels.
VIDEO = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": FRAMES, "color": 0x336699}},
    "2": {"class_type": "VAELoader", "inputs": {"vae_name": "pixel_space"}},
    "3": {"class_type": "VAEEncode", "inputs": {"pixels": ["1", 0], "vae": ["2", 0]}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["2", 0]}},
    "9": {"class_type": "CreateVideo", "inputs": {"images": ["8", 0], "fps": 12.0}},
    "10": {
        "class_type": "SaveVideo",
        "inputs": {"video": ["9", 0], "filename_prefix": "example", "format": "auto", "codec": "auto"},
    },
}
FAILING = {
    "1": {"class_type": "RegexReplace", "inputs": {"string": "a", "regex_pattern": "(", "replace": "b"}},
    "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
}


def run(server: Server, prompt: dict | str | Path, folder: Path, address: str = "") -> subprocess.CompletedProcess:
    source = prompt if isinstance(prompt, Path) else folder / "prompt.json"
    if source != prompt:
        source.write_text(prompt if isinstance(prompt, str) else json.dumps(prompt))
    command = [
        sys.executable,
        "-m",
        "automation",
        "run",
        source,
        "--server",
        address or server.url,
        "--out",
        folder / "out",
    ]
    env = {**os.environ, "no_proxy": "127.0.0.1"}
    return subprocess.run(list(map(str, command)), cwd=REPO, env=env, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("form", ["stock", "swapped", "swapped and back"])
def test_it_fetches_the_video(server: Server, tmp_path: Path, form: str):
    prompt = VIDEO
    if form != "stock":
        prompt, _ = swap(prompt)
        assert prompt["9"]["class_type"] == "AsyncVAEDecodeToVideo"
    if form == "swapped and back":
        prompt, _ = swap(prompt, reverse=True)
    done = run(server, prompt, tmp_path)
    assert done.returncode == 0, done.stderr
    [file] = (tmp_path / "out").iterdir()
    assert done.stdout.splitlines()[-1] == f"saved {file}"
    with av.open(file) as container:
        assert sum(1 for _ in container.decode(video=0)) == FRAMES
        assert container.streams.video[0].average_rate == 12
    assert json.loads(read(file, ("prompt",))) == prompt, "the file can be run again"


def test_what_a_file_was_made_of_is_run_again(server: Server, tmp_path: Path):
    assert run(server, VIDEO, tmp_path).returncode == 0
    [first] = (tmp_path / "out").iterdir()
    done = run(server, first, tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").iterdir())) == 2


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "images"])
def test_a_swapped_saver_saves_the_same(server: Server, tmp_path: Path, streamed: bool):
    prompt = {id: node for id, node in VIDEO.items() if id not in ("9", "10")}
    inputs = {"images": ["8", 0], "filename_prefix": "swapped/a", "codec": "vp9", "fps": 12.0, "crf": 20.0}
    prompt["10"] = {"class_type": "SaveWEBM", "inputs": inputs}
    if not streamed:
        prompt["11"] = {"class_type": "PreviewImage", "inputs": {"images": ["8", 0]}}
    swapped, changes = swap(prompt, savers=True)
    assert [change.after[-1] for change in changes if change.after][-1] == "SaveVideoStreaming"
    saved = {}
    for name, form in (("stock", prompt), ("ours", swapped)):
        (tmp_path / name).mkdir()
        done = run(server, form, tmp_path / name)
        assert done.returncode == 0, done.stderr
        [file] = (tmp_path / name / "out").rglob("*.webm")
        assert file.parent == tmp_path / name / "out" / "swapped"
        with av.open(file) as container:
            [stream] = container.streams.video
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
            assert json.loads(read(file, ("prompt",))) == form
            saved[name] = stream.codec_context.name, stream.average_rate, len(frames), frames[0].shape
    assert saved["stock"] == saved["ours"]


def test_it_tells_which_node_is_at_work(server: Server, tmp_path: Path):
    prompt = {**VIDEO, "1": {**VIDEO["1"], "inputs": {**VIDEO["1"]["inputs"], "color": 1}}}  # not from the cache
    lines = run(server, prompt, tmp_path, address=server.url.removeprefix("http://")).stdout.splitlines()
    assert [line for line in lines if line in ("EmptyImage #1", "VAEDecode #8", "SaveVideo #10")] == [
        "EmptyImage #1",
        "VAEDecode #8",
        "SaveVideo #10",
    ]


def test_a_prompt_that_saves_nothing(server: Server, tmp_path: Path):
    done = run(server, {"1": VIDEO["1"], "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}, tmp_path)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "there was no file to fetch when the prompt ended"


def test_a_prompt_that_fails(server: Server, tmp_path: Path):
    done = run(server, FAILING, tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: RegexReplace #1 failed: ") and "Traceback" not in done.stderr


@pytest.mark.parametrize("also_valid", [False, True])
def test_a_prompt_that_is_refused(server: Server, tmp_path: Path, also_valid: bool):
    broken = {"20": {"class_type": "PreviewAny", "inputs": {}}}
    done = run(server, {**VIDEO, **broken} if also_valid else broken, tmp_path)
    assert done.returncode == 1
    assert "PreviewAny #20: Required input is missing: source" in done.stderr


@pytest.mark.parametrize(
    "text, told", [("{broken", "is not JSON"), ('{"nodes": []}', "is no prompt"), ("[]", "is no prompt")]
)
def test_a_file_that_is_no_prompt(server: Server, tmp_path: Path, text: str, told: str):
    done = run(server, text, tmp_path)
    assert done.returncode == 1 and done.stderr.startswith(f"error: {tmp_path / 'prompt.json'} {told}")


def test_no_server(tmp_path: Path):
    nowhere = type("Nowhere", (), {"url": "http://127.0.0.1:9"})
    done = run(nowhere, VIDEO, tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    assert "--server" in done.stderr
