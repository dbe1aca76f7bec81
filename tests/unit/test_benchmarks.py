"""What the benchmarks make of their runs, and that figures of a card that others used are not kept. Needs no card."""

import contextlib
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
        monkeypatch.setitem(sys.modules, loader.name, module)  # dataclasses look there
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


def test_no_turn_begins_that_would_end_too_late(load, monkeypatch):
    turns = load("pack/turns.py")
    now = [100.0]
    monkeypatch.setattr(turns, "time", SimpleNamespace(time=lambda: now[0]))
    seconds = iter([4.0, 7.0, 3.0])
    so_far = []

    def way():
        took = next(seconds)
        now[0] += took
        return {"ours": {"seconds": took}}

    rows = turns.in_turns([way, dict], until=117.0, each_turn=lambda rows: so_far.append(rows["ours"]["seconds_all"]))
    assert rows["ours"]["seconds_all"] == [4.0, 7.0], "11 s are over, and a third turn may take 7"
    assert so_far == [[4.0], [4.0, 7.0]]


def test_a_trace_tells_copies_launch_gaps_and_waiting_apart_and_the_steady_steps_from_the_rest(load):
    trace = load("pack/trace.py")
    events = [
        ("Memcpy HtoD (Pinned -> Device)", 0, 500),
        ("convolution", 1_000, 21_000),
        ("at::cuda::(anonymous namespace)::spin_kernel(long)", 21_000, 22_000),
        ("Memset (Device)", 22_000, 23_000),
        ("convolution", 123_000, 143_000),  # 100 us after the fill
        ("spin_kernel", 143_000, 144_000),
        # Steady from here on.
        ("convolution", 145_000, 165_000),
        ("another, beside it", 150_000, 160_000),
        ("Memcpy DtoH (Device -> Pinned)", 160_000, 169_000),
        ("Memcpy DtoD (Device -> Device)", 165_000, 168_000),
        ("spin_kernel", 169_000, 170_000),
        # And until here.
        ("a conversion", 200_000, 210_000),
    ]
    whole = trace.traced(events)
    assert (whole.kernels, whole.copies) == (pytest.approx(73e-6), pytest.approx(4e-6))
    assert (whole.launch_gaps, whole.waiting) == (pytest.approx(2e-6), pytest.approx(130e-6))
    assert whole.span == pytest.approx(209e-6)
    steady = whole.as_dict()["steady"]
    assert steady["span_seconds"] == pytest.approx(25e-6)
    assert (steady["busy"], steady["copies"]) == (pytest.approx(21 / 25), pytest.approx(3 / 25))
    assert (steady["launch_gaps"], steady["waiting"]) == (pytest.approx(1 / 25), 0)
    assert "steady" not in trace.traced(events[:6]).as_dict(), "two steps are not steady yet"


# -- benchmarks/run --------------------------------------------------------------------------------


@pytest.fixture
def run(load, card, monkeypatch, tmp_path):
    """The program, with a server that answers from `answers`: rows of ways, or an error after one turn."""
    program = load("run")
    monkeypatch.setenv("AFP_COMMIT", "abc1234")
    told = SimpleNamespace(program=program, asked=[], answers=[], out=tmp_path / "figures.json")
    told.card = card(program.machine)

    def run_prompt(prompt, timeout=0):
        [node] = prompt.values()
        told.asked.append(node["inputs"])
        answer = told.answers.pop(0)
        if callable(answer):
            answer = answer()
        if isinstance(answer, BaseException):
            with open(node["inputs"]["so_far"], "w") as file:
                json.dump({"fast image": timed(0.5)}, file)
            raise answer
        row = {"ways": answer, "versions": {"cudnn": 91900}, "bit_equal": True, "shows_clip": {"fast": False}}
        return {"outputs": {"1": {"figures": [row]}}}

    system = {"system": dict.fromkeys(("comfyui_version", "pytorch_version", "python_version"), "1")}
    server = SimpleNamespace(run=run_prompt, get=lambda path: system, log_text=lambda: "DynamicVRAM is on\nelse")
    monkeypatch.setattr(program, "server_of", lambda args, folder: contextlib.nullcontext(server))

    def run(*args):
        arguments = ["run", "--clip", "clip.mp4", "--out", str(told.out), "--checkout", str(tmp_path), *args]
        monkeypatch.setattr(sys, "argv", arguments)
        assert program.main() == 0
        return json.loads(told.out.read_text())

    told.run = run
    return told


def timed(seconds, **more):
    spread = {"seconds": seconds, "seconds_min": seconds, "seconds_max": seconds, "seconds_all": [seconds]}
    return spread | {"peak_bytes": 8e9} | more


@pytest.mark.parametrize("shared", ["", "before", "after"])
def test_a_run_that_shared_its_card_saves_nothing(run, shared):
    def answer():
        run.card.processes = ["7, python", "8, blender"] if shared == "after" else ["7, python"]
        return {"fast image": timed(1.0)}

    run.answers = [answer]
    run.card.processes = ["8, blender"] if shared == "before" else []
    if not shared:
        figures = run.run("--sizes", "720p")
        assert (figures["commit"], figures["card"]) == ("abc1234", "Some card")
        assert figures["decode_save"]["720p"]["ways"]["fast image"]["seconds"] == 1.0
        assert figures["versions"]["cudnn"] == 91900 and figures["log"] == ["DynamicVRAM is on"]
        return
    with pytest.raises(SystemExit) as ended:
        run.run("--sizes", "720p")
    assert isinstance(ended.value.code, str), "a status that is not 0"
    assert not run.out.exists() and len(run.asked) == (shared == "after")


def test_peers_that_take_a_minute_or_a_folder_are_run_if_asked_for(run, capsys):
    busy = {"busy": 0.97, "kernel_seconds": 4.0, "copies": 0.0, "launch_gaps": 0.01, "waiting": 0.02}
    ways = {
        "stock image": timed(4.0),
        "fast image": timed(1.0, **busy, steady=busy | {"busy": 0.999}),
        "decoder alone": busy,
    }
    run.answers = [ways, ways]
    run.run("--sizes", "720p", "--turns", "5", "--peer-turns", "3")
    printed = capsys.readouterr().out
    assert "4.00" in printed and "0.250" in printed and "97.00%" in printed and "99.90%" in printed
    assert "fast DOES NOT SHOW THE CLIP" in printed
    run.run("--sizes", "wan22", "--ways", "kj", "torch.compile", "--compile", "--kj", "a_folder")
    plain, asked = run.asked
    assert plain["ways"] == "stock,tiled,channels_last,fastvae,exact,fast"
    assert (plain["turns"], plain["peer_turns"], plain["traces"]) == (5, 3, "decoder alone,fast image,fast file")
    assert (asked["ways"], asked["traces"], asked["version"]) == ("stock,torch.compile,kj", "decoder alone", "2.2")


def test_sizes_can_be_added_to_a_file_of_the_same_commit_only(run, monkeypatch):
    run.answers = [{"fast image": timed(1.0)}, {"fast image": timed(2.0)}]
    run.run("--sizes", "720p")
    assert list(run.run("--sizes", "wan22", "--add")["decode_save"]) == ["720p", "wan22"]
    monkeypatch.setenv("AFP_COMMIT", "def5678")
    with pytest.raises(SystemExit, match="commit is abc1234"):
        run.run("--sizes", "480p", "--add")
    assert not run.answers and len(run.asked) == 2


def test_a_size_that_fails_keeps_the_turns_it_had_and_the_next_is_run(run):
    failed = run.program.host.PromptFailed({"node_id": "1", "exception_message": "no"}, interrupted=False)
    run.answers = [failed, {"fast image": timed(2.0)}]
    sizes = run.run()["decode_save"]
    assert "no" in sizes["720p"]["error"] and sizes["720p"]["ways"]["fast image"]["seconds"] == 0.5
    assert sizes["wan22"]["ways"]["fast image"]["seconds"] == 2.0
    assert [path.name for path in run.out.parent.iterdir()] == ["figures.json"]


def test_the_tables_of_the_document_are_those_of_the_figures(load, tmp_path, monkeypatch):
    tables = load("tables")
    shares = {"busy": 0.97, "copies": 0.0, "launch_gaps": 0.01, "waiting": 0.02, "kernel_seconds": 3.0}
    ways = {
        "stock image": timed(4.0),
        "stock file": timed(6.0),
        "fastvae frames": timed(2.0, seconds_all=[2.0] * 3),
        "fast file": timed(1.5, **shares, steady=shares | {"busy": 0.9991}),
        "decoder alone": shares,
    }
    size = {"version": "2.1", "width": 1280, "height": 720, "frames": 81, "ways": ways}
    said = {"card": "Some card", "date": "2026-11-30", "commit": "abc1234", "turns": 5}
    nodes = said | {"decode_save": {"720p": size | {"rms_from_float32": {"stock": 0.0091, "fastvae": 0.0088}}}}
    overlap = said | {name: shares | timed(9.0) for name in tables.OVERLAP}
    del overlap["decoder alone"]["seconds"]
    for name, figures in (("nodes", nodes), ("overlap", overlap)):
        (tmp_path / f"h100_{name}.json").write_text(json.dumps(figures))
    document = tmp_path / "speed.md"
    document.write_text(tables.DOCUMENT.read_text())
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    monkeypatch.setattr(tables, "DOCUMENT", document)
    for _ in range(2):  # what was written can be written anew
        assert tables.main() == 0
    text = document.read_text()
    assert "| Wan 2.1, 1280x720, 81 frames | 4.00 s |  |  | 6.00 s |  | **1.50 s** |" in text
    assert "frames left on the GPU | 2.00 | 2.00, 2.00 (3 turns) | 2.00 | 0.667 | 8.00 GB | 0.0088 |" in text
    assert "| ours, fast, to MP4 | 97.00% | 0.00% | 1.00% | 2.00% | 99.91% | 2.00% |" in text
    assert "| Diffusers' decoder, engine | 9.00 s | 9.00, 9.00 | 97.00% |" in text
    assert "best of two runs" not in text and "## With little memory" in text
    document.write_text("nothing to fill in")
    with pytest.raises(SystemExit, match="no place for short"):
        tables.main()


# -- benchmarks/little_memory ----------------------------------------------------------------------


@pytest.fixture
def little_memory(load, monkeypatch, tmp_path):
    """The program, with a server that answers from `answers` and a holder that notes what it is told."""
    program = load("little_memory")
    monkeypatch.setenv("AFP_COMMIT", "abc1234")
    monkeypatch.setattr(program.machine, "refuse_shared", lambda ours=0: None)
    out = tmp_path / "figures.json"
    told = SimpleNamespace(program=program, held=[], asked=[], answers=[], out=out)

    class Server:
        def __init__(self, *args, **kwargs):
            self.host = SimpleNamespace(python="python")

        def __enter__(self):
            return self

        def __exit__(self, *exc_info):
            pass

        def get(self, path):
            return {"system": dict.fromkeys(("comfyui_version", "pytorch_version", "python_version"), "1")}

        def log_text(self):
            return "DynamicVRAM support detected"

        def run(self, prompt, timeout=0):
            [node] = prompt.values()
            if node["class_type"] == "BenchRoom":
                return {"outputs": {"1": {"memory": [{"free_bytes": 1, "total_bytes": 2}]}}}
            told.asked.append(node["inputs"])
            answer = told.answers.pop(0)
            if isinstance(answer, BaseException):
                raise answer
            return {"outputs": {"1": {"figures": [{"memory": {"free_bytes": 1, "total_bytes": 2}, "ways": answer}]}}}

    class Holder:
        def __init__(self, command, **kwargs):
            self.stdin = SimpleNamespace(write=told.held.append, flush=lambda: None)
            self.stdout = SimpleNamespace(readline=lambda: "1\n")

        def kill(self):
            pass

        wait = kill

    monkeypatch.setattr(program.host, "Server", Server)
    monkeypatch.setattr(program, "subprocess", SimpleNamespace(Popen=Holder, PIPE=-1))

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["little_memory", "--out", str(out), *args])
        assert program.main() == 0
        return json.loads(out.read_text())["steps"]

    told.run = run
    return told


def decoded(seconds, **more):
    spread = {"seconds": seconds, "seconds_min": seconds, "seconds_max": seconds, "peak_bytes": 0}
    return spread | {"decoder": "fast", "how": "", "notes": []} | more


def test_each_size_is_compared_to_itself_with_the_whole_card(little_memory, capsys):
    little_memory.answers = [
        {"fast": decoded(0.5, equal=False, rms=0.001)},
        {"fast": decoded(0.6, equal=False, rms=0.001, how="4 bands")},
        {"fast": decoded(2.0), "exact": {"turns": 1, "error": "OutOfMemoryError: no"}},
        {"fast": decoded(3.0)},
    ]
    rows = "2.1-1280x720", "2.2-1280x704"
    steps = little_memory.run("--rows", *rows, "--free", "7.5", "--ways", "exact", "fast")
    assert little_memory.held == ["inf\n", "7.5\n", "inf\n", "7.5\n"]
    assert [asked["reference"] for asked in little_memory.asked] == [True, False, True, False]
    assert [(asked["version"], asked["width"], asked["height"]) for asked in little_memory.asked[1:3]] == [
        ("2.1", 1280, 720),
        ("2.2", 1280, 704),
    ]
    assert [(step["free_gb"], step["ways"]["fast"]["ratio"]) for step in steps] == [
        ("all", 1.0),
        (7.5, pytest.approx(1.2)),
        ("all", 1.0),
        (7.5, 1.5),
    ]
    printed = capsys.readouterr().out
    assert "x1.20" in printed and "4 bands" in printed and "RMS 0.00100" in printed and "OutOfMemoryError" in printed


def test_a_run_that_is_ended_keeps_the_steps_it_had(little_memory):
    program = little_memory.program
    failed = program.host.PromptFailed({"node_id": "1", "exception_message": "no"}, interrupted=False)
    little_memory.answers = [{"fast": decoded(0.5)}, failed, {"fast": decoded(0.7)}, KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        little_memory.run("--rows", "2.1-1280x720")
    steps = json.loads(little_memory.out.read_text())["steps"]
    assert [step["free_gb"] for step in steps] == ["all", 11, 7.5]
    assert "no" in steps[1]["error"] and steps[2]["ways"]["fast"]["ratio"] == pytest.approx(1.4)


def test_no_step_begins_when_the_time_is_over(little_memory, monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(little_memory.program, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    little_memory.answers = [{"fast": decoded(0.5)}] * 5
    assert len(little_memory.run("--rows", "2.1-1280x720", "--seconds", "50")) == 2


def test_what_a_decode_took_of_the_model_is_what_the_next_prompt_finds_gone(load):
    program = load("little_memory")

    def run(before, after, use, decode):
        sizes = {"before_bytes": before, "after_bytes": after, "model_bytes": 14, "patcher": "ModelPatcherDynamic"}
        decoded = {"seconds": decode, "peak_bytes": 3, "decoder": "stock", "reason": "", "how": "", "notes": []}
        return {"use": {"seconds": use} | sizes, "decode": decoded}

    runs = [run(0, 14, 9.0, 9.0), run(6, 12, 1.0, 2.0), run(12, 14, 2.0, 2.0), run(13, 14, 3.0, 2.0)]
    row = program.prompt_row([20.0, 23.0, 27.0, 32.0], runs)
    assert (row["seconds_all"], row["seconds"]) == ([3.0, 4.0, 5.0], 4.0)
    assert (row["use"]["seconds"], row["decode"]["seconds"]) == (2.0, 2.0), "the first prompt warms up"
    assert (row["away_bytes_all"], row["times_away"]) == ([8, 0, 1], 2)


# -- benchmarks/families ---------------------------------------------------------------------------


@pytest.fixture
def families(load, monkeypatch, tmp_path):
    """The program, with a server that answers from `answers`: ways by their names, or an error."""
    program = load("families")
    monkeypatch.setenv("AFP_COMMIT", "abc1234")
    monkeypatch.setattr(program.machine, "refuse_shared", lambda ours=0: None)
    told = SimpleNamespace(program=program, asked=[], answers=[], out=tmp_path / "figures.json")

    def run_prompt(prompt, timeout=0):
        [node] = prompt.values()
        told.asked.append(node["inputs"])
        answer = told.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        row = {"latent": [1], "dtype": "bfloat16", "said": {"ours file": ["exact LTX decode"]}, "ways": answer}
        return {"outputs": {"1": {"figures": [row]}}}

    system = {"system": dict.fromkeys(("comfyui_version", "pytorch_version", "python_version"), "1")}
    server = SimpleNamespace(run=run_prompt, get=lambda path: system, log_text=lambda: "")
    monkeypatch.setattr(program, "server_of", lambda args, folder: contextlib.nullcontext(server))

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["families", "--out", str(told.out), *args])
        assert program.main() == 0
        return json.loads(told.out.read_text())

    told.run = run
    return told


def took(seconds, gigabytes, **more):
    spread = {"seconds": seconds, "seconds_min": seconds, "seconds_max": seconds, "turns": 1}
    return spread | {"peak_bytes": gigabytes * 1e9, "host_bytes": 1e9} | more


def test_each_family_is_compared_to_stock_and_ltx_to_its_goals(families, capsys):
    families.answers = [
        {
            "decoder alone": took(1.0, 5),
            "stock image": took(2.0, 8),
            "stock file": took(4.0, 8),
            "ours image": took(1.0, 4, equal=True, rms=0.0),
            "ours file": took(1.2, 4),
            "fast image": took(0.4, 3, equal=False, rms=0.0077),
        },
        {
            "stock file": took(4.0, 6),
            "ours file": took(1.2, 4),
            "ours tiled file": took(2.0, 3),
            "ours tiled image": {"turns": 0, "error": "OutOfMemoryError: no"},
        },
    ]
    figures = families.run("--frames", "121", "--rows", "ltx", "ltx-tiled-768")
    assert [asked["tiles"] for asked in families.asked] == ["", "768,64,4096,4"]
    assert figures["goals"] == [
        "ltx, 121 frames: ours file seconds 1.20 of decoder alone, goal 1.10: MISSED",
        "ltx, 121 frames: ours file peak_bytes 0.50 of stock file, goal 0.65: met",
        "ltx-tiled-768, 121 frames: ours file seconds 0.30 of stock file, goal 0.40: met",
        "ltx-tiled-768, 121 frames: ours file peak_bytes 0.67 of stock file, goal 1.00: met",
        "ltx-tiled-768, 121 frames: ours tiled file seconds 0.50 of stock file, goal 0.70: met",
    ]
    printed = capsys.readouterr().out
    assert "x 0.50" in printed and "stock's bits" in printed and "exact LTX decode" in printed
    assert "x 0.20" in printed and "RMS 0.0077 from stock" in printed and "NOT STOCK'S BITS" not in printed
    assert "FAILED: OutOfMemoryError" in printed


def test_a_family_that_fails_is_told_and_the_rest_goes_on(families, capsys):
    failed = families.program.host.PromptFailed({"node_id": "1", "exception_message": "no"}, interrupted=False)
    families.answers = [failed, {"ours file": took(1.0, 2)}, {"ours file": took(2.0, 3)}, {"ours file": took(3.0, 3)}]
    figures = families.run("--rows", "mochi", "taehv")
    assert [(row["row"], row["frames"]) for row in figures["rows"]] == [
        ("mochi", 121),
        ("taehv", 121),
        ("mochi", 361),
        ("taehv", 361),
    ]
    assert "no" in figures["rows"][0]["error"]
    assert figures["goals"] == [
        "taehv, ours file: 121 frames GPU 2.00 GB, host 1.00 GB; 361 frames GPU 3.00 GB, host 1.00 GB"
    ]


def test_the_largest_row_is_measured_at_one_length_and_no_row_begins_late(families, monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(families.program, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    families.answers = [{"ours file": took(1.0, 2)}] * 9
    figures = families.run("--rows", "hunyuan-1.5-720p", "hunyuan-1.5")
    assert [(row["width"], row["frames"]) for row in figures["rows"]] == [(1280, 121), (384, 121), (384, 361)]
    assert len(families.run("--seconds", "50")["rows"]) == 2


# -- benchmarks/floor ------------------------------------------------------------------------------


def test_the_floor_counts_what_a_layer_computes_and_moves(load):
    floor = load("floor")
    channels, pixels = 8, 32 * 48
    calls = floor.walk("2.1", channels, 48, 32, frames=9)
    # At the frames' size: three blocks of two convolutions; one product for the first frame, then six for four.
    products = [call for call in calls if (call.kind, call.scale) == ("convolutions", 8)]
    assert len(products) == 6 * (1 + 6 + 6)
    assert {call.operations for call in products} == {2 * pixels * channels * 9 * channels}
    plane = 2 * pixels * channels
    assert {call.moved for call in products} == {2 * plane + 2 * 9 * channels * channels}
    # The pass between two blocks: six products, the residual and the history are read, the sum, six points and the
    # history written; bias and gamma are float32.
    passes = [call.moved for call in calls if (call.kind, call.scale) == ("passes with points", 8)]
    assert max(passes) == (6 + 4 + 2 + 4 + 6 + 2) * plane + 2 * 4 * channels
    assert [call.scale for call in calls if call.kind == "last convolution"] == [8, 8, 8]
    slow, fast = (sum(call.seconds(tflops, tbs=1.0) for call in calls) for tflops in (1e-3, 1e3))
    assert fast == pytest.approx(sum(call.moved for call in calls) / 1e12) and slow > fast
