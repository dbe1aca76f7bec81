"""Faults in the lanes: the next run meets one, at a moment of the test's choosing."""

import errno
import shutil
import sys
import time
from pathlib import Path

import av
import folder_paths
import torch

import nodes

from .watch import hold

AVERROR_EXTERNAL = -int.from_bytes(b"EXT ", "little")  # FFmpeg's for "an encoder of somebody else's failed"

# Slower than the decoder by far, quick enough for a test.
SLOW_SECONDS = 0.05


def disk_full():
    raise OSError(errno.ENOSPC, "No space left on device (injected by the test)")


def encoder_death():
    raise av.error.ExternalError(AVERROR_EXTERNAL, "injected by the test")


def exception():
    raise RuntimeError("injected by the test")


def out_of_memory():
    raise torch.OutOfMemoryError("injected by the test")


def stand_still():
    base = Path(folder_paths.base_path)
    hold(base / "hold-fault.reached", base / "hold-fault.go")


FAULTS = {
    "exception": exception,
    "out of memory": out_of_memory,
    "disk full": disk_full,
    "encoder death": encoder_death,
    "cancel": nodes.interrupt_processing,
    "slow": lambda: time.sleep(SLOW_SECONDS),
    "hold": stand_still,
}


class Armed:
    """One fault, at the n-th call of what it is put on; slow from then on, the others `times` times."""

    def __init__(self, fault: str, at: int, times: int):
        self._fault, self._first, self._last = fault, at, at + times - 1
        self._calls = 0

    def meet(self) -> None:
        self._calls += 1
        if self._calls >= self._first and (self._calls <= self._last or self._fault == "slow"):
            FAULTS[self._fault]()


class FaultyContainer:
    """A PyAV container, with a fault in one of its methods;
    `<base>/packets.txt` lists the times of frames it was given.
    """

    def __init__(self, container, method: str, armed: Armed):
        self._container, self._method, self._armed = container, method, armed

    def __getattr__(self, name):
        attribute = getattr(self._container, name)
        if name != self._method:
            return attribute

        def faulty(*args, **kwargs):
            if name == "close":  # closes the file even when it cannot write the end of it, as PyAV's does
                attribute(*args, **kwargs)
            self._armed.meet()
            if name != "close":
                attribute(*args, **kwargs)
            if name == "mux":
                note_times(*args)

        return faulty


def note_times(packets):
    packets = [packets] if isinstance(packets, av.Packet) else packets
    with open(Path(folder_paths.base_path) / "packets.txt", "a") as file:
        file.writelines(f"{float(each.pts * each.time_base)}\n" for each in packets if each.stream.type == "video")


def lane_classes() -> dict[str, type]:
    """The pack's classes that lanes are made of, wherever ComfyUI has loaded them."""
    modules = {name.rpartition(".pipeline.")[2]: module for name, module in sys.modules.items() if ".pipeline." in name}
    return {"slot": modules["ring"].Slot}


_disarm = []


class Fault:
    """Passes a latent through and arms a fault, which replaces the one armed before.

    Lanes and what `at` counts (from 1): "allocate" slots made; "convert" chunks converted, "copy" chunks copied, "wait"
    chunks arrived; "open" files opened, "mux" packets written, "close" files closed; "none" disarms.
    """

    @classmethod
    def INPUT_TYPES(cls):
        lanes = ["none", "allocate", "convert", "copy", "wait", "open", "mux", "close"]
        return {
            "required": {
                "samples": ("LATENT",),
                "lane": (lanes,),
                "at": ("INT", {"default": 1}),
                "fault": (list(FAULTS),),
            },
            "optional": {"times": ("INT", {"default": 1}), "seed": ("INT", {"default": 0})},
        }

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "arm"
    CATEGORY = "_tests"

    @classmethod
    def IS_CHANGED(cls, **inputs):
        return float("nan")  # armed again for every prompt

    def arm(self, samples, lane, at, fault, times=1, seed=0):
        while _disarm:
            _disarm.pop()()
        armed = Armed(fault, at, times)
        methods = {"allocate": "__init__", "convert": "fill", "copy": "start_copy", "wait": "wait_copied"}
        if lane in methods:
            put_on(lane_classes()["slot"], methods[lane], armed)
        elif lane != "none":
            real = av.open

            def opening(file, mode="r", *args, **kwargs):
                if mode != "w":
                    return real(file, mode, *args, **kwargs)
                if lane == "open":
                    armed.meet()
                return FaultyContainer(real(file, mode, *args, **kwargs), lane, armed)

            av.open = opening
            _disarm.append(lambda: setattr(av, "open", real))
        return (samples,)


def put_on(owner: type, name: str, armed: Armed) -> None:
    real = getattr(owner, name)

    def faulty(*args, **kwargs):
        armed.meet()
        return real(*args, **kwargs)

    setattr(owner, name, faulty)
    _disarm.append(lambda: setattr(owner, name, real))


class BlockRescue:
    """Passes a latent through; until the run is over, every disk says that it is full."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"samples": ("LATENT",)}}

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "block"
    CATEGORY = "_tests"

    def block(self, samples):
        real = shutil.disk_usage
        shutil.disk_usage = lambda path: real(path)._replace(free=0)
        _disarm.append(lambda: setattr(shutil, "disk_usage", real))
        return (samples,)
