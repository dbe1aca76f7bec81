"""The official workflow templates: those of the packages that ComfyUI requires."""

from __future__ import annotations

import functools
import importlib.metadata
import json
from pathlib import Path

from async_frame_pipeline.automation import Change, swap

# What the numbers in the tests are about.
COUNTED_VERSION = "0.1.27"


@functools.cache
def template_files() -> dict[str, Path]:
    """Where each is, by name."""
    files = {}
    for package in importlib.metadata.distributions():
        if package.name.lower().replace("_", "-").startswith("comfyui-workflow-templates"):
            files |= {
                file.stem: Path(package.locate_file(file)) for file in package.files or [] if file.suffix == ".json"
            }
    assert files, "no package comfyui-workflow-templates* in this environment"
    return {name: files[name] for name in sorted(files) if is_template(read(files[name]))}


@functools.cache
def official_templates() -> dict[str, dict]:
    """All of them, by name; fresh copies are the caller's to make."""
    return {name: read(file) for name, file in template_files().items()}


def swapped_templates(everything: bool = False) -> dict[str, tuple[dict, list[Change]]]:
    """What the swap makes of each, by name: the template itself where nothing changes; and the changes.

    Args:
        everything: swap tiles and all savers too.
    """
    return _swapped_templates(everything)


@functools.cache
def _swapped_templates(everything: bool) -> dict[str, tuple[dict, list[Change]]]:
    found = {}
    for name, template in official_templates().items():
        before = json.dumps(template)
        after, changes = swap(template, tiled=everything, savers=everything)
        assert json.dumps(template) == before, f"{name} was modified"
        done = any(change.after for change in changes)
        assert done or json.dumps(after) == before, name
        found[name] = after if done else template, changes
    return found


@functools.cache
def read(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))


def is_template(content: object) -> bool:
    return isinstance(content, dict) and "nodes" in content  # else it is an index of templates


def graphs_of(workflow: dict) -> list[dict]:
    """The workflow itself and its subgraph definitions."""
    return [workflow, *workflow.get("definitions", {}).get("subgraphs", [])]


def node_types(workflow: dict) -> set[str]:
    return {node["type"] for graph in graphs_of(workflow) for node in graph["nodes"]}


def is_counted_version() -> bool:
    return importlib.metadata.version("comfyui-workflow-templates-json") == COUNTED_VERSION
