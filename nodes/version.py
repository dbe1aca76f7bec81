"""Where users and clients see the version: the log, saved files, and the description of each node."""

from __future__ import annotations

from collections.abc import Mapping

from ..pipeline import VERSION


def signed(metadata: Mapping) -> dict:
    """Metadata for a file, with what wrote it beside "prompt" and "workflow", which are all that the frontend reads."""
    return {**metadata, "async_frame_pipeline": VERSION}


def signed_prompt(prompt: dict | None, extra_pnginfo: object) -> dict:
    """The same of a prompt, as the stock savers store it.

    Args:
        prompt: the node graph that runs, if any.
        extra_pnginfo: the workflow and more under keys of their own, from whoever queued the prompt.
    """
    extra = extra_pnginfo if isinstance(extra_pnginfo, Mapping) else {}
    return signed(extra if prompt is None else {**extra, "prompt": prompt})


def described(text: str) -> str:
    """A node's description for /object_info. `locales/`, which the editor shows instead, stays true at each release."""
    return f"{text} (Async Frame Pipeline {VERSION})"
