"""What the pages on farms say: commands that there are, and messages that are said. Starts nothing."""

import ast
import configparser
import contextlib
import re
import shlex

import pytest
import yaml
from async_frame_pipeline.farm import commands

from ..conftest import ROOT

PAGES = [ROOT / name for name in ("README.md", "docs/farm.md", "farm/README.md")]
FOLDER = ROOT / "docs" / "farm"
UNITS = sorted(FOLDER.glob("*.service"))
# Of the pages and of the examples' comments: up to what ends a command in a shell or in Markdown.
COMMAND = re.compile(r"-m farm ((?:(?! {2}|[`\n|#)&]).)+)")


def commands_in(text: str) -> list[list[str]]:
    """Their arguments; "..." stands for something."""
    return [shlex.split(found.replace("...", "x")) for found in COMMAND.findall(text)]


def parsed(arguments: list[str]):
    with contextlib.suppress(SystemExit):
        return commands.parse(arguments)
    raise AssertionError(f"there is no such command: python -m farm {shlex.join(arguments)}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_its_commands_are_there(page, tmp_path, monkeypatch):
    """Said in the pack's folder, in a ComfyUI."""
    pack, model = tmp_path / "custom_nodes" / "pack", tmp_path / "comfy" / "sd.py"
    for folder in (pack, model.parent):
        folder.mkdir(parents=True)
    model.touch()
    monkeypatch.chdir(pack)
    found = commands_in(page.read_text(encoding="utf-8"))
    assert found
    for arguments in found:
        if arguments[1:] != ["--help"]:
            parsed(arguments)


def test_the_page_names_every_command():
    named = {arguments[0] for arguments in commands_in((ROOT / "docs" / "farm.md").read_text(encoding="utf-8"))}
    assert {"up", "token", "worker", "jobs", "cancel", "retry", "status", "serve", "down"} == named


def said() -> str:
    """Every text in the sources; what is filled in is left out."""
    texts = []
    for path in sorted([*(ROOT / "farm").glob("*.py"), *(ROOT / "nodes").glob("elsewhere*.py")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                texts.append("\0".join(each.value for each in node.values if isinstance(each, ast.Constant)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


def test_its_messages_are_said():
    table = (ROOT / "docs" / "farm.md").read_text(encoding="utf-8").partition("## What each message says")[2]
    messages = [found for line in table.splitlines() for found in re.findall(r"`([^`]+)`", line.split(" | ")[0])]
    known = said()
    parts = [part.strip() for each in messages for part in each.split("…") if part.strip()]
    assert len(messages) > 15
    assert [part for part in parts if part not in known] == []


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_starts_what_there_is(unit):
    parser = configparser.ConfigParser(interpolation=None, delimiters="=", comment_prefixes="#")
    parser.optionxform = str
    parser.read_string(unit.read_text(encoding="utf-8"))
    assert {"Unit", "Service", "Install"} == set(parser.sections())
    program, *rest = shlex.split(parser["Service"]["ExecStart"])
    assert program.endswith("python") and rest[:2] == ["-m", "farm"]
    parsed(rest[2:])
    for arguments in commands_in(unit.read_text(encoding="utf-8")):
        parsed(arguments)


def test_the_containers_start_what_there_is():
    path = FOLDER / "compose.yaml"
    services = yaml.safe_load(path.read_text(encoding="utf-8"))["services"]
    for service in services.values():
        python, *rest = shlex.split(service["command"])
        assert (python, rest[:2]) == ("python", ["-m", "farm"])
        parsed(rest[2:])
        context = FOLDER / service["build"]["context"]
        copied = re.findall(r"^COPY (\S+) ", service["build"]["dockerfile_inline"], flags=re.MULTILINE)
        assert len(copied) == 4 and all((context / each).exists() for each in copied)
    assert set(services) == {"server", "worker"}
