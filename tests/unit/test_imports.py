"""What may import what: `pipeline` nothing of the nodes and of ComfyUI,
and the nodes ComfyUI's insides in one place.
"""

import ast
from pathlib import Path

import pytest

from ..conftest import ROOT

# ComfyUI's top-level modules.
COMFYUI = {
    "app",
    "comfy",
    "comfy_api",
    "comfy_api_nodes",
    "comfy_config",
    "comfy_execution",
    "comfy_extras",
    "execution",
    "folder_paths",
    "latent_preview",
    "node_helpers",
    "nodes",
    "protocol",
    "server",
}
# What nodes are written in. No insides: ComfyUI keeps it as it is.
API = "comfy_api.latest"


def imports(path: Path) -> set[str]:
    """Full names of the modules that a file imports;
    of this pack's own from its root on, such as "/pipeline.engine".
    """
    package = path.relative_to(ROOT).parent.parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = "/" + ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            found |= {f"{module}.{alias.name}".replace("/.", "/") for alias in node.names} if node.level else {module}
    return found


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def of_comfyui(names: set[str]) -> set[str]:
    return {name for name in names if name.split(".")[0] in COMFYUI}


def identify(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", files("pipeline"), ids=identify)
def test_the_engine_knows_nothing_of_comfyui_and_the_nodes(path):
    assert of_comfyui(imports(path)) == set()
    assert {name for name in imports(path) if name.startswith("/") and not name.startswith("/pipeline")} == set()


@pytest.mark.parametrize("path", [path for path in files("nodes") if path.parent.name != "comfyui"], ids=identify)
def test_comfyuis_insides_are_met_in_one_place(path):
    assert of_comfyui(imports(path)) <= {API}


@pytest.mark.parametrize(
    "path", [*files("nodes/families"), ROOT / "nodes" / "ladder.py", ROOT / "nodes" / "decoding.py"], ids=identify
)
def test_decoding_needs_nothing_that_nodes_are_written_in(path):
    assert of_comfyui(imports(path)) == set()


def test_the_checks_above_see():
    assert {"comfy.sd", "folder_paths", "server"} <= set().union(*map(imports, files("nodes/comfyui")))
    assert API in imports(ROOT / "nodes" / "inputs.py")
    assert "/pipeline.engine" in imports(ROOT / "nodes" / "ladder.py")
    assert "/pipeline.decoders.families" in imports(ROOT / "nodes" / "families" / "ways.py")
