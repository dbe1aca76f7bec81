"""A worked example of ComfyUI's API: queue a prompt, follow it over the websocket, fetch what it saved.

    python -m automation.run prompt.json [--server http://127.0.0.1:8188] [--out folder]

The prompt is one in API format (in the editor: File, Export (API)), swapped or not. Needs aiohttp, which every ComfyUI
environment has. Ctrl+C cancels the prompt. To use it in a script of your own:

    files = asyncio.run(run("http://127.0.0.1:8188", prompt, Path("out")))
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import aiohttp


class PromptError(RuntimeError):
    """A prompt was refused, failed or was interrupted; the message says which node and why."""


async def run(server: str, prompt: dict, out: Path, say: Callable[[str], None] = print) -> list[Path]:
    """Queue a prompt and wait until it is over.

    Args:
        server: such as "http://127.0.0.1:8188".
        prompt: in API format.
        out: folder for the files it saves; made where missing.
        say: receives a line per step of progress.
    Returns:
        The files, as fetched from the server. Previews (type "temp") are not among them.
    Raises:
        PromptError: it was refused, failed, or was interrupted.
        aiohttp.ClientError: the server is not there, or went away.
    """
    client_id = str(uuid.uuid4())
    no_limit = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(server, timeout=no_limit) as session:
        # The socket comes first, so that no message is missed. No limit to the size of one: previews are large.
        async with session.ws_connect("/ws", params={"clientId": client_id}, max_msg_size=0) as socket:
            prompt_id = await queue(session, prompt, client_id)
            try:
                await follow(socket, prompt, prompt_id, say)
            except asyncio.CancelledError:
                await session.post("/interrupt", json={"prompt_id": prompt_id})
                raise
        return await fetch(session, prompt_id, out)


def read(path: Path) -> dict:
    """Raises PromptError where the file is no prompt in API format."""
    try:
        prompt = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PromptError(f"{path} is not JSON: {error}") from error
    if not isinstance(prompt, dict) or "nodes" in prompt:
        raise PromptError(f"{path} is no prompt in API format; export it in the editor by File, Export (API)")
    return prompt


async def queue(session: aiohttp.ClientSession, prompt: dict, client_id: str) -> str:
    """Returns the id under which the server knows the prompt from now on."""
    async with session.post("/prompt", json={"prompt": prompt, "client_id": client_id}) as answer:
        body = await answer.json()
    # 400: nothing of it is valid. 200 with node_errors: the valid part of it was queued.
    if body.get("node_errors") or "error" in body:
        lines = [body["error"]["message"]] if "error" in body else []
        for node_id, node in body.get("node_errors", {}).items():
            where = f"{node['class_type']} #{node_id}"
            lines += [f"{where}: {error['message']}: {error['details']}" for error in node["errors"]]
        if "prompt_id" in body:
            await session.post("/queue", json={"delete": [body["prompt_id"]]})
            await session.post("/interrupt", json={"prompt_id": body["prompt_id"]})
        raise PromptError("\n".join(["refused", *lines]))
    return body["prompt_id"]


async def follow(
    socket: aiohttp.ClientWebSocketResponse, prompt: dict, prompt_id: str, say: Callable[[str], None]
) -> None:
    """Read messages until the prompt is over."""
    async for message in socket:
        if message.type is not aiohttp.WSMsgType.TEXT:
            continue  # binary ones are previews
        event = json.loads(message.data)
        data = event["data"]
        if data.get("prompt_id") != prompt_id:
            continue  # of the queue as a whole, or of somebody else's prompt
        match event["type"]:
            case "executing" if data["node"] is None:
                return  # over, and in the history
            case "executing":
                say(name_of(prompt, data["node"]))
            case "progress":
                say(f"{name_of(prompt, data['node'])}: {data['value']:.0f} of {data['max']:.0f}")
            case "execution_error":
                where = name_of(prompt, data["node_id"])
                raise PromptError(f"{where} failed: {data['exception_type']}: {data['exception_message'].strip()}")
            case "execution_interrupted":
                raise PromptError(f"interrupted in {name_of(prompt, data['node_id'])}")
    raise aiohttp.ClientConnectionError(f"the server closed the connection; what became of it: /history/{prompt_id}")


async def fetch(session: aiohttp.ClientSession, prompt_id: str, out: Path) -> list[Path]:
    async with session.get(f"/history/{prompt_id}") as answer:
        history = (await answer.json())[prompt_id]
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for output in history["outputs"].values():
        # Savers list their files under "images", "gifs", "audio" and others, all in this form.
        listed = [file for files in output.values() for file in files if isinstance(file, dict) and "filename" in file]
        for file in listed:
            if file["type"] != "output":
                continue
            path = out / Path(file["filename"]).name
            where = {key: file[key] for key in ("filename", "subfolder", "type")}
            async with session.get("/view", params=where, raise_for_status=True) as answer:
                path.write_bytes(await answer.read())
            files.append(path)
    return files


def name_of(prompt: dict, node_id: str) -> str:
    # Nodes that others put in while the prompt runs are not in it.
    return f"{prompt.get(node_id, {}).get('class_type', 'node')} #{node_id}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m automation.run", description=__doc__.splitlines()[0])
    parser.add_argument("prompt", type=Path, help="a prompt in API format")
    parser.add_argument("--server", default="http://127.0.0.1:8188", help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder for the files; default: the current one")
    arguments = parser.parse_args()
    try:
        prompt = read(arguments.prompt)
        server = arguments.server if "://" in arguments.server else f"http://{arguments.server}"
        for path in asyncio.run(run(server, prompt, arguments.out)):
            print(f"saved {path}")
    except (PromptError, aiohttp.ClientError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("cancelled", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
