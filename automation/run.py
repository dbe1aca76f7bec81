"""A worked example of ComfyUI's API: queue a prompt, follow it over the websocket, fetch what it saved.

    python -m automation run prompt.json [--server http://127.0.0.1:8188] [--out folder]

does so from the command line. In a script of your own:

    files = asyncio.run(run("http://127.0.0.1:8188", prompt, Path("out")))

Needs aiohttp, which every ComfyUI environment has.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import aiohttp
import yarl

WINDOWS = os.name == "nt"
# What a terminal may obey, and halves of characters, which nothing can show or send.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
PICTURE = re.compile(r"\d+\.(png|exr|jpe?g|tiff?|webp)")
FIRST_PICTURE = re.compile(r"0*[01]\.(png|exr|jpe?g|tiff?|webp)")
MOST_PICTURES = 100_000  # of a sequence; a server may have an answer to every name
WORKFLOW_PICTURE = "workflow.png"  # what Save Video (Streaming) puts beside pictures that hold no metadata


class PromptError(RuntimeError):
    """A prompt was refused, failed or was interrupted; the message says which node and why."""

    def __init__(self, message: str):
        super().__init__(plain(message))


async def run(server: str, prompt: dict, out: Path, say: Callable[[str], None] = print) -> list[Path]:
    """Queue a prompt and wait until it is over.

    Args:
        server: such as "http://127.0.0.1:8188".
        prompt: in API format.
        out: folder for the files it saves, in the subfolders that they have on the server; made where missing.
        say: receives a line per step of progress.
    Returns:
        The files, and the folders of sequences of pictures, as fetched from the server; see `fetch`.
    Raises:
        PromptError: it was refused, failed, or was interrupted; or the server names a file outside of `out`.
        aiohttp.ClientError: the server is not there, or went away, or `server` is no address of one.
    """
    check_address(server)
    client_id = str(uuid.uuid4())
    no_limit = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(server, timeout=no_limit) as session:
        # The socket comes first, so that no message is missed. No limit to the size of one: previews are large.
        async with session.ws_connect("/ws", params={"clientId": client_id}, max_msg_size=0) as socket:
            prompt_id = await queue(session, prompt, client_id)
            try:
                await follow(socket, prompt, prompt_id, say)
            except asyncio.CancelledError:
                await cancel(session, prompt_id)
                raise
        return await fetch(session, prompt_id, out)


def check_address(server: str) -> None:
    """Raises aiohttp.InvalidURL where this is none; aiohttp itself says that in other ways, or asks somewhere else."""
    try:
        url = yarl.URL(server)
        fits = url.scheme in ("http", "https") and url.host and url.port and url.path_qs in ("", "/")
        (url.host or "").encode("idna")  # as the look-up of the name does
    except ValueError:
        fits = False
    if not fits:
        raise aiohttp.InvalidURL(server, "expected an address without a path, such as http://127.0.0.1:8188")


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
            await cancel(session, body["prompt_id"])
        raise PromptError("\n".join(["refused", *lines]))
    return body["prompt_id"]


async def cancel(session: aiohttp.ClientSession, prompt_id: str) -> None:
    # In this order, or it could begin in between.
    await session.post("/queue", json={"delete": [prompt_id]})  # if it waits
    await session.post("/interrupt", json={"prompt_id": prompt_id})  # if it runs


async def follow(
    socket: aiohttp.ClientWebSocketResponse, prompt: dict, prompt_id: str, say: Callable[[str], None]
) -> None:
    """Read messages until the prompt is over."""
    async for message in socket:
        if message.type is not aiohttp.WSMsgType.TEXT:
            continue  # binary ones are previews
        event = json.loads(message.data)
        data = event.get("data")
        if not isinstance(data, dict) or data.get("prompt_id") != prompt_id:
            continue  # of the queue as a whole, of somebody else's prompt, or of another pack
        match event["type"]:
            case "executing" if data["node"] is None:
                return  # over, and in the history
            case "executing":
                say(plain(name_of(prompt, data["node"])))
            case "progress":
                say(plain(f"{name_of(prompt, data['node'])}: {data['value']:.0f} of {data['max']:.0f}"))
            case "execution_error":
                where = name_of(prompt, data["node_id"])
                raise PromptError(f"{where} failed: {data['exception_type']}: {data['exception_message'].strip()}")
            case "execution_interrupted":
                raise PromptError(f"interrupted in {name_of(prompt, data['node_id'])}")
    raise aiohttp.ClientConnectionError(f"the server closed the connection; what became of it: /history/{prompt_id}")


async def fetch(session: aiohttp.ClientSession, prompt_id: str, out: Path) -> list[Path]:
    """Fetch what a prompt saved, previews (type "temp") left out.

    A file has its name only when it is complete, and never replaces one that is there: as in browsers, the second
    clip.mp4 becomes "clip (1).mp4". Of a sequence of pictures the history names the first; the others come too.

    Returns:
        The files; for a sequence, its folder.
    """
    async with session.get(f"/history/{prompt_id}") as answer:
        history = (await answer.json())[prompt_id]
    # Savers list their files under "images", "gifs", "audio" and others, all in this form.
    lists = [files for output in history["outputs"].values() for files in output.values() if isinstance(files, list)]
    listed = [file for files in lists for file in files if isinstance(file, dict) and file.get("type") == "output"]
    named = [(file.get("subfolder") or "", file.get("filename")) for file in listed]
    saved = dict.fromkeys(pair for pair in named if all(isinstance(text, str) for text in pair))
    # A folder of pictures that are numbered from here on; whichever else of them is listed comes with it.
    sequences = {folder: name for folder, name in reversed(saved) if folder and FIRST_PICTURE.fullmatch(name)}

    def is_of_sequence(subfolder: str, name: str) -> bool:
        return subfolder in sequences and (PICTURE.fullmatch(name) is not None or name == WORKFLOW_PICTURE)

    out.mkdir(parents=True, exist_ok=True)
    fetched = []
    for subfolder, name in saved:
        path = inside(out, subfolder, name)
        if sequences.get(subfolder) == name:
            others = [each for folder, each in saved if folder == subfolder and is_of_sequence(folder, each)]
            fetched.append(await fetch_sequence(session, subfolder, name, others, path.parent))
        elif not is_of_sequence(subfolder, name):
            path.parent.mkdir(parents=True, exist_ok=True)
            part = unfinished(path)
            try:
                await download(session, subfolder, name, part)
                fetched.append(publish(part, path))
            finally:
                part.unlink(missing_ok=True)
    return fetched


async def fetch_sequence(
    session: aiohttp.ClientSession, subfolder: str, first: str, listed: list[str], folder: Path
) -> Path:
    """Fetch numbered pictures as one folder: the first, those that follow, and those that are listed."""
    part = unfinished(folder)
    part.mkdir(parents=True)
    try:
        await download(session, subfolder, first, part / first)
        number = 1
        while await download_if_there(session, subfolder, name := following(first, number), part / name):
            number += 1
            if number > MOST_PICTURES:
                raise PromptError(f"the server has more than {MOST_PICTURES} pictures in {subfolder!r}")
        for name in listed:
            if not (part / name).exists():  # after a gap, say
                await download(session, subfolder, name, part / name)
        if first.endswith(".exr") and WORKFLOW_PICTURE not in listed:
            await download_if_there(session, subfolder, WORKFLOW_PICTURE, part / WORKFLOW_PICTURE)
        return publish(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


async def download_if_there(session: aiohttp.ClientSession, subfolder: str, name: str, path: Path) -> bool:
    try:
        await download(session, subfolder, name, path)
    except aiohttp.ClientResponseError as error:
        if error.status != 404:
            raise
        return False
    return True


def unfinished(path: Path) -> Path:
    """The name until it is complete; short, since the other one may be as long as names can be."""
    return path.with_name(f".{uuid.uuid4().hex}.part")


def following(name: str, number: int) -> str:
    """The name of a picture so many after this one: 00003.png is two after 00001.png."""
    digits, dot, extension = name.partition(".")
    return f"{int(digits) + number:0{len(digits)}}{dot}{extension}"


async def download(session: aiohttp.ClientSession, subfolder: str, name: str, path: Path) -> None:
    where = {"filename": name, "subfolder": subfolder, "type": "output"}
    async with session.get("/view", params=where, raise_for_status=True) as answer:
        with path.open("xb") as file:
            async for piece in answer.content.iter_chunked(1 << 20):
                file.write(piece)


def inside(out: Path, subfolder: str, name: str) -> Path:
    """Where a file of the server belongs. A server is not trusted to name one inside of `out`."""
    parts = [part for part in re.split(r"[/\\]", subfolder) if part] + [name]
    if subfolder[:1] in ("/", "\\") or any(part in ("", ".", "..") or Path(part).name != part for part in parts):
        raise PromptError(f"the server names a file outside of its output folder: {subfolder!r}, {name!r}")
    # On Windows a colon would name a stream of the file, or a disk.
    if CONTROL.search(subfolder + name) or "\\" in name or (WINDOWS and ":" in subfolder + name):
        raise PromptError(f"the server gives a file a name that it cannot have: {subfolder!r}, {name!r}")
    return out.joinpath(*parts)


def publish(part: Path, path: Path) -> Path:
    """Give what is complete its name, or the next that is free. Returns it."""
    free, number = path, 0
    while not take_name(part, free):
        number += 1
        free = path.with_name(f"{path.stem} ({number}){path.suffix}")
    return free


def take_name(part: Path, path: Path) -> bool:
    """Rename a file or a folder, or return False where there is something of that name."""
    if os.path.lexists(path):
        return False
    try:
        if WINDOWS or part.is_dir():
            part.rename(path)  # of a folder, refused if there is one with anything in it
        else:
            os.link(part, path)  # unlike a rename, refused if there is one
            part.unlink()
    except FileExistsError:
        return False
    except OSError:
        if part.is_dir() or os.path.lexists(path):
            raise
        part.rename(path)  # a disk without links, such as FAT
    return True


def name_of(prompt: dict, node_id: str) -> str:
    # Nodes that others put in while the prompt runs are not in it.
    return f"{prompt.get(node_id, {}).get('class_type', 'node')} #{node_id}"


def plain(text: str) -> str:
    """A text of the server as it may be shown; lines stay lines."""
    return CONTROL.sub(lambda found: found[0] if found[0] in "\n\t" else repr(found[0])[1:-1], text)
