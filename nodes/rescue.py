"""A failed decode or save never costs the latents: they are written to disk before the error is shown.

The file is what the stock SaveLatent writes, in the input folder, where the stock LoadLatent lists files; the template
RESUME_TEMPLATE makes the video from it. Dropped on the canvas, it gives back the workflow it came from.

Bounded: the same latents are written once however often they fail, the newest KEPT files stay and older ones are
removed, and nothing is written that would leave less than RESERVE_BYTES of the disk.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import logging
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import safetensors.torch
import torch

from ..pipeline.sinks.metadata import as_texts, is_tag, storable
from .comfyui import lanes, server, vaes
from .log import say
from .version import signed_prompt

PREFIX = "rescued"
KEPT = 50
RESERVE_BYTES = 16 * 1024**2
# Half-written files of a process that was killed are nobody's after this.
STALE_SECONDS = 3600

RESUME_TEMPLATE = "Resume from rescued latents"
RESUME = (
    f"To make the video from them, open Templates > async-frame-pipeline > {RESUME_TEMPLATE}, choose this file in "
    "Load Latent and the VAE of your model, and run it."
)

# Latents whose decode is under way, by a token of each context's own: what is left to save when the server is stopped.
_under_way: dict[object, dict] = {}


@contextlib.contextmanager
def rescuing(samples: dict, first: bool = False) -> Iterator[None]:
    """For the length of a decode or save: if it fails, the latents are written and the error says where.

    A cancel is no failure. The error keeps its type and its traceback. May be nested; the innermost one rescues.

    Args:
        samples: LATENT.
        first: write before the work starts, for runs that may be killed. The file is removed when the work is done,
            and stays after a failure and after a cancel.
    Raises:
        Whatever the block raises, of the same type where that can be made with another message.
    """
    early = _write_early(samples) if first else None
    token = object()
    _under_way[token] = samples
    try:
        yield
    except Exception as error:
        if lanes.is_cancel(error) or getattr(error, "latents_told", False):
            raise
        told = with_note(error, _rescue(samples, metadata()))
        told.latents_told = True
        raise told from error.__cause__
    else:
        if early is not None:
            early.unlink(missing_ok=True)
    finally:
        del _under_way[token]


@atexit.register
def _rescue_at_exit() -> None:
    """The server was stopped (Ctrl-C, SIGTERM) in the middle of a decode, whose thread dies with it."""
    several = list(_under_way.values())  # at once: other threads go on, and change it
    for samples in {id(samples): samples for samples in several}.values():
        say(f"stopped in the middle of a decode. {_rescue(samples, metadata())}", logging.WARNING)


def _stop_as_ctrl_c_does(number: int, frame: object) -> None:
    """SIGTERM would end the process with nothing saved; where there is nothing to save, it does so as ever."""
    if _under_way:
        raise KeyboardInterrupt
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


# Service managers and containers stop a server this way. Only the main thread, which loads the nodes, may set a
# handler, and one that is there already is somebody's.
if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
    signal.signal(signal.SIGTERM, _stop_as_ctrl_c_does)


def _write_early(samples: dict) -> Path | None:
    """The file if it is a new one, which belongs to this run alone; None if it was there, or cannot be written."""
    try:
        path, is_new = _write(samples, metadata())
    except Exception as error:
        say(f"the latents cannot be saved before decoding: {error}", logging.WARNING)
        return None
    say(f"the latents are saved as {path} until the video is complete")
    return path if is_new else None


def rescue_file(path: Path) -> str:
    """Write latents that are in a file elsewhere, with the prompt and workflow that it holds; what to tell the user.

    Raises:
        OSError: no folder takes them.
        safetensors.SafetensorError: there are none in it.
    """
    with safetensors.safe_open(path, "pt") as file:
        samples, told = {"samples": file.get_tensor("latent_tensor")}, file.metadata()
    return _where(_write(samples, told)[0])


def _rescue(samples: dict, told: dict[str, str] | None) -> str:
    """Write the latents; what to tell the user, whether that worked or not. Never raises."""
    try:
        path, _ = _write(samples, told)
    except Exception as error:
        return (
            f"The latents could not be saved either: {error}. As long as ComfyUI runs it may still have them: change "
            "what caused the error and queue again."
        )
    return _where(path)


def _where(path: Path) -> str:
    """What to tell the user of latents that are written."""
    inputs = server.input_folder()
    if path.parent == inputs:
        return f"Nothing is lost: the latents are saved as '{path.name}' in the input folder ({inputs}). {RESUME}"
    return f"Nothing is lost: the latents are saved as {path}. Move this file to {inputs}. {RESUME}"


def _write(samples: dict, told: dict[str, str] | None) -> tuple[Path, bool]:
    """Write the latents into the first folder that takes them.

    Args:
        told: prompt and workflow, see `metadata`.
    Returns:
        The file, and whether it is a new one.
    Raises:
        OSError: no folder takes them; with each one's reason.
        Otherwise: what is in `samples` is no latent.
    """
    latent = vaes.latent_of(samples).detach().cpu().contiguous()
    reasons = []
    # The others may be on another disk.
    for folder in (server.input_folder(), server.output_folder(), Path(tempfile.gettempdir())):
        try:
            return _write_to(folder, latent, told)
        except (OSError, safetensors.SafetensorError) as error:
            reasons.append(f"{folder}: {error}")
    raise OSError("; ".join(reasons))


def _write_to(folder: Path, latent: torch.Tensor, told: dict[str, str] | None) -> tuple[Path, bool]:
    data = latent.reshape(-1).view(torch.uint8).numpy()
    digest = hashlib.sha256(f"{latent.dtype} {tuple(latent.shape)}".encode() + data.tobytes()).hexdigest()[:12]
    for path in folder.glob(f"{PREFIX}_*_{digest}.latent"):
        path.touch()  # the newest again
        return path, False
    free = shutil.disk_usage(folder).free
    if free < latent.nbytes + RESERVE_BYTES:
        raise OSError(
            f"{free // 1024**2} MiB are free, and {(latent.nbytes + RESERVE_BYTES) // 1024**2} MiB are needed"
        )
    path = folder / f"{PREFIX}_{time.strftime('%Y%m%d-%H%M%S')}_{digest}.latent"
    temporary = folder / f".{path.name}.part"
    try:
        save_latent(latent, temporary, told)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())  # else a power cut right after could leave an empty file under the final name
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _prune(folder)
    return path, True


def _prune(folder: Path) -> None:
    """Remove all but the newest KEPT rescues, and what killed processes left half-written."""
    with contextlib.suppress(OSError):
        rescues = sorted(folder.glob(f"{PREFIX}_*.latent"), key=lambda path: path.stat().st_mtime, reverse=True)
        halves = folder.glob(f".{PREFIX}_*.latent.part")
        stale = [path for path in halves if time.time() - path.stat().st_mtime > STALE_SECONDS]
        for path in [*rescues[KEPT:], *stale]:
            path.unlink(missing_ok=True)


def save_latent(latent: torch.Tensor, path: Path, told: dict[str, str] | None) -> None:
    """Write a file as SaveLatent does."""
    # The empty tensor tells LoadLatent that these need no scaling, as those of its first version did.
    tensors = {"latent_tensor": latent, "latent_format_version_0": torch.tensor([])}
    safetensors.torch.save_file(tensors, path, metadata=told)


def metadata() -> dict[str, str] | None:
    """The running prompt and its workflow, as SaveLatent stores them, and the version; never raises.

    From the queue and not from a node's hidden inputs: a stock saver that decodes our VIDEO has none for us, and
    those of the node that made it may be of an older prompt.
    """
    running = server.running_prompt()
    if running is None or not server.metadata_enabled():
        return None
    prompt, extra_data = running
    with contextlib.suppress(Exception):  # the latents matter more
        return as_texts(storable(signed_prompt(prompt, extra_data.get("extra_pnginfo")), is_tag))
    return None


def with_note(error: Exception, note: str) -> Exception:
    """The same error with more to say: of the same type if possible, since ComfyUI looks for out-of-memory by type."""
    message = f"{error}\n\n{note}"
    told = None
    with contextlib.suppress(Exception):  # a type that takes other arguments
        told = type(error)(message)
        told.__dict__.update(vars(error))
    if told is None or note not in str(told):
        told = RuntimeError(f"{type(error).__name__}: {message}")
    return told.with_traceback(error.__traceback__)
