"""Lines in ComfyUI's log, under the pack's name and version."""

from __future__ import annotations

import logging

from ..pipeline import VERSION

_log = logging.getLogger("async-frame-pipeline")


def say(message: str, level: int = logging.INFO) -> None:
    """One line."""
    _log.log(level, "async-frame-pipeline %s: %s", VERSION, message)
