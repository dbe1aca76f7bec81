"""What may be said of where a file goes: prefixes come from workflows that strangers share.

ComfyUI's own check looks at the path as this system reads it. A prefix is refused here wherever it leads out on any
system, since workflows travel, and wherever a link in the output folder leads out, which older ComfyUIs let pass.
"""

from __future__ import annotations

import os
import unicodedata
from pathlib import PurePath, PurePosixPath, PureWindowsPath


def check_prefix(prefix: str, root: str) -> None:
    """Refuse a prefix that could name a place outside of a folder.

    Args:
        prefix: as the user gave it.
        root: the folder.
    Raises:
        ValueError: it is absolute, has a drive or "..", holds characters no file name should have, or goes through a
            link that leads out.
    """
    reason = _why_not(prefix, root)
    if reason is not None:
        raise ValueError(
            f"filename_prefix {repr(prefix) if str(prefix).isprintable() else ascii(prefix)} does not name a place "
            f"inside the output folder: {reason}. Use a name or a relative path without '..', "
            "for example 'video/ComfyUI'."
        )


def _why_not(prefix: str, root: str) -> str | None:
    if not isinstance(prefix, str):
        return "it is no text"
    # Control characters; and lone surrogates, which no file system takes.
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in prefix):
        return "it holds a control character or half of a character"
    for kind in (PurePosixPath, PureWindowsPath):
        path = kind(prefix)
        if path.drive or path.root:
            return "it is an absolute path"
        if ".." in path.parts:
            return "it holds '..'"
    root = os.path.realpath(root)
    folder = os.path.realpath(os.path.join(root, os.path.dirname(os.path.normpath(prefix))))
    if not PurePath(folder).is_relative_to(root):
        return f"a link in it leads to {folder}"
    return None
