"""Where users and clients see the version: the log, saved files, and the description of each node."""

from __future__ import annotations

from ..pipeline import VERSION


def signed(metadata: dict) -> dict:
    """Metadata for a file, with what wrote it beside "prompt" and "workflow", which are all that the frontend reads."""
    return metadata | {"async_frame_pipeline": VERSION}


def described(text: str) -> str:
    """A node's description for /object_info. `locales/`, which the editor shows instead, stays true at each release."""
    return f"{text} (Async Frame Pipeline {VERSION})"
