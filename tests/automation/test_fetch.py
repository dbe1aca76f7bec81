"""What the example of the API makes of files that a server saved; the server here says what no ComfyUI would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from async_frame_pipeline.automation import run as example
from async_frame_pipeline.automation.run import PromptError, fetch

from .loops import run_apart

Answer = bytes | Callable[[web.Request], object]


def fetched(out: Path, files: dict[str, Answer], listed: list[dict | str] | None = None) -> list[str]:
    """Fetch from a server that has these files, by subfolder/name; what came, relative to `out`."""

    nodes = [entry(file) if isinstance(file, str) else file for file in (files if listed is None else listed)]
    history = {"id": {"outputs": {str(n): {"images": [file], "animated": [True]} for n, file in enumerate(nodes)}}}

    async def view(request: web.Request) -> web.StreamResponse:
        query = request.query
        found = files.get("/".join(filter(None, (query["subfolder"], query["filename"]))))
        if found is None:
            raise web.HTTPNotFound
        return web.Response(body=found) if isinstance(found, bytes) else await found(request)

    async def tell(_: web.Request) -> web.Response:
        return web.json_response(history)

    async def go() -> list[Path]:
        app = web.Application()
        app.router.add_get("/history/id", tell)
        app.router.add_get("/view", view)
        async with TestServer(app) as server, aiohttp.ClientSession(server.make_url("")) as session:
            return await fetch(session, "id", out)

    return [path.relative_to(out).as_posix() for path in run_apart(go())]


def entry(path: str) -> dict:
    """A file as the history lists it."""
    subfolder, _, name = path.rpartition("/")
    return {"filename": name, "subfolder": subfolder, "type": "output"}


def there(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_keep_their_folders(tmp_path: Path):
    files = {"shot1/clip.mp4": b"one", "shot2/clip.mp4": b"two", "a/b/clip.mp4": b"deep", "clip.mp4": b"top"}
    assert fetched(tmp_path / "out", files) == list(files)
    assert there(tmp_path / "out") == files


def test_no_file_replaces_another(tmp_path: Path):
    (tmp_path / "clip.mp4").write_bytes(b"mine")
    (tmp_path / "clip (1).mp4").symlink_to("nowhere")
    assert fetched(tmp_path, {"clip.mp4": b"new"}) == ["clip (2).mp4"]
    assert there(tmp_path) == {"clip.mp4": b"mine", "clip (2).mp4": b"new"}


def test_a_file_that_two_nodes_name_comes_once(tmp_path: Path):
    file = {"filename": "clip.mp4", "subfolder": "", "type": "output"}
    assert fetched(tmp_path, {"clip.mp4": b"new"}, [file, file]) == ["clip.mp4"]


def test_every_name_that_the_disk_takes(tmp_path: Path):
    files = {f"{'s' * 255}/{'n' * 251}.mp4": b"new", f"{'p' * 255}/1.png": b"1"}
    assert fetched(tmp_path, files) == [f"{'s' * 255}/{'n' * 251}.mp4", "p" * 255]


def test_previews_stay(tmp_path: Path):
    assert fetched(tmp_path, {}, [{"filename": "clip.mp4", "subfolder": "", "type": "temp"}]) == []


def test_what_is_no_file_of_the_output_folder_is_passed_over(tmp_path: Path):
    odd = [
        {"filename": "other.mp4", "subfolder": ""},
        {"filename": None, "subfolder": "", "type": "output"},
        {"filename": 7, "subfolder": "", "type": "output"},
        {"filename": ["a"], "subfolder": "", "type": "output"},
        {"filename": "a", "subfolder": 7, "type": "output"},
    ]
    assert fetched(tmp_path, {"clip.mp4": b"new"}, [*odd, "clip.mp4"]) == ["clip.mp4"]
    assert fetched(tmp_path, {"b.mp4": b"new"}, [{"filename": "b.mp4", "subfolder": None, "type": "output"}]) == [
        "b.mp4"
    ]


def test_of_a_sequence_every_picture_comes(tmp_path: Path):
    files = {f"shot/clip_00001_/{n:05}.png": b"%d" % n for n in range(1, 13)}
    first = {"filename": "00001.png", "subfolder": "shot/clip_00001_", "type": "output"}
    assert fetched(tmp_path, files, [first]) == ["shot/clip_00001_"]
    assert there(tmp_path) == files
    assert fetched(tmp_path, files, [first]) == ["shot/clip_00001_ (1)"], "never two sequences in one folder"
    assert len(there(tmp_path)) == 24


def test_of_a_sequence_with_a_gap_what_is_listed_after_it_comes_too(tmp_path: Path):
    files = {f"clip/{n:05}.png": b"%d" % n for n in (1, 3, 4)}
    assert fetched(tmp_path, files) == ["clip"] and there(tmp_path) == files


@pytest.mark.parametrize("listed", [False, True])
def test_of_pictures_without_metadata_the_one_with_the_workflow_comes_too(tmp_path: Path, listed: bool):
    files = {"clip/00001.exr": b"1", "clip/00002.exr": b"2", "clip/workflow.png": b"w"}
    assert fetched(tmp_path, files, None if listed else [entry("clip/00001.exr")]) == ["clip"]
    assert there(tmp_path) == files


def test_a_server_that_has_every_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(example, "MOST_PICTURES", 20)
    asked = []

    async def picture(request: web.Request) -> web.Response:
        asked.append(request.query["filename"])
        return web.Response(body=b"1")

    exactly = {f"clip/{n:05}.png": picture for n in range(1, 21)}
    assert fetched(tmp_path / "fits", exactly, [entry("clip/00001.png")]) == ["clip"]
    with pytest.raises(PromptError, match="more than 20 pictures"):
        fetched(tmp_path / "out", {f"clip/{n:05}.png": picture for n in range(1, 99)}, [entry("clip/00001.png")])
    assert there(tmp_path / "out") == {} and len(asked) == 41


def test_of_a_sequence_that_is_listed_whole_too(tmp_path: Path):
    files = {f"clip/{n:03}.exr": b"%d" % n for n in range(3)}
    assert fetched(tmp_path, files) == ["clip"] and there(tmp_path) == files


def test_a_number_for_a_name_makes_no_sequence(tmp_path: Path):
    files = {"clips/1700000000.png": b"a", "clips/00001.mp4": b"b", "clips/00002.mp4": b"c", "00001.png": b"d"}
    listed = [*files, "clips/12.png"]
    assert fetched(tmp_path, {**files, "clips/12.png": b"e", "clips/13.png": b"not ours"}, listed) == listed


@pytest.mark.parametrize(
    "subfolder, name",
    [
        ("..", "evil"),
        ("a/../../..", "evil"),
        ("a\\..\\..", "evil"),
        ("/tmp", "evil"),
        ("\\\\host\\share", "evil"),
        (".", "evil"),
        ("", "../evil"),
        ("", "..\\evil"),
        ("", "a/evil"),
        ("", ".."),
        ("", ""),
        ("..", "00001.png"),
        ("a\0b", "evil"),
        ("", "a\x1b[2Jevil"),
        ("a\nb", "evil"),
        ("", "a\x9bevil"),
        ("", "a\x7fevil"),
        ("", "a\ud800evil"),
        ("a\udcff", "evil"),
    ],
)
def test_a_server_cannot_write_elsewhere(tmp_path: Path, subfolder: str, name: str):
    async def anything(request: web.Request) -> web.Response:
        return web.Response(body=b"evil")

    files = {"/".join(filter(None, (subfolder, name))): anything}
    with pytest.raises(PromptError, match="the server") as raised:
        fetched(tmp_path / "in" / "out", files, [{"filename": name, "subfolder": subfolder, "type": "output"}])
    assert there(tmp_path) == {} and str(raised.value).isprintable()


@pytest.mark.parametrize("subfolder, name", [("", "clip.mp4:x"), ("a:b", "clip.mp4"), ("", "C:clip.mp4")])
def test_a_colon_is_no_part_of_a_name_on_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subfolder: str, name: str
):
    """There it would name another stream of the file, or another disk."""
    path = "/".join(filter(None, (subfolder, name)))
    assert fetched(tmp_path / "elsewhere", {path: b"new"}) == [path]
    monkeypatch.setattr(example, "WINDOWS", True)
    with pytest.raises(PromptError, match="the server"):
        fetched(tmp_path / "out", {path: b"new"})
    assert there(tmp_path / "out") == {}


@pytest.mark.parametrize("path", ["shot/clip.mp4", "shot/00001.png"])
def test_a_download_that_breaks_leaves_nothing(tmp_path: Path, path: str):
    async def breaks(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": "1000000"})
        await answer.prepare(request)
        await answer.write(b"half")
        request.transport.abort()
        return answer

    with pytest.raises(aiohttp.ClientError):
        fetched(tmp_path, {path: breaks})
    assert there(tmp_path) == {}


def test_a_sequence_that_breaks_in_the_middle_leaves_nothing(tmp_path: Path):
    async def fails(request: web.Request) -> web.Response:
        raise web.HTTPInternalServerError

    with pytest.raises(aiohttp.ClientError):
        fetched(
            tmp_path,
            {"clip/1.png": b"1", "clip/2.png": fails},
            [{"filename": "1.png", "subfolder": "clip", "type": "output"}],
        )
    assert there(tmp_path) == {}
