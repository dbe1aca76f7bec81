"""The official workflow templates: those of the packages that ComfyUI requires, and the newest ones."""

from __future__ import annotations

import functools
import importlib.metadata
import json
from pathlib import Path

from async_frame_pipeline.automation import Change, swap

from ..newest import unpacked

PACKAGE = "comfyui-workflow-templates-json"
# What the numbers in the tests are about.
COUNTED_VERSIONS = {"pinned": "0.1.27", "newest": "0.1.123"}
# The ways to swap that are held over all of them.
OPTIONS = {
    "by the rules": {},
    "everything, in tiles": {"tiles": "same", "everything": True, "savers": True},
    "everything, without tiles": {"tiles": "without", "everything": True, "savers": True},
}


def packages(which: str) -> list[importlib.metadata.Distribution]:
    """Those that ComfyUI requires ("pinned"), or the newest."""
    path = {"path": [str(unpacked("comfyui-workflow-templates-json", "newest-templates"))]} if which == "newest" else {}
    names = [(package, package.name.lower().replace("_", "-")) for package in importlib.metadata.distributions(**path)]
    return [package for package, name in names if name.startswith("comfyui-workflow-templates")]


@functools.cache
def template_files(which: str = "pinned") -> dict[str, Path]:
    """Where each is, by name."""
    files = {}
    for package in packages(which):
        files |= {file.stem: Path(package.locate_file(file)) for file in package.files or [] if file.suffix == ".json"}
    assert files, "no package comfyui-workflow-templates* in this environment"
    return {name: files[name] for name in sorted(files) if is_template(read(files[name]))}


@functools.cache
def official_templates(which: str = "pinned") -> dict[str, dict]:
    """All of them, by name; fresh copies are the caller's to make."""
    return {name: read(file) for name, file in template_files(which).items()}


@functools.cache
def swapped_templates(which: str = "pinned", how: str = "by the rules") -> dict[str, tuple[dict, list[Change]]]:
    """What the swap makes of each, by name: the template itself where nothing changes; and the changes.

    Args:
        how: one of OPTIONS.
    """
    found = {}
    for name, template in official_templates(which).items():
        before = json.dumps(template)
        after, changes = swap(template, **OPTIONS[how])
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


def version_of(which: str) -> str:
    return next(package.version for package in packages(which) if package.name.replace("_", "-") == PACKAGE)


def is_counted_version(which: str = "pinned") -> bool:
    return version_of(which) == COUNTED_VERSIONS[which]


def is_run(workflow: dict, graph_id: str | None, node_id: object) -> bool:
    """Whether a node is neither muted nor bypassed, nor in a subgraph all of whose nodes are."""
    graphs = graphs_of(workflow)
    graph = graphs[0] if graph_id is None else next(each for each in graphs[1:] if each["id"] == graph_id)
    node = next(node for node in graph["nodes"] if node["id"] == node_id)
    if node.get("mode"):
        return False
    hosts = [(each, host) for each in graphs for host in each["nodes"] if host["type"] == graph_id]
    return graph_id is None or any(
        is_run(workflow, each.get("id") if each is not workflow else None, host["id"]) for each, host in hosts
    )
