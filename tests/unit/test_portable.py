"""What ComfyUI loads of this pack uses nothing that only Linux and macOS have: many users are on Windows.

A guard is one of three: an `if` (or `x if ... else y`) that asks for `sys.platform`, `os.name` or `hasattr` of the very
thing, around what it is about, on either side.
"""

import ast
from collections.abc import Iterator

import pytest

from ..conftest import ROOT

SHIPPED = [ROOT / "__init__.py", *sorted((ROOT / "nodes").rglob("*.py")), *sorted((ROOT / "pipeline").rglob("*.py"))]
# Modules of which Windows has a part: what we use of that. A name that is missing here may be added if Python's
# documentation does not say "Availability: Unix" of it.
PORTABLE = {
    "os": {
        *("O_CREAT", "O_EXCL", "O_WRONLY", "PathLike", "close", "cpu_count", "environ", "fsencode", "fspath", "fsync"),
        *("getpid", "kill", "link", "lstat", "makedirs", "mkdir", "name", "open", "path", "rename", "replace"),
        *("strerror", "truncate"),
    },
    "signal": {"SIGINT", "SIGTERM", "SIG_DFL", "getsignal", "signal"},
    "time": {"monotonic", "perf_counter", "sleep", "strftime", "time"},
    "shutil": {"disk_usage", "rmtree"},
    "select": {"select"},
    "multiprocessing": set(),  # starts processes otherwise there
}
MODULES = {"crypt", "curses", "fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}
METHODS = {"add_signal_handler", "group", "num_fds", "owner", "rlimit", "uids"}
ARGUMENTS = {"dir_fd", "src_dir_fd", "dst_dir_fd", "preexec_fn", "pass_fds", "start_new_session"}
FOLDERS = ("/dev/", "/proc/", "/sys/", "/tmp/", "/etc/", "/var/", "/home/", "/mnt/")
# Calls whose strings are names of files.
NAMES = {"open", "Path", "with_name", "with_stem", "with_suffix", "joinpath", "strftime", "mkdir"}
NOT_IN_NAMES = set('<>"|?*:')


def findings(source: str) -> list[str]:
    """What is not on Windows, and not guarded."""
    return list(_findings(ast.parse(source), guards="", modules={}))


def _findings(node: ast.AST, guards: str, modules: dict[str, str]) -> Iterator[str]:
    """`guards`: the conditions around it; `modules`: by the name that they have here."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            modules[alias.asname or alias.name] = alias.name
    found = [name for name in _uses(node, modules) if not _guarded(name, guards)]
    yield from found
    if isinstance(node, (ast.If, ast.IfExp)):
        yield from _findings(node.test, guards, modules)
        inner = f"{guards}\n{ast.unparse(node.test)}"
        for part in (node.body, node.orelse):
            for child in part if isinstance(part, list) else [part]:
                yield from _findings(child, inner, modules)
        return
    for child in ast.iter_child_nodes(node):
        yield from _findings(child, guards, modules)


def _guarded(name: str, guards: str) -> bool:
    module, _, attribute = name.rpartition(".")
    return "sys.platform" in guards or "os.name" in guards or f"hasattr({module}, '{attribute}')" in guards


def _uses(node: ast.AST, modules: dict[str, str]) -> Iterator[str]:
    """What of this node alone is not on Windows."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name.split(".")[0] in MODULES)
    elif isinstance(node, ast.ImportFrom) and not node.level:
        if node.module.split(".")[0] in MODULES:
            yield node.module
        known = PORTABLE.get(node.module)
        yield from (
            f"{node.module}.{alias.name}" for alias in node.names if known is not None and alias.name not in known
        )
    elif isinstance(node, ast.Attribute):
        module = modules.get(node.value.id) if isinstance(node.value, ast.Name) else None
        if module in PORTABLE:
            if node.attr not in PORTABLE[module]:
                yield f"{module}.{node.attr}"
        elif node.attr in METHODS:
            yield node.attr
    elif isinstance(node, ast.keyword) and node.arg in ARGUMENTS:
        yield node.arg
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(FOLDERS):
        yield node.value
    elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", None)) in NAMES:
        for part in (part for argument in node.args for part in ast.walk(argument)):
            if isinstance(part, ast.Constant) and isinstance(part.value, str) and NOT_IN_NAMES & set(part.value):
                yield part.value


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_windows_lacks(path):
    assert findings(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.fork()",
        "import os\nos.geteuid()",
        "import os as system\nsystem.sched_getaffinity(0)",
        "import os\nos.open('x', os.O_DIRECTORY)",
        "import os\nos.open('x', os.O_WRONLY, dir_fd=1)",
        "from os import mkfifo",
        "import fcntl",
        "from resource import getrusage",
        "def f():\n    import pwd",
        "import os, signal\nos.kill(1, signal.SIGKILL)",
        "import select\nselect.poll()",
        "import time\ntime.tzset()",
        "import multiprocessing\nmultiprocessing.get_context('fork')",
        "from pathlib import Path\nPath('x').owner()",
        "open('/dev/null')",
        "import os\nlines = os.path.exists('/proc/self/status')",
        "open(f'{name} 12:30.txt')",
        "import time\ntime.strftime('%H:%M')",
        "import os\nif hasattr(os, 'nice'):\n    os.fork()",  # guarded against something else
        "import os\nif os.fork():\n    pass",
    ],
)
def test_the_check_above_sees(source):
    assert findings(source)


@pytest.mark.parametrize(
    "source",
    [
        "import os\ncores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()",
        "import os\nif os.name != 'nt':\n    os.fork()",
        "import os\nif os.name == 'nt':\n    os.startfile('x')\nelse:\n    os.chown('x', 0, 0)",
        "import sys\nif sys.platform == 'linux':\n    import fcntl",
        "'''Reads /proc/self/status.'''\n# os.fork()",
    ],
)
def test_what_is_guarded_may_be_used(source):
    assert findings(source) == []
