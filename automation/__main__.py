"""The swap as a command: python -m automation swap in.json out.json"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path

from .rules import Change, FormatError
from .swap import swap

PART = ".part"  # of a file that is still being written


def main() -> int:
    arguments = parse()
    try:
        text = arguments.source.read_text(encoding="utf-8-sig")
        before = json.loads(text)
        after, changes = swap(before, reverse=arguments.reverse, tiled=arguments.tiled)
        print(report(changes))
        if not arguments.dry_run:
            write(arguments.target, text if after == before else formatted(after, like=text))
    except (FormatError, json.JSONDecodeError, UnicodeDecodeError) as error:
        problem = str(error) if isinstance(error, FormatError) else f"this is not JSON: {error}"
        return fail(f"{arguments.source}: {problem}")
    except OSError as error:
        return fail(f"{str(error.filename).removesuffix(PART)}: {error.strerror}")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m automation", description=__doc__.partition(":")[0] + ".")
    command = parser.add_subparsers(required=True).add_parser(
        "swap",
        help="put this pack's decoders into a workflow",
        description="Put Async VAE Decode in the place of the stock decodes that make videos, in a workflow file or in "
        "a prompt in API format. Prints what was changed, and what was left alone and why.",
    )
    command.add_argument("source", metavar="in.json", type=Path)
    command.add_argument(
        "target", metavar="out.json", type=Path, nargs="?", help="may be in.json; not needed with --dry-run"
    )
    command.add_argument("--dry-run", action="store_true", help="print the changes, write nothing")
    command.add_argument("--reverse", action="store_true", help="put the stock nodes back")
    command.add_argument("--tiled", action="store_true", help="swap VAE Decode (Tiled) too")
    arguments = parser.parse_args()
    if arguments.target is None and not arguments.dry_run:
        command.error("out.json is missing (or --dry-run)")
    return arguments


def report(changes: list[Change]) -> str:
    done = sum(1 for change in changes if change.after)
    count = f"{done} of {len(changes)} decodes changed" if changes else "no decode to change"
    return "\n".join([*map(str, changes), count])


def formatted(workflow: dict, like: str) -> str:
    """JSON laid out as the file it came from, so that the two differ only where something was changed."""
    indent = re.match(r"\s*[{\[]\r?\n([ \t]+)", like)
    compact = not indent and '": ' not in like
    text = json.dumps(
        workflow,
        indent=indent and indent[1],
        separators=(",", ":") if compact else None,
        ensure_ascii=like.isascii(),
    )
    return text + "\n" * like.endswith("\n")


def write(path: Path, text: str) -> None:
    """Write whole or not at all."""
    part = path.with_name(path.name + PART)
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
