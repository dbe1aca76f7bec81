"""Runs the browser's code without a browser."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent


def run_node(*arguments: object, given: str = "") -> str:
    """What node prints; a test without node fails, so that a run cannot pass without it."""
    if not (node := shutil.which("node")):
        pytest.fail("no node: install it (apt-get install nodejs), 20 or newer", pytrace=False)
    done = subprocess.run([node, *map(str, arguments)], input=given, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def swap_in_node(jobs: list[dict]) -> list[dict]:
    """Many swaps in one process; see browser_swap.js."""
    return json.loads(run_node(FOLDER / "browser_swap.js", given=json.dumps(jobs)))
