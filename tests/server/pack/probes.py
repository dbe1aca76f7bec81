"""Output nodes that report to the test, through the prompt's history, what is only visible inside the server."""

import contextlib
import ctypes
import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import folder_paths
import numpy as np
import torch

from .faults import lane_classes
from .watch import WATCHES


class Probe:
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "report"
    CATEGORY = "_tests"


class CompareImages(Probe):
    """Whether two IMAGEs are the same in every way that a node downstream can notice."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"a": ("IMAGE",), "b": ("IMAGE",)}}

    def report(self, a, b):
        same_shape = a.shape == b.shape
        result = {
            "equal": torch.equal(a, b),
            "max_difference": float((a.float() - b.float()).abs().max()) if same_shape else None,
            "rms_difference": float((a.float() - b.float()).square().mean().sqrt()) if same_shape else None,
            "shapes": [list(a.shape), list(b.shape)],
            "dtypes": [str(a.dtype), str(b.dtype)],
            "devices": [str(a.device), str(b.device)],
            "has_nan": bool(a.isnan().any() or b.isnan().any()),
            "distinct_values": len(torch.unique(a)),
        }
        return {"ui": {"comparison": [result]}}


class CompareAudio(Probe):
    """Whether two AUDIOs hold the same samples."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"a": ("AUDIO",), "b": ("AUDIO",)}}

    def report(self, a, b):
        result = {
            "equal": torch.equal(a["waveform"], b["waveform"]),
            "shapes": [list(a["waveform"].shape), list(b["waveform"].shape)],
            "sample_rates": [a["sample_rate"], b["sample_rate"]],
        }
        return {"ui": {"comparison": [result]}}


class DumpImages(Probe):
    """Write an IMAGE to `<base>/<name>.npy` for the test to load."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"images": ("IMAGE",), "name": ("STRING", {})}}

    def report(self, images, name):
        np.save(Path(folder_paths.base_path) / f"{name}.npy", images.cpu().numpy())
        return {"ui": {"images_dumped": [name]}}


class DumpAudio(Probe):
    """Write an AUDIO to `<base>/<name>.npy`, (channels, samples)."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"audio": ("AUDIO",), "name": ("STRING", {})}}

    def report(self, audio, name):
        np.save(Path(folder_paths.base_path) / f"{name}.npy", audio["waveform"][0].cpu().numpy())
        return {"ui": {"audio_dumped": [{"sample_rate": audio["sample_rate"]}]}}


class State(Probe):
    """Threads of this process; calls and hooks of every watched VAE;
    on demand what the lanes hold, and what memory is held.
    """

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {},
            "optional": {"lanes": ("BOOLEAN", {"default": False}), "memory": ("BOOLEAN", {"default": False})},
        }

    @classmethod
    def IS_CHANGED(cls, **inputs):
        return float("nan")  # never answer from the cache

    def report(self, lanes=False, memory=False):
        state = {
            "threads": [thread.name for thread in threading.enumerate()],
            "vaes": {name: {"decoder_calls": w.decoder_calls, "hooks": w.hooks()} for name, w in WATCHES.items()},
        }
        if lanes:
            kind = lane_classes()["slot"]
            slots = [thing for thing in gc.get_referrers(kind) if isinstance(thing, kind)]
            state["slot_bytes"] = sum(host.nbytes for slot in slots for host in slot.host.values())
            state["open_files"] = [path for path in _open_files() if path.endswith((".mp4", ".part", ".latent"))]
        if memory:
            state["memory_bytes"] = _memory_held()
        return {"ui": {"state": [state]}}


def _open_files() -> Iterator[str]:
    """What this process has open; the server's other threads close some while this reads."""
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            yield os.readlink(link).removesuffix(" (deleted)")


def _memory_held() -> int:
    """Bytes of memory of this process's own, not of mapped files, without those that nothing uses any more."""
    gc.collect()  # ComfyUI's own VAE is in a circle of references, which stands until one is made
    ctypes.CDLL(None).malloc_trim(0)  # what is free, glibc keeps for the next
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon:")]
    return int(line.split()[1]) * 1024
