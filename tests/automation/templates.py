"""The official workflow templates: those of the packages that ComfyUI requires."""

from __future__ import annotations

import functools
import importlib.metadata
import json

from async_frame_pipeline.automation import Change, swap

# What the numbers in the tests are about.
COUNTED_VERSION = "0.1.27"


@functools.cache
def official_templates() -> dict[str, dict]:
    """All of them, by name; fresh copies are the caller's to make."""
    templates = {}
    for package in importlib.metadata.distributions():
        if not package.name.lower().replace("_", "-").startswith("comfyui-workflow-templates"):
            continue
        for file in package.files or []:
            if file.suffix == ".json":
                content = json.loads(package.locate_file(file).read_text(encoding="utf-8"))
                if isinstance(content, dict) and "nodes" in content:  # else it is an index of templates
                    templates[file.stem] = content
    assert templates, "no package comfyui-workflow-templates* in this environment"
    return dict(sorted(templates.items()))


@functools.cache
def swapped_templates() -> dict[str, tuple[dict, list[Change]]]:
    """What the swap makes of each, and the changes."""
    return {name: swap(template) for name, template in official_templates().items()}


def graphs_of(workflow: dict) -> list[dict]:
    """The workflow itself and its subgraph definitions."""
    return [workflow, *workflow.get("definitions", {}).get("subgraphs", [])]


def node_types(workflow: dict) -> set[str]:
    return {node["type"] for graph in graphs_of(workflow) for node in graph["nodes"]}


def is_counted_version() -> bool:
    return importlib.metadata.version("comfyui-workflow-templates-json") == COUNTED_VERSION
