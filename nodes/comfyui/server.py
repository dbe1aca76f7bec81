"""The server around a node: its queue, the browser that listens, the user's settings, and where files go."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import folder_paths
from comfy.cli_args import args
from comfy_execution.graph_utils import ExecutionBlocker
from server import PromptServer

from .. import file_names


def listener(event: str) -> Callable[[dict], None] | None:
    """Sends events of this type to the client that queued the running prompt, naming the running node and its type;
    None if it is not connected."""
    server = _server()
    if server is None or server.client_id is None or server.client_id not in server.sockets:
        return None
    client_id, node_id, prompt_id = server.client_id, server.last_node_id, getattr(server, "last_prompt_id", None)
    prompt = (running_prompt() or ({}, {}))[0]
    who = {"node": node_id, "type": prompt.get(node_id, {}).get("class_type"), "prompt_id": prompt_id}
    return lambda data: server.send_sync(event, who | data, client_id)


def running_prompt() -> tuple[dict, dict] | None:
    """The prompt that runs, and the extra_data that came with it; None if there is none."""
    server = _server()
    running = server.prompt_queue.get_current_queue_volatile()[0] if server is not None else []
    return running[0][2:4] if running else None


def running_prompt_id() -> str | None:
    """None if there is none."""
    server = _server()
    running = server.prompt_queue.get_current_queue_volatile()[0] if server is not None else []
    return running[0][1] if running else None


def _server() -> PromptServer | None:
    """There is none where ComfyUI is used as a library."""
    return getattr(PromptServer, "instance", None)


def setting(name: str) -> object:
    """What the frontend stored under this name; None if nothing.

    With --multi-user nobody knows whose prompt runs: None.
    """
    settings = Path(folder_paths.get_user_directory()) / "default" / "comfy.settings.json"
    with contextlib.suppress(OSError, ValueError, AttributeError):  # no file, no JSON, no settings in it
        return json.loads(settings.read_text(encoding="utf-8")).get(name)
    return None


def metadata_enabled() -> bool:
    """False under --disable-metadata."""
    return not args.disable_metadata


def blocked(reason: str):
    """An output that stops whatever node uses it, with this reason."""
    return ExecutionBlocker(reason)


# -- files ----------------------------------------------------------------------------------------


def input_folder() -> Path:
    return Path(folder_paths.get_input_directory())


def output_folder() -> Path:
    return Path(folder_paths.get_output_directory())


def temp_folder() -> Path:
    """Where previews go; ComfyUI empties it when it starts."""
    folder = Path(folder_paths.get_temp_directory())
    os.makedirs(folder, exist_ok=True)
    return folder


def check_prefix(filename_prefix: str, root: Path | None = None) -> str:
    """A prefix as a path relative to `root`, ComfyUI's output folder if not given; refuses, with a ValueError, one that
    leads out of it."""
    # Newer ComfyUIs refuse links that lead out of the folder, older ones follow them.
    holds = getattr(folder_paths, "is_within_directory", None)
    return file_names.checked_prefix(filename_prefix, str(root or output_folder()), holds)


def output_names(filename_prefix: str, width: int, height: int, root: Path) -> tuple[str, str, int, str]:
    """Where files with this prefix go, inside of `root`.

    Returns:
        (folder, start of the file name, number of the next file, subfolder), the folder below `root`.
    Raises:
        ValueError: the prefix leads out of it.
    """
    prefix = check_prefix(filename_prefix, root)
    try:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, str(root), width, height)
    except OSError:  # something is in the way; the error names it
        raise
    except Exception as error:  # ComfyUI raises a bare Exception where the prefix leads out
        raise ValueError(
            f"filename_prefix '{filename_prefix}' does not name a place inside the output folder, or the temp folder "
            "with save_output off. "
            "Use a name or a relative path without '..', for example 'video/ComfyUI'."
        ) from error
    return folder, name, counter, subfolder
