"""The README's API examples, run word for word against a server; and its links."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import av
import pytest

from .conftest import REPO, Server

README = (REPO / "README.md").read_text()
ADDRESS = "http://127.0.0.1:8188"


def example(language: str) -> str:
    """The README's API example in this language."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    [block] = [block for block in blocks if ADDRESS in block]
    return block


@pytest.mark.parametrize("language, command", [("bash", ["bash", "-euc"]), ("python", [sys.executable, "-c"])])
def test_an_api_example_fetches_the_video(server: Server, tmp_path: Path, language: str, command: list[str]):
    if language == "bash" and not shutil.which("curl"):
        pytest.skip("needs curl")
    (tmp_path / "workflows").symlink_to(REPO / "workflows")  # run beside the repository, to leave nothing in it
    env = {**os.environ, "no_proxy": "127.0.0.1"}
    script = example(language).replace(ADDRESS, server.url)
    done = subprocess.run([*command, script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    with av.open(io.BytesIO((tmp_path / "demo.mp4").read_bytes())) as container:
        assert sum(1 for _ in container.decode(video=0)) == 33


def test_links_lead_to_files():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    local = [link for link in links if not link.startswith("https://")]
    assert local, "the README shows a picture and names its licence"
    assert [link for link in local if not (REPO / link).exists()] == []


def test_the_map_names_what_exists():
    # Lines of the map start with a path; indented ones are inside the last folder named.
    [code_map] = re.findall(r"^## Map of the code.*?^```\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
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
