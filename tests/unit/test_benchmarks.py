"""What the benchmarks make of their runs, and that figures of a card that others used are not kept. Needs no card."""

import importlib.machinery
import importlib.util
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from ..conftest import ROOT


@pytest.fixture
def load(monkeypatch):
    """Loads one of the files in benchmarks/; those that have no .py are programs."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    for name in ("host", "machine"):
        monkeypatch.delitem(sys.modules, name, raising=False)

    def load(path):
        loader = importlib.machinery.SourceFileLoader(f"benchmarks_{path}", str(ROOT / "benchmarks" / path))
        module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
        loader.exec_module(module)
        return module

    return load


@pytest.fixture
def card(monkeypatch):
    """An nvidia-smi that says what is set: lines of processes, and per cent, one for each time it is asked."""
    says = SimpleNamespace(processes=[], busy=["0 %"])

    def answer(what):
        if "compute-apps" in what:
            return says.processes
        if "utilization" in what:
            return [says.busy.pop(0) if len(says.busy) > 1 else says.busy[0]]
        return ["Some card, 580.1"]

    def install(machine):
        monkeypatch.setattr(machine.shutil, "which", lambda program: "/usr/bin/" + program)
        monkeypatch.setattr(machine.time, "sleep", lambda seconds: None)
        monkeypatch.setattr(machine, "_query", answer)
        return says

    return install


def test_ways_take_turns_and_a_part_that_two_share_is_run_once(load):
    turns = load("pack/turns.py")
    order = []
    seconds = iter([5.0, 1.0, 4.0, 2.0, 3.0])

    def stock():
        order.append("stock")
        decode = next(seconds)
        return {"image": {"seconds": decode}, "file": {"seconds": decode + 10, "peak_bytes": 7}}

    def ours():
        order.append("ours")
        return {"ours": {"seconds": 1.0}}

    rows = turns.in_turns([stock, ours])
    assert order == ["stock", "ours"] * 5
    assert rows["image"] == {
        "seconds": 3.0,
        "seconds_min": 1.0,
        "seconds_max": 5.0,
        "seconds_all": [5.0, 1.0, 4.0, 2.0, 3.0],
    }
    assert (rows["file"]["seconds"], rows["file"]["peak_bytes_max"], rows["ours"]["seconds_max"]) == (13.0, 7, 1.0)


def test_a_card_of_ones_own_is_named(load, card):
    machine = load("machine.py")
    says = card(machine)
    machine.refuse_shared()
    assert machine.card() == {"card": "Some card", "driver": "580.1", "other_processes": 0}
    says.processes = ["12, python"]
    says.busy = ["100 %"]
    machine.refuse_shared(ours=1)


@pytest.mark.parametrize(
    "ours, processes, busy",
    [
        (0, ["7, blender"], ["0 %"]),
        (1, ["12, python", "7, blender"], ["0 %"]),
        (0, [], ["0 %", "0 %", "31 %"]),  # in a container others are not listed
    ],
)
def test_a_shared_card_is_refused(load, card, ours, processes, busy):
    machine = load("machine.py")
    says = card(machine)
    says.processes, says.busy = processes, busy
    with pytest.raises(machine.SharedCard, match="shared"):
        machine.refuse_shared(ours)


def test_a_machine_without_a_card_has_nothing_to_share(load, monkeypatch):
    machine = load("machine.py")
    monkeypatch.setattr(machine.shutil, "which", lambda program: None)
    machine.refuse_shared()
    assert machine.card() == {}


def test_the_commit_is_that_of_the_checkout_or_has_to_be_said(load, tmp_path, monkeypatch):
    machine = load("machine.py")
    monkeypatch.delenv("AFP_COMMIT", raising=False)
    with pytest.raises(SystemExit, match="AFP_COMMIT"):
        machine.commit(tmp_path)
    monkeypatch.setenv("AFP_COMMIT", "abc1234")
    assert machine.commit(tmp_path) == "abc1234"
    git = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@example.com"]
    (tmp_path / "file").write_text("1")
    for command in (["init", "--quiet"], ["add", "file"], ["commit", "--quiet", "-m", "one"]):
        subprocess.run([*git, *command], check=True)
    clean = machine.commit(tmp_path)
    assert clean not in ("", "abc1234")
    (tmp_path / "file").write_text("2")
    assert machine.commit(tmp_path) == f"{clean}-dirty"


@pytest.mark.parametrize("shared", ["", "before", "after"])
def test_a_run_that_shared_its_card_saves_nothing(load, card, tmp_path, monkeypatch, shared):
    run = load("run")
    says = card(run.machine)
    monkeypatch.setenv("AFP_COMMIT", "abc1234")
    out = tmp_path / "figures.json"
    measured = []

    def measure(args):
        measured.append(args)
        says.processes = ["7, blender"] if shared == "after" else []
        return {"decode_save": {}}

    monkeypatch.setattr(run, "measure", measure)
    monkeypatch.setattr(sys, "argv", ["run", "--clip", "clip.mp4", "--out", str(out), "--checkout", str(tmp_path)])
    says.processes = ["7, blender"] if shared == "before" else []
    if not shared:
        assert run.main() == 0
        figures = json.loads(out.read_text())
        assert (figures["commit"], figures["card"], figures["decode_save"]) == ("abc1234", "Some card", {})
        return
    with pytest.raises(SystemExit) as ended:
        run.main()
    assert isinstance(ended.value.code, str), "a status that is not 0"
    assert not out.exists() and len(measured) == (shared == "after")
