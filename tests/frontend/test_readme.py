"""The API examples of the documentation, run word for word against a server; and links."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import av
import pytest

from .conftest import REPO, Server

PAGES = sorted(str(path.relative_to(REPO)) for folder in (REPO, REPO / "docs") for path in folder.glob("*.md"))
ADDRESS = "http://127.0.0.1:8188"
# "3": the node whose quality the Python example sets.
REFUSED = {"3": {"class_type": "NoSuchNode", "inputs": {}}}
FAILING = {
    "3": {"class_type": "RegexReplace", "inputs": {"string": "a", "regex_pattern": "(", "replace": "b"}},
    "4": {"class_type": "PreviewAny", "inputs": {"source": ["3", 0]}},
}
in_both_languages = pytest.mark.parametrize(
    "language, command", [("bash", ["bash", "-uc"]), ("python", [sys.executable, "-c"])]
)


def example(language: str) -> str:
    """The API example in this language."""
    text = (REPO / "docs" / "api.md").read_text()
    blocks = re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    [block] = [block for block in blocks if ADDRESS in block]
    return block


def run(server: Server, folder: Path, language: str, command: list[str], prompt: dict) -> subprocess.CompletedProcess:
    """Run it in `folder`, with this prompt where it reads the demo's."""
    file = folder / "workflows" / "api" / "demo.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(prompt))
    env = {**os.environ, "no_proxy": "127.0.0.1"}
    script = example(language).replace(ADDRESS, server.url)
    return subprocess.run([*command, script], cwd=folder, env=env, capture_output=True, text=True, timeout=600)


@in_both_languages
def test_an_api_example_fetches_the_video(server: Server, tmp_path: Path, language: str, command: list[str]):
    prompt = json.loads((REPO / "workflows" / "api" / "demo.json").read_text())
    # The end of the demo alone: decoding all of it takes half a minute.
    prompt["2"]["inputs"]["samples"] = ["4", 0]
    prompt["4"] = {"class_type": "TrimVideoLatent", "inputs": {"samples": ["1", 0], "trim_amount": 7}}
    done = run(server, tmp_path, language, command, prompt)
    assert done.returncode == 0, done.stderr
    with av.open(io.BytesIO((tmp_path / "demo.mp4").read_bytes())) as container:
        assert sum(1 for _ in container.decode(video=0)) == 5


@in_both_languages
@pytest.mark.parametrize(
    "prompt, told",
    [
        (REFUSED, ["Refused", "NoSuchNode"]),
        (FAILING, ["RegexReplace", "unterminated subpattern"]),
    ],
    ids=["refused", "failing"],
)
def test_an_api_example_tells_why_there_is_no_video(
    server: Server, tmp_path: Path, language: str, command: list[str], prompt: dict, told: list[str]
):
    done = run(server, tmp_path, language, command, prompt)
    assert done.returncode == 1
    assert all(words in done.stderr for words in told) and "Traceback" not in done.stderr, done.stderr
    assert not (tmp_path / "demo.mp4").exists()


@in_both_languages
def test_an_api_example_ends_where_there_is_no_server(
    server: Server, tmp_path: Path, language: str, command: list[str]
):
    (tmp_path / "workflows").symlink_to(REPO / "workflows")
    script = example(language).replace(ADDRESS, "http://127.0.0.1:9")
    done = subprocess.run([*command, script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "onnect" in done.stderr


def test_the_readme_names_the_languages():
    [names] = re.findall(r"are translated into (.*?);", (REPO / "README.md").read_text())
    names = names.replace("Chinese (simplified and traditional)", "Chinese, Chinese")
    assert len(re.split(r", | and ", names)) == len(list((REPO / "locales").iterdir())) - 1, "all but English"


def test_the_readme_leads_to_every_page():
    readme = (REPO / "README.md").read_text()
    assert [page for page in PAGES if page != "README.md" and f"]({page})" not in readme] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: str):
    links = re.findall(r'\]\(([^)#"]+?)(?: "[^"]*")?\)', (REPO / page).read_text())
    local = [link for link in links if not link.startswith("https://")]
    assert [link for link in local if not ((REPO / page).parent / link).exists()] == []


def test_each_line_of_the_comparisons_names_tests_that_exist():
    """In the titles of the links in its last column."""
    page = REPO / "docs" / "saving.md"
    tables = re.findall(
        r"^(\| (?:around the file )?\| this node .*?)^$", page.read_text(), flags=re.MULTILINE | re.DOTALL
    )
    assert len(tables) == 2
    rows = [row for table in tables for row in table.strip().splitlines()[2:]]
    assert len(rows) > 30
    for row in rows:
        links = re.findall(r'\]\((\S+) "([^"]+)"\)', row.rpartition(" | ")[2])
        assert links, row
        for path, names in links:
            source = (page.parent / path).read_text()
            assert [name for name in names.split() if f"def {name}(" not in source] == [], row


def test_the_map_names_what_exists():
    # Lines of the map start with a path; indented ones are inside the last folder named.
    page = (REPO / "docs" / "architecture.md").read_text()
    [code_map] = re.findall(r"^## Map of the code.*?^```\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    folder, missing = REPO, []
    for line in code_map.splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            folder = REPO / name if name.endswith("/") else REPO
            path = REPO / name
        else:
            path = folder / name
        if not path.exists():
            missing.append(name)
    assert missing == []
