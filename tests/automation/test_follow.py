"""The example of the API, against a server that says what no ComfyUI would: what it makes of messages and addresses."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from async_frame_pipeline.automation.run import PromptError, run

from .loops import run_apart
from .test_command_line import REPO
from .test_command_line import run as run_command

PROMPT = {"1": {"class_type": "Saver", "inputs": {}}}
OVER = {"type": "executing", "data": {"prompt_id": "id", "node": None}}


class Scripted:
    """A server that answers /prompt with `answer`, sends `messages`, and then waits."""

    def __init__(self, *messages: dict, answer: dict | None = None):
        self.messages, self.answer = messages, answer or {"prompt_id": "id"}
        self.told: list[tuple[str, dict]] = []
        self.said: list[str] = []

    async def run(self, out: Path, cancel: bool = False) -> None:
        queued = asyncio.Event()

        async def ws(request: web.Request) -> web.WebSocketResponse:
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            await queued.wait()
            for message in self.messages:
                await socket.send_json(message)
            async for _ in socket:
                pass
            return socket

        async def prompt(_: web.Request) -> web.Response:
            queued.set()
            return web.json_response(self.answer)

        async def note(request: web.Request) -> web.Response:
            self.told.append((request.path, await request.json()))
            return web.Response()

        async def history(_: web.Request) -> web.Response:
            return web.json_response({"id": {"outputs": {}}})

        app = web.Application()
        app.add_routes([web.get("/ws", ws), web.post("/prompt", prompt), web.get("/history/id", history)])
        app.add_routes([web.post("/queue", note), web.post("/interrupt", note)])
        async with TestServer(app) as server:
            told = asyncio.Event()

            def say(line: str) -> None:
                self.said.append(line)
                told.set()

            task = asyncio.create_task(run(str(server.make_url("")), PROMPT, out, say))
            if cancel:
                await told.wait()
                task.cancel()
            await asyncio.wait_for(task, 60)


def scripted(out: Path, *messages: dict, **options: object) -> Scripted:
    async def go() -> Scripted:
        server = Scripted(*messages, **options)
        await server.run(out)
        return server

    return run_apart(go())


@pytest.mark.parametrize("data", [None, "text", 7, ["prompt_id"], []])
def test_messages_of_other_packs_are_passed_over(tmp_path: Path, data: object):
    work = {"type": "executing", "data": {"prompt_id": "id", "node": "1"}}
    assert scripted(tmp_path, {"type": "others", "data": data}, {"type": "others"}, work, OVER).said == ["Saver #1"]


def test_when_cancelled_it_takes_a_waiting_prompt_out_of_the_queue_too(tmp_path: Path):
    async def go() -> list[tuple[str, dict]]:
        server = Scripted({"type": "executing", "data": {"prompt_id": "id", "node": "1"}})
        with pytest.raises(asyncio.CancelledError):
            await server.run(tmp_path, cancel=True)
        return server.told

    assert run_apart(go()) == [("/queue", {"delete": ["id"]}), ("/interrupt", {"prompt_id": "id"})]


BAD = "a\x1b]0;title\x07\x9b2J\rb\ud800\u3000"


def test_nothing_of_the_server_reaches_a_terminal_as_it_is(tmp_path: Path):
    work = {"type": "executing", "data": {"prompt_id": "id", "node": BAD}}
    step = {"type": "progress", "data": {"prompt_id": "id", "node": BAD, "value": 1, "max": 2}}
    shown = r"a\x1b]0;title\x07\x9b2J\rb\ud800" + "\u3000"
    assert scripted(tmp_path, work, step, OVER).said == [f"node #{shown}", f"node #{shown}: 1 of 2"]
    error = {"prompt_id": "id", "node_id": "1", "exception_type": BAD, "exception_message": f"{BAD}\nGr\u00fc\u00dfe\n"}
    with pytest.raises(PromptError) as raised:
        scripted(tmp_path, {"type": "execution_error", "data": error})
    assert str(raised.value) == f"Saver #1 failed: {shown}: {shown}\nGrüße"
    with pytest.raises(PromptError) as raised:
        scripted(tmp_path, answer={"error": {"message": BAD}})
    assert str(raised.value) == f"refused\n{shown}"


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:9/comfy",
        "http://127.0.0.1:9/comfy/",
        "http://",
        "",
        "http://127.0.0.1:99999",
        "127.0.0.1:x",
        "http://[::1",
        "ftp://127.0.0.1",
        "http://127.0.0.1:9/?a=b",
        "http://a..b",
        f"http://{'a' * 64}",
    ],
)
def test_an_address_that_is_none(tmp_path: Path, address: str):
    with pytest.raises(aiohttp.InvalidURL, match="such as http://127.0.0.1:8188"):
        run_apart(run(address, PROMPT, tmp_path))


def test_an_address_that_is_none_on_the_command_line(tmp_path: Path):
    path = tmp_path / "prompt.json"
    path.write_text(json.dumps(PROMPT))
    done = run_command("run", path, "--server", "127.0.0.1:9/comfy")
    assert done.returncode == 1 and done.stderr.startswith("error: http://127.0.0.1:9/comfy - ")
    assert len(done.stderr.splitlines()) == 1


def test_without_aiohttp_it_says_what_it_needs():
    code = "import runpy, sys; sys.modules['aiohttp'] = None; sys.argv[1:] = ['run', 'workflows/api/demo.json']; "
    code += "runpy.run_module('automation', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == "error: aiohttp is needed: use ComfyUI's Python, which has it\n"
