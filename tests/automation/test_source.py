"""Workflows and prompts out of pictures and videos, as savers store them."""

from __future__ import annotations

import contextlib
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
from async_frame_pipeline.automation.source import SourceError, read
from async_frame_pipeline.pipeline.sinks.metadata import add_to_webp
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .graphs import workflow
from .test_command_line import run

WORKFLOW = workflow({1: "SampleVideoLatent", 8: "VAEDecode", 10: "SaveWEBM"}, "1>8.samples 1.1>8.vae 8>10.images")
PROMPT = {
    "1": {"class_type": "SampleVideoLatent", "inputs": {}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["1", 0], "vae": ["1", 1]}},
    "9": {"class_type": "CreateVideo", "inputs": {"images": ["8", 0], "fps": 24}},
}
FILES = ("a.png", "a.webp", "a.mp4", "a.mkv", "a.webm", "A.MP4")


def store(path: Path, metadata: dict[str, object]) -> Path:
    """A picture or video of 32x32 with metadata, where ComfyUI's savers put it."""
    if path.suffix == ".png":
        texts = PngInfo()
        for key, value in metadata.items():
            texts.add_text(key, json.dumps(value))
        Image.new("RGB", (32, 32)).save(path, pnginfo=texts)
    elif path.suffix == ".webp":
        frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
        frames[0].save(path, save_all=True, append_images=frames[1:])
        add_to_webp(path, metadata)
    else:
        options = {"movflags": "use_metadata_tags"} if path.suffix.lower() == ".mp4" else {}
        with av.open(str(path), "w", options=options) as container:
            for key, value in metadata.items():
                container.metadata[key] = json.dumps(value)
            stream = container.add_stream("libvpx-vp9" if path.suffix == ".webm" else "libx264", rate=24)
            stream.width = stream.height = 32
            stream.pix_fmt = "yuv420p"
            for frame in (av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8)), None):
                container.mux(stream.encode(frame))
    return path


@pytest.mark.parametrize("name", FILES)
def test_both_are_found(tmp_path: Path, name: str):
    path = store(tmp_path / name, {"prompt": PROMPT, "workflow": WORKFLOW, "other": {"prompt": 1}})
    assert json.loads(read(path, ("workflow", "prompt"))) == WORKFLOW
    assert json.loads(read(path, ("prompt",))) == PROMPT


@pytest.mark.parametrize("name", FILES)
def test_what_is_not_there(tmp_path: Path, name: str):
    path = store(tmp_path / name, {"workflow": WORKFLOW})
    with pytest.raises(SourceError, match="there is no prompt in it, but a workflow"):
        read(path, ("prompt",))
    path = store(tmp_path / name, {})
    with pytest.raises(SourceError, match="there is no workflow or prompt in it$"):
        read(path, ("workflow", "prompt"))


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_ends_early_is_read_or_refused(tmp_path: Path, name: str):
    path = store(tmp_path / name, {"prompt": PROMPT})
    whole = path.read_bytes()
    refused = 0
    for length in {*range(0, 64, 4), *range(64, len(whole), len(whole) // 40 + 1)}:
        path.write_bytes(whole[:length])
        try:
            assert json.loads(read(path, ("prompt",))) == PROMPT
        except SourceError:
            refused += 1
    assert refused


def test_a_picture_that_says_it_is_enormous(tmp_path: Path):
    path = store(tmp_path / "a.png", {"prompt": PROMPT})
    header = b"IHDR" + struct.pack(">IIBBBBB", 40000, 40000, 8, 2, 0, 0, 0)
    path.write_bytes(path.read_bytes()[:12] + header + struct.pack(">I", zlib.crc32(header)) + path.read_bytes()[33:])
    with pytest.raises(SourceError, match="this cannot be read: .*pixels"):
        read(path, ("prompt",))


def test_a_webp_whose_exif_ends_early(tmp_path: Path):
    path = store(tmp_path / "a.webp", {"prompt": PROMPT})
    whole = path.read_bytes()
    start = whole.index(b"EXIF")
    size = struct.unpack("<I", whole[start + 4 : start + 8])[0]
    refused = 0
    for kept in range(min(size, 64)):
        exif = whole[start + 8 : start + 8 + kept] + b"\0" * (kept % 2)
        body = whole[8:start] + b"EXIF" + struct.pack("<I", kept) + exif
        path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
        with contextlib.suppress(SourceError):
            read(path, ("prompt",))
            continue
        refused += 1
    assert refused


@pytest.mark.parametrize("name", ("a.png", "a.mp4"))
def test_swapped_from_a_file(tmp_path: Path, name: str):
    out = tmp_path / "out.json"
    for metadata, kind in (({"prompt": PROMPT, "workflow": WORKFLOW}, "nodes"), ({"prompt": PROMPT}, "9")):
        done = run("swap", store(tmp_path / name, metadata), out)
        assert done.returncode == 0, done.stderr
        assert kind in json.loads(out.read_text()) and "Async" in out.read_text()


@pytest.mark.parametrize("name", ("a.png", "a.webp", "a.mp4"))
def test_files_that_are_none(tmp_path: Path, name: str):
    path = tmp_path / name
    for content, told in ((None, "No such file"), (b"not a picture", "cannot be read")):
        if content:
            path.write_bytes(content)
        for command in ("swap", "run"):
            done = run(command, path, *(["--dry-run"] if command == "swap" else []))
            assert done.returncode and told in done.stderr and name in done.stderr, done.stderr
            assert "Traceback" not in done.stderr


def test_no_picture_is_overwritten_with_json(tmp_path: Path):
    path = store(tmp_path / "a.png", {"workflow": WORKFLOW})
    before = path.read_bytes()
    done = run("swap", path, path)
    assert done.returncode == 2 and "a.png" in done.stderr and path.read_bytes() == before


def test_without_pillow_and_pyav_it_says_what_it_needs(tmp_path: Path):
    """The swap of JSON needs no packages, so any Python may be running it."""
    for name, module in (("a.png", "PIL"), ("a.mp4", "av")):
        store(tmp_path / name, {"workflow": WORKFLOW})
        arguments = ["swap", str(tmp_path / name), "--dry-run"]
        code = f"import runpy, sys; sys.modules[{module!r}] = None; sys.argv[1:] = {arguments}; "
        code += "runpy.run_module('automation', run_name='__main__')"
        root = Path(__file__).resolve().parent.parent.parent
        done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
        assert done.returncode == 2 and "ComfyUI's Python" in done.stderr and "Traceback" not in done.stderr, (
            done.stderr
        )
