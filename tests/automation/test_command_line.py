"""python -m automation swap, as a user calls it in the folder of the repository."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .graphs import workflow

REPO = Path(__file__).resolve().parent.parent.parent
BEFORE = workflow(
    {1: "EmptyLatent", 2: "VAELoader", 8: "VAEDecode", 9: "CreateVideo", 10: "SaveVideo", 20: "VAEDecode"},
    "1>8.samples 2>8.vae 8>9.images 9>10.video 1>20.samples",
    n2={"widgets_values": ["wan_2.1_vae.safetensors"]},
    n10={"title": "Grüße"},
)


def run(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "automation", *map(str, arguments)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, encoding="utf-8")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.json"
    path.write_text(json.dumps(BEFORE, indent=2, ensure_ascii=False), encoding="utf-8")
    return path


def test_there_and_back(source: Path, tmp_path: Path):
    there, back = tmp_path / "there.json", tmp_path / "back.json"
    done = run("swap", source, there)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "VAE Decode #8 + Create Video #9 -> Async VAE Decode to Video (Wan 2.1: streamed)\n"
        "VAE Decode #20 left alone: its frames do not go into a video\n"
        "1 of 2 changed\n"
    )
    assert "AsyncVAEDecodeToVideo" in there.read_text(encoding="utf-8")
    assert run("swap", there, back, "--reverse").returncode == 0
    assert back.read_bytes() == source.read_bytes()


@pytest.mark.parametrize(
    "options, told",
    [
        (
            (),
            "-> Async VAE Decode to Video (LTX: streamed without tiles, in less time and at 1280x704 in no more",
        ),
        (
            ("--tiles", "same"),
            "-> Async VAE Decode (Tiled) to Video (LTX: streamed in the same tiles, if memory suffices for all",
        ),
    ],
)
def test_tiles(tmp_path: Path, options: tuple, told: str):
    source, target, back = (tmp_path / name for name in ("in.json", "out.json", "back.json"))
    tiled = workflow(
        {1: "EmptyLatent", 2: "VAELoader", 8: "VAEDecodeTiled", 9: "CreateVideo", 10: "SaveVideo"},
        "1>8.samples 2>8.vae 8>9.images 9>10.video",
        n2={"widgets_values": ["LTX23_video_vae_bf16.safetensors"]},
        n8={"widgets_values": [768, 64, 4096, 4]},
    )
    source.write_text(json.dumps(tiled))
    assert told in run("swap", source, target, *options).stdout
    run("swap", target, back, "--reverse")
    assert back.read_bytes() == source.read_bytes()


def test_what_wins_nothing_is_swapped_with_all(tmp_path: Path):
    source = tmp_path / "in.json"
    tiled = workflow(
        {1: "EmptyLatent", 2: "VAELoader", 8: "VAEDecodeTiled", 9: "CreateVideo", 10: "SaveVideo"},
        "1>8.samples 2>8.vae 8>9.images 9>10.video",
        n2={"widgets_values": ["seedvr2_ema_vae_fp16.safetensors"]},
    )
    source.write_text(json.dumps(tiled))
    assert "0 of 1 changed" in run("swap", source, "--dry-run").stdout
    assert "(no time is won)\n1 of 1 changed" in run("swap", source, "--dry-run", "--all").stdout


def test_a_dry_run_says_the_same_and_writes_nothing(source: Path, tmp_path: Path):
    before = source.read_bytes()
    told = run("swap", source, "--dry-run").stdout
    run("swap", source, tmp_path / "not.json", "--dry-run")
    assert [path.name for path in tmp_path.iterdir()] == ["in.json"] and source.read_bytes() == before
    assert told == run("swap", source, source).stdout, "a file may be swapped in place"
    assert source.read_bytes() != before


@pytest.mark.parametrize("layout", [{"indent": 4}, {"indent": "\t"}, {}, {"separators": (",", ":")}])
@pytest.mark.parametrize("end", ["", "\n"])
def test_the_layout_of_the_file_stays(tmp_path: Path, layout: dict, end: str):
    source, target = tmp_path / "in.json", tmp_path / "out.json"
    source.write_text(json.dumps(BEFORE, **layout) + end)
    assert run("swap", source, target).returncode == 0
    assert target.read_text() == json.dumps(json.loads(target.read_text()), **layout) + end
    assert run("swap", target, target, "--reverse").returncode == 0
    assert target.read_bytes() == source.read_bytes()


@pytest.mark.parametrize(
    "content, told",
    [
        (b"{broken", "this is not JSON: Expecting property name"),
        (b"", "this is not JSON"),
        (b"\x89PNG\r\n\x1a\n", "this is not JSON"),
        (b'{"some": "json"}', "this is no workflow"),
        (b'{"nodes": [{"id": 8, "type": "VAEDecode"}], "links": [[1]]}', "this workflow is damaged"),
        (None, "No such file"),
    ],
)
def test_what_it_cannot_read_it_does_not_write(tmp_path: Path, content: bytes | None, told: str):
    source, target = tmp_path / "in.json", tmp_path / "out.json"
    if content is not None:
        source.write_bytes(content)
    target.write_text("mine")
    done = run("swap", source, target)
    assert done.returncode == 2
    assert told in done.stderr and "in.json" in done.stderr and "Traceback" not in done.stderr
    assert target.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == (["in.json"] if content is not None else []) + [
        "out.json"
    ]


def test_every_name_that_the_disk_takes(source: Path, tmp_path: Path):
    target = tmp_path / ("n" * 250 + ".json")
    assert run("swap", source, target).returncode == 0 and target.exists()


def test_the_folder_to_write_to_must_be_there(source: Path, tmp_path: Path):
    target = tmp_path / "missing" / "out.json"
    done = run("swap", source, target)
    assert done.returncode == 2 and done.stderr == f"error: {target}: No such file or directory\n"


def test_an_output_is_asked_for(source: Path):
    done = run("swap", source)
    assert done.returncode == 2 and "out.json" in done.stderr


def test_a_node_that_was_of_a_type_nobody_knows_comes_back_by_its_type(tmp_path: Path):
    source = tmp_path / "in.json"
    before = workflow(
        {8: "AsyncVAEDecodeVideo"}, "", n8={"properties": {"async_frame_pipeline": {"decode": {"type": "Mine"}}}}
    )
    source.write_text(json.dumps(before))
    done = run("swap", source, "--reverse", "--dry-run")
    assert done.stdout.startswith("Async VAE Decode (Video) #8 -> Mine\n"), done.stderr
