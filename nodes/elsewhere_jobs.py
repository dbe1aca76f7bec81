"""The jobs that this ComfyUI sent away, and what became of them.

Of a job that is open the farm's record is the truth. Here is what only this ComfyUI knows: which node and which page
wait for it, and where its file goes. One small file for each, in the user folder, so that a restart forgets nothing.

What the page is told of a job, by the event EVENT and by the route /async_frame_pipeline/jobs, is `Sent.told`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import json
import logging
import os
import sys
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from .log import say

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

EVENT = "async_frame_pipeline.job"
# In a node's output, as JSON text: ComfyUI counts dicts as files.
OUTPUT = "async_frame_pipeline_job"
OPEN = ("queued", "in_progress")
# Of those that are over, so many are remembered.
KEPT = 200


@dataclass
class Sent:
    """One job.

    Attributes:
        job_id: 32 hexadecimal digits.
        prompt_id, node_id, display_node: whose it is.
        workflow_id: of the workflow that the page had; "" where it is not known.
        listener: the page that queued the prompt; None if none did.
        prefix: of the file in the output folder; None if the node that waits takes the video.
        state, reason: as in the farm's record; "completed" once the file is there. "here" if it was decoded on this
            machine.
        wanted: False once nobody waits for it any more; the farm may not know that yet.
        given_up: the round of the farm's record in which it knew; in a later one somebody had it queued again.
        before: jobs ahead of it in the queue.
        frames, total: decoded so far, of how many.
        seconds_left: as far as one can tell.
        unfinished: the file that is being written, beside its final place.
        publishing: whether it may have its name already.
        path: of the finished file.
        ui: what the node shows of it.
        is_earlier: a run of ComfyUI that has ended sent it, and no node waits for it since.
    """

    job_id: str
    prompt_id: str = ""
    node_id: str = ""
    display_node: str = ""
    workflow_id: str = ""
    listener: str | None = None
    prefix: str | None = None
    state: str = "queued"
    reason: str | None = None
    wanted: bool = True
    given_up: int = 0
    before: int | None = None
    frames: int | None = None
    total: int | None = None
    seconds_left: float | None = None
    unfinished: str = ""
    publishing: bool = False
    path: str = ""
    ui: dict | None = None
    created: float = field(default_factory=time.time)
    is_earlier: bool = False

    @property
    def is_open(self) -> bool:
        return self.state in OPEN

    def told(self) -> dict:
        """What the page is told; None where nothing is known."""
        return {
            "prompt_id": self.prompt_id,
            "node_id": self.display_node or self.node_id,
            "workflow_id": self.workflow_id or None,
            "job_id": self.job_id,
            "state": self.state,
            "before": self.before if self.state == "queued" else None,
            "frames": self.frames,
            "total": self.total,
            "seconds_left": self.seconds_left if self.state == "in_progress" else None,
            "reason": self.reason or None,
        }


class Jobs:
    """All of them; used by several threads.

    Two ComfyUIs may share a user folder. Each holds a folder of its own in it for as long as it lives, so that none
    collects or cancels what the other sent; what one left that ended, the next that starts takes over.

    Args:
        folder: made when the first job is sent; where another ComfyUI has it, one beside it, "jobs-2" and so on.
    """

    def __init__(self, folder: Path):
        # One is held while a note is written, for as long as the disk takes; ComfyUI's own loop waits for the other.
        self._base, self._writing, self._lock = folder, threading.RLock(), threading.RLock()
        self._folder: Path | None = None
        self._held = None
        self._sent: dict[str, Sent] = {}
        self._client = ""
        if folder.is_dir():
            with contextlib.suppress(OSError):  # tried again by the first job, which says so
                self._own()

    def _own(self) -> Path:
        """The folder that is this ComfyUI's alone; what is noted there is read when it is taken.

        Raises:
            OSError: it cannot be made.
        """
        if self._folder is not None:
            return self._folder
        numbers = (f"-{number}" if number > 1 else "" for number in itertools.count(1))
        folders = (self._base.with_name(self._base.name + number) for number in numbers)
        self._folder, self._held = next((each, held) for each in folders if (held := _hold(each)) is not None)
        for other in (self._base, *self._base.parent.glob(f"{self._base.name}-*")):
            with contextlib.suppress(OSError):
                held = _hold(other) if other != self._folder else None
                if held is not None:
                    with held:
                        for path in other.glob("*.json"):
                            os.replace(path, self._folder / path.name)
        for path in sorted(self._folder.glob("*.json")):
            with contextlib.suppress(OSError, ValueError, TypeError):
                values = json.loads(path.read_text(encoding="utf-8"))
                known = {each.name for each in dataclasses.fields(Sent)}
                sent = Sent(**{key: value for key, value in values.items() if key in known})
                sent.is_earlier = True
                with self._lock:
                    self._sent.setdefault(sent.job_id, sent)
        return self._folder

    def client(self) -> str:
        """What this ComfyUI is called in a farm: always the same, made up when it is first needed."""
        with self._writing:
            if not self._client:
                path = self._own() / "client"
                if not path.is_file():
                    self._write(path, uuid.uuid4().hex)
                self._client = path.read_text(encoding="utf-8")
            return self._client

    def get(self, job_id: str) -> Sent | None:
        with self._lock:
            return self._sent.get(job_id)

    def all(self) -> list[Sent]:
        """The oldest first."""
        with self._lock:
            return sorted(self._sent.values(), key=lambda sent: sent.created)

    def of_node(self, prompt_id: str, node_id: str) -> list[Sent]:
        """Those of one run of a node."""
        return [sent for sent in self.all() if (sent.prompt_id, sent.node_id) == (prompt_id, node_id)]

    def without_video(self, node_id: str) -> str | None:
        """The id of a node's last job that gave none; so the node runs again when it is queued again, once for each."""
        ids = [sent.job_id for sent in self.all() if sent.node_id == node_id and sent.state in ("failed", "cancelled")]
        return ids[-1] if ids else None

    def any_open(self) -> bool:
        return any(sent.is_open for sent in self.all())

    def keep(self, sent: Sent, **changes: object) -> Sent:
        """Remember it, changed. Where that cannot be written, this ComfyUI knows it until it ends, and the farm after
        that: then only the page and the name of the file are forgotten.
        """
        with self._writing:
            with self._lock:
                for name, value in changes.items():
                    setattr(sent, name, value)
                self._sent[sent.job_id] = sent
            try:
                self._write(self._own() / f"{sent.job_id}.json", json.dumps(dataclasses.asdict(sent)))
            except OSError as error:
                say(f"the job {sent.job_id} cannot be noted: {error}", logging.WARNING)
            over = [each for each in self.all() if not each.is_open]
            for each in over[:-KEPT]:
                self.forget(each)
        return sent

    def forget(self, sent: Sent) -> None:
        with self._writing:
            with self._lock:
                self._sent.pop(sent.job_id, None)
            if self._folder is not None:
                (self._folder / f"{sent.job_id}.json").unlink(missing_ok=True)

    def told(self) -> list[dict]:
        """For a page that was loaded anew: what it was told of each, and the finished video."""
        return [{**sent.told(), "ui": sent.ui} for sent in self.all()]

    def _write(self, path: Path, text: str) -> None:
        part = path.with_name(f".{path.name}.part")
        with open(part, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)


def _hold(folder: Path):
    """A file that is locked for as long as it is open, or this process lives; None where another process has it.

    Raises:
        OSError: it cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = open(folder / "lock", "ab")  # noqa: SIM115
    try:
        if sys.platform == "win32":
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            file.close()
            return None
        # A share that knows no locks: as if there were no other.
    return file


def output_of(sent: list[Sent]) -> dict:
    """What a node shows of its jobs: their videos, as a saver's, and how each is, as JSON text."""
    shown: dict = {OUTPUT: [json.dumps(each.told()) for each in sent]}
    images = [image for each in sent if each.ui for image in each.ui["images"]]
    return shown | ({"images": images, "animated": [True]} if images else {})
