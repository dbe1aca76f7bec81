"""Emphasis in the help pages: CommonMark does not end it between a full-width bracket and a letter, say."""

import re
import unicodedata
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PAGES = [*(REPO / "web" / "docs").rglob("*.md"), *(REPO / "docs").glob("*.md"), REPO / "README.md"]


def unclosed(text: str) -> list[str]:
    """Runs of asterisks, with what is around them, that are shown as they are."""
    found = []
    for block in re.split(r"\n\s*\n|\n(?=\s*[-*|] )", re.sub(r"```.*?```|`[^`\n]*`", "code", text, flags=re.DOTALL)):
        open_runs: list[str] = []
        for run in re.finditer(r"(?<!\\)\*+", re.sub(r"^\s*\* ", "", block)):
            before, after = block[: run.start()][-1:], block[run.end() :][:1]
            if open_runs and open_runs[-1] == run[0] and ends(before, after):
                open_runs.pop()
            elif ends(after, before):  # the same, seen from the other side
                open_runs.append(run[0])
            else:
                found.append(block[max(0, run.start() - 12) : run.end() + 12])
        found += open_runs
    return found


def ends(inside: str, outside: str) -> bool:
    """Whether asterisks between these two characters may end, or begin, what is inside."""
    return not is_space(inside) and (not is_punctuation(inside) or is_space(outside) or is_punctuation(outside))


def is_space(character: str) -> bool:
    return not character or character.isspace()


def is_punctuation(character: str) -> bool:
    return bool(character) and unicodedata.category(character)[0] in "PS"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_emphasis_is_closed(page: Path):
    assert unclosed(page.read_text(encoding="utf-8")) == []


def test_what_is_found():
    assert unclosed("a **b** c, *d*: **e (f)**. `**` 请用**名（称）** 加**名**，") == []
    assert unclosed("请用**名（称）**加") != [] and unclosed("a **b\n\nc") == ["**"]
