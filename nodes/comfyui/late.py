"""What becomes known of a node after its prompt has ended: told to the page, added to the history, asked for by a page.

Which prompts there were is in `PromptQueue`, whose insides are ComfyUI's own: where they are others than those known
here, the page is told all the same, and the history stays as it was.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import folder_paths
from aiohttp import web
from server import PromptServer

from ..log import say

ROUTE = "/async_frame_pipeline/jobs"
_said: set[str] = set()


def user_folder() -> Path:
    """Of this pack's own, which ComfyUI hands out to no page: those that begin with "__" are a system's."""
    return Path(folder_paths.get_user_directory()) / "__async_frame_pipeline"


def offer(jobs: Callable[[], list[dict]], cancel: Callable[[str], Awaitable[bool]]) -> None:
    """Answer GET ROUTE, of ComfyUI's own server, with {"jobs": what `jobs` gives}, and POST ROUTE/<job id>/cancel.

    Args:
        cancel: whether there was something to cancel; raises a RuntimeError where that cannot be done now.
    """
    server = getattr(PromptServer, "instance", None)
    if server is None:  # ComfyUI is used as a library
        return

    @server.routes.get(ROUTE)
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"jobs": jobs()})

    @server.routes.post(ROUTE + "/{job_id}/cancel")
    async def answer_cancel(request: web.Request) -> web.Response:
        try:
            done = await cancel(request.match_info["job_id"])
        except RuntimeError as error:
            return web.Response(status=503, text=str(error))
        return web.Response(status=200 if done else 404)


def listener() -> str | None:
    """The page that queued the prompt that runs; None if it was none."""
    server = getattr(PromptServer, "instance", None)
    return server.client_id if server is not None else None


def tell(event: str, data: dict, listener: str | None) -> None:
    """Send it to one page, if that is there."""
    server = getattr(PromptServer, "instance", None)
    if server is not None and listener is not None and listener in server.sockets:
        server.send_sync(event, data, listener)


def show(prompt_id: str, node_id: str, display_node: str, output: dict, listener: str | None) -> None:
    """Show a node's output as if the node had just run."""
    data = {"node": node_id, "display_node": display_node, "output": output, "prompt_id": prompt_id}
    tell("executed", data, listener)


def is_over(prompt_id: str) -> bool:
    """Whether a prompt has ended, or never was in this ComfyUI: what it says itself of a node would come later."""
    server = getattr(PromptServer, "instance", None)
    if server is None:
        return True
    running, queued = server.prompt_queue.get_current_queue_volatile()
    return all(item[1] != prompt_id for item in (*running, *queued))


def has_passed(prompt_id: str, node_id: str) -> bool:
    """Whether a node that began to run has ended, so that what is shown of it stays."""
    server = getattr(PromptServer, "instance", None)
    return is_over(prompt_id) or getattr(server, "last_node_id", node_id) != node_id


def add_to_history(prompt_id: str, node_id: str, output: dict) -> None:
    """Put a node's output into the history of a prompt that is over, in the place of what it gave then."""
    server = getattr(PromptServer, "instance", None)
    if server is None:
        return
    try:
        queue = server.prompt_queue
        with queue.mutex:
            entry = queue.history.get(prompt_id)
            if entry is None:  # removed by the user, or of an earlier run
                return
            there = entry["outputs"].setdefault(node_id, {})
            # In place: ComfyUI's cache holds the same dict, and shows it when the prompt is queued again.
            there.update(output)
    except Exception as error:
        if "history" not in _said:
            _said.add("history")
            say(f"the history cannot be added to: {type(error).__name__}: {error}", logging.WARNING)
