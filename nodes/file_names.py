"""What may be said of where a file goes: prefixes come from workflows that strangers share.

ComfyUI's own check looks at the path as this system reads it. A prefix is refused here wherever it leads out on any
system, since workflows travel. Links in the output folder are the user's own: they are followed where ComfyUI does so.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable
from datetime import datetime
from pathlib import PurePath, PurePosixPath, PureWindowsPath


def checked_prefix(prefix: str, root: str, holds: Callable[[str, str], bool] | None = None) -> str:
    """A prefix as a path relative to a folder, with its date filled in.

    Args:
        prefix: as the user gave it: relative, or absolute and in the folder.
        root: the folder.
        holds: whether a folder holds another one, links followed; None where links are not looked at.
    Raises:
        ValueError: it names a place outside: by an absolute path, a drive, "..", or a link that is not followed; or it
            holds characters that no file name should have.
    """
    relative, reason = prefix, "it is no text"
    if isinstance(prefix, str):
        relative = _relative(with_date(prefix, datetime.now()), root)
        reason = _why_not(relative, root, holds)
    if reason:
        raise ValueError(
            f"filename_prefix {repr(prefix) if str(prefix).isprintable() else ascii(prefix)} does not name a place "
            f"inside the output folder, or the temp folder with save_output off: {reason}. Use a name or a relative "
            "path without '..', for example 'video/ComfyUI'."
        )
    return relative


def with_date(prefix: str, now: datetime) -> str:
    """Fill in %date:yyyy-MM-dd% as the editor does, from which other programs do not come.

    d, M, h, m and s are day, month, hour of 24, minute and second, with a leading zero where they are doubled; yy and
    yyyy the year. All else stays as it is.
    """
    parts = {"d": now.day, "M": now.month, "h": now.hour, "m": now.minute, "s": now.second}

    def part(found: re.Match) -> str:
        letters = found[0]
        if letters[0] in parts:
            return f"{parts[letters[0]]:0{len(letters)}}"
        return {"yy": f"{now.year % 100:02}", "yyyy": f"{now.year}"}.get(letters, letters)

    def date(found: re.Match) -> str:
        return re.sub("dd?|MM?|hh?|mm?|ss?|yyy?y?", part, found[1])

    return re.sub("%date:([^%]+)%", date, prefix)


def _relative(prefix: str, root: str) -> str:
    """An absolute path in the folder as one relative to it; all others as they are."""
    if ".." not in PurePath(prefix).parts:
        for folder in (root, os.path.realpath(root)):
            if PurePath(prefix).is_absolute() and PurePath(folder) in PurePath(prefix).parents:
                return str(PurePath(prefix).relative_to(folder))
    return prefix


def _why_not(prefix: str, root: str, holds: Callable[[str, str], bool] | None) -> str | None:
    # Control characters; and lone surrogates, which no file system takes.
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in prefix):
        return "it holds a control character or half of a character"
    for kind in (PurePosixPath, PureWindowsPath):
        path = kind(prefix)
        if path.drive.endswith(":") and not PurePath(prefix).is_absolute():
            return f"it begins with '{path.drive}', which is a drive on Windows"
        if path.drive or path.root:
            return f"it is an absolute path that is not in {root}"
        if ".." in path.parts:
            return "it holds '..'"
    if os.name == "nt" and any(character in '<>:"|?*' for character in prefix):
        return 'Windows takes none of < > : " | ? * in names'  # what follows a colon would become a hidden stream
    folder = os.path.join(root, os.path.dirname(os.path.normpath(prefix)))
    if holds is not None and not holds(root, folder):
        return f"a link in it leads to {os.path.realpath(folder)}, and this ComfyUI follows no links that lead out"
    return None
