"""What SECURITY.md promises of the code that ComfyUI loads: nothing in it runs, calls or listens to strangers."""

import ast
import re

import pytest

from ..conftest import ROOT

# What a running ComfyUI imports; automation/ is for the command line.
SHIPPED = [ROOT / "__init__.py", *sorted((ROOT / "nodes").rglob("*.py")), *sorted((ROOT / "pipeline").rglob("*.py"))]
SCRIPTS = sorted((ROOT / "web").rglob("*.js"))
MODULES = {
    "subprocess",
    "pickle",
    "marshal",
    "shelve",
    "socket",
    "ssl",
    "http",
    "urllib",
    "requests",
    "aiohttp",
    "ctypes",
    "runpy",
    "code",
}
CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "os.startfile",
    "torch.load",
    "torch.hub.load",
    "np.load",
    "yaml.load",
}


def name_of(node: ast.expr) -> str:
    """`a.b.c` of a call's function, or ""."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return ""


def findings(source: str) -> list[str]:
    """Imports and calls that the promises rule out."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module.split(".")[0] in MODULES:
            found.append(node.module)
        elif isinstance(node, ast.Call) and name_of(node.func) in CALLS:
            found.append(name_of(node.func))
        elif isinstance(node, ast.Attribute) and node.attr in ("routes", "add_routes", "add_static"):
            found.append(node.attr)
    return found


# A route of ComfyUI's own server, for its page: it names jobs and their files, as /history does.
ROUTE = ROOT / "nodes" / "comfyui" / "late.py"
# CUDA's driver, by torch's own function that finds it: for the pack's own kernels.
DRIVER = ROOT / "pipeline" / "decoders" / "fast" / "compiled.py"
ALLOWED = {ROUTE: {"aiohttp", "routes"}, DRIVER: {"ctypes"}}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_code_of_strangers_and_no_network(path):
    assert set(findings(path.read_text(encoding="utf-8"))) == ALLOWED.get(path, set())


@pytest.mark.parametrize(
    "source",
    [
        "import subprocess",
        "from urllib import request",
        "eval('1')",
        "import torch\ntorch.load('x')",
        "server.routes.get('/x')",
    ],
)
def test_the_check_above_sees(source):
    assert findings(source)


# Of them, what runs code or starts programs; that a farm has sockets is its purpose.
RUNS_CODE = {"subprocess", "pickle", "marshal", "shelve", "runpy", "code"} | CALLS
STARTS_PROGRAMS = {"server.py", "supervisor.py"}


@pytest.mark.parametrize("path", sorted((ROOT / "farm").glob("*.py")), ids=lambda path: path.name)
def test_a_farm_runs_no_code_of_strangers(path):
    found = {name for name in findings(path.read_text(encoding="utf-8")) if name in RUNS_CODE}
    assert found == ({"subprocess"} if path.name in STARTS_PROGRAMS else set())


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_text_is_never_taken_for_html_in_the_browser(path):
    source = path.read_text(encoding="utf-8")
    assert (
        re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc", source) == []
    )


def test_only_safetensors_are_bundled():
    kinds = {path.suffix for path in (ROOT / "workflows" / "sample").iterdir()}
    assert kinds == {".safetensors", ".latent", ".md"}
