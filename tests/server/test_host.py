"""scripts/host.py: what it promises to the two commands and to these tests."""

import sys

import host
import pytest
from graph import Graph


@pytest.fixture
def empty_host_dir(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "HOST_DIR", tmp_path)


def runs(name: str, *pins: str) -> bool:
    """Whether the step is (still) to do; finishes it."""
    with host.step(name, *pins) as todo:
        return todo


def test_finished_step_is_not_done_again_until_its_pin_changes(empty_host_dir):
    assert [runs("a", "1"), runs("a", "1"), runs("b", "1"), runs("a", "2"), runs("a", "2")] == [
        True,
        False,
        True,
        True,
        False,
    ]


def test_interrupted_step_is_not_taken_for_a_finished_one(empty_host_dir):
    assert runs("a", "1")
    with pytest.raises(KeyboardInterrupt), host.step("a", "2"):
        raise KeyboardInterrupt
    assert runs("a", "1"), "the old stamp must be gone: the interrupted step may have overwritten its work"


def test_comfyui_path_that_is_none_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(host.HostError, match=r"main\.py"):
        host.prepare()


def test_python_without_torch_is_refused(tmp_path, monkeypatch):
    (tmp_path / "comfy").mkdir()
    (tmp_path / "main.py").touch()
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    monkeypatch.setenv("COMFYUI_PYTHON", str(python))
    with pytest.raises(host.HostError, match="COMFYUI_PYTHON"):
        host.prepare()


@pytest.mark.parametrize("venv", ["venv", ".venv"])
def test_python_of_the_users_comfyui_is_found(tmp_path, monkeypatch, venv):
    (tmp_path / "comfy").mkdir()
    (tmp_path / "main.py").touch()
    python = tmp_path / venv / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nexit 0\n")
    python.chmod(0o755)
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    monkeypatch.delenv("COMFYUI_PYTHON", raising=False)
    assert host.prepare() == host.Host(root=tmp_path, python=python, ours=False)


def test_server_that_dies_says_why(tmp_path):
    with pytest.raises(host.HostError, match="--no-such-argument"), host.Server("--no-such-argument", base=tmp_path):
        pass


@pytest.mark.nightly
def test_pack_that_does_not_load_is_an_error(tmp_path):
    broken = tmp_path / "broken_pack"
    broken.mkdir()
    (broken / "__init__.py").write_text("import no_such_module_anywhere")
    with (
        pytest.raises(host.HostError, match="no_such_module_anywhere"),
        host.Server(base=tmp_path / "base", packs=[broken]),
    ):
        pass


@pytest.mark.nightly
def test_code_of_ours_that_uses_something_old_fails_the_tests_of_its_server(tmp_path, start_server):
    old = tmp_path / f"{host.PACK_NAME}-that-is-old"
    old.mkdir()
    (old / "__init__.py").write_text(
        "import warnings\nNODE_CLASS_MAPPINGS = {}\nwarnings.warn('use the new one', DeprecationWarning)\n"
    )
    with pytest.raises(AssertionError, match="use the new one"), start_server(packs=[old]):
        pass


def test_refused_prompt_carries_the_servers_answer(server):
    graph = Graph()
    node = graph("SaveImage", filename_prefix="x")
    with pytest.raises(host.PromptRejected) as rejected:
        server.submit(graph.prompt)
    [error] = rejected.value.body["node_errors"][node.node]["errors"]
    assert error["type"] == "required_input_missing"


def test_host_needs_nothing_but_the_standard_library():
    source = (host.REPO / "scripts" / "host.py").read_text()
    imports = {line.split()[1].split(".")[0] for line in source.splitlines() if line.startswith(("import ", "from "))}
    assert imports <= sys.stdlib_module_names
