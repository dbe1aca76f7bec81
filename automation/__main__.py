"""The swap, and running a prompt, as commands: python -m automation swap in.json out.json"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import uuid
from pathlib import Path

from . import source
from .rules import Change, FormatError
from .swap import swap

ACCEPTED = "JSON, or a PNG, WebP, MP4, MOV, MKV or WebM that holds it"


def main() -> int:
    arguments = parse()
    return arguments.command(arguments)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m automation")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser(
        "swap",
        help="put this pack's nodes into a workflow",
        description="Put Async VAE Decode in the place of the stock decodes that make videos, and Save Video "
        "(Streaming) in the place of savers that they feed, in a workflow file or in a prompt in API format. Prints "
        "what was changed and what is won by it, and what was left alone and why.",
    )
    command.set_defaults(command=swap_file)
    command.add_argument("source", metavar="in.json", type=Path, help=f"{ACCEPTED}; of both, the workflow is taken")
    command.add_argument(
        "target", metavar="out.json", type=Path, nargs="?", help="may be in.json; not needed with --dry-run"
    )
    command.add_argument("--dry-run", action="store_true", help="print the changes, write nothing")
    command.add_argument("--reverse", action="store_true", help="put the stock nodes back")
    command.add_argument(
        "--tiles",
        choices=("auto", "same", "without"),
        default="auto",
        help="what becomes of VAE Decode (Tiled): the same tiles and pixels, or the pixels of VAE Decode. Default: "
        "auto, without where tiles are known not to be needed, else the same",
    )
    command.add_argument("--all", action="store_true", help="swap decodes too with which nothing is won")
    command.add_argument(
        "--savers", action="store_true", help="swap savers too where that wins no time, such as Save Video"
    )
    command.add_argument(
        "--elsewhere",
        action="store_true",
        help="make Save Video (Decode Elsewhere) of each decode that can go there and its saver: a farm decodes it, "
        "see farm/README.md",
    )
    swapping = command

    command = commands.add_parser(
        "run",
        help="queue a prompt, follow it and fetch what it saves",
        description="Queue a prompt, tell how far it is, and fetch what it saves. Ctrl+C cancels it.",
    )
    command.set_defaults(command=run_prompt)
    command.add_argument("prompt", metavar="prompt.json", type=Path, help=f"in API format: {ACCEPTED}")
    command.add_argument("--server", default="http://127.0.0.1:8188", help="default: %(default)s")
    command.add_argument(
        "--out",
        type=Path,
        default=Path("."),
        help="folder for the files, which keep their subfolders; none is ever replaced. Default: the current one",
    )

    arguments = parser.parse_args()
    if arguments.command is swap_file and not arguments.dry_run:
        if arguments.target is None:
            swapping.error("out.json is missing (or --dry-run)")
        if source.is_media(arguments.target):
            swapping.error(f"{arguments.target}: what is written is JSON; name a .json")
    return arguments


# ---------------------------------------------------------------------------- swap


def swap_file(arguments: argparse.Namespace) -> int:
    try:
        text = source.read(arguments.source, ("workflow", "prompt"))
        before = json.loads(text)
        after, changes = swap(
            before,
            reverse=arguments.reverse,
            tiles=arguments.tiles,
            everything=arguments.all,
            savers=arguments.savers,
            elsewhere=arguments.elsewhere,
        )
        print(report(changes))
        if not arguments.dry_run:
            write(arguments.target, text if after == before else formatted(after, like=text))
    except (FormatError, source.SourceError) as error:
        return fail(f"{arguments.source}: {error}")
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        return fail(f"{arguments.source}: this is not JSON: {error}")
    except OSError as error:
        is_source = str(error.filename) == str(arguments.source)
        return fail(f"{arguments.source if is_source else arguments.target}: {error.strerror}")
    return 0


def report(changes: list[Change]) -> str:
    done = sum(1 for change in changes if change.after)
    count = f"{done} of {len(changes)} changed" if changes else "nothing to change"
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
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


# ---------------------------------------------------------------------------- run


def run_prompt(arguments: argparse.Namespace) -> int:
    try:
        import asyncio

        import aiohttp

        from .run import PromptError, plain, run
    except ImportError as error:
        return fail(f"{error.name} is needed: use ComfyUI's Python, which has it", status=1)
    try:
        prompt = read_prompt(arguments.prompt)
        server = arguments.server if "://" in arguments.server else f"http://{arguments.server}"
        paths = asyncio.run(run(server, prompt, arguments.out))
        for path in paths:
            print(plain(f"saved {path}"))
        if not paths:
            print("there was no file to fetch when the prompt ended")
    except aiohttp.ClientConnectorError as error:
        return fail(plain(f"{error}; is ComfyUI running? --server names another address"), status=1)
    except (PromptError, FormatError, aiohttp.ClientError, OSError) as error:
        return fail(plain(str(error)), status=1)
    except KeyboardInterrupt:
        print("cancelled", file=sys.stderr)
        return 130
    return 0


def read_prompt(path: Path) -> dict:
    """Raises FormatError where there is no prompt in API format in the file."""
    how = "export it in the editor by File, Export (API)"
    try:
        prompt = json.loads(source.read(path, ("prompt",)))
    except source.SourceError as error:
        raise FormatError(f"{path}: {error}; {how}") from error
    except ValueError as error:
        raise FormatError(f"{path} is not JSON: {error}") from error
    if not isinstance(prompt, dict) or "nodes" in prompt:
        raise FormatError(f"{path} is no prompt in API format; {how}")
    return prompt


def fail(message: str, status: int = 2) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
