"""Decodes with little GPU memory free, ours and stock in turns; how much is free is the caller's to arrange."""

import gc

import comfy.model_management as model_management
import torch

from .turns import spread
from .ways import Ways, vae_of

# Of the last reference: what it was decoded of, and stock's frames.
_reference = {}


def make_room():
    """Unload every model and give all cached GPU memory back, as if the server had just started.

    Returns:
        {"free_bytes", "total_bytes"} of the card by its driver; 0 without one.
    """
    model_management.unload_all_models()
    tidy()
    free_bytes, total_bytes = torch.cuda.mem_get_info() if torch.cuda.is_available() else (0, 0)
    return {"free_bytes": free_bytes, "total_bytes": total_bytes}


def tidy():
    """What the executor does after every node."""
    gc.collect()
    if hasattr(model_management, "reset_cast_buffers"):
        model_management.reset_cast_buffers()
    model_management.soft_empty_cache()


class BenchRoom:
    """Makes room, before another process takes what is to be gone."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"turn": ("INT", {"default": 0})}}

    RETURN_TYPES = ()
    FUNCTION = "measure"
    OUTPUT_NODE = True
    CATEGORY = "benchmarks"

    def measure(self, turn):
        return {"ui": {"memory": [make_room()]}}


class BenchLittleMemory:
    """Each way to decode one latent, in turns, with what is free now.

    ways: of stock, exact, fast, auto, kj, separated by commas.
    stock_turns: of stock, which takes long where its memory does not suffice.
    long_seconds: a way that takes longer has one turn only.
    cold: all models are unloaded before each turn, so that each loads its weights; if not, only before the first.
    reference: keep stock's frames of this size, to which those of all later calls are compared, and run each way once
        before it is measured.
    turn: makes one call another than the one before it.
    """

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "version": (["2.1", "2.2"],),
                "width": ("INT", {"default": 1280, "max": 8192}),
                "height": ("INT", {"default": 720, "max": 8192}),
                "frames": ("INT", {"default": 33, "max": 8192}),
                "ways": ("STRING", {"default": "stock,exact,fast"}),
                "turns": ("INT", {"default": 5}),
                "stock_turns": ("INT", {"default": 1}),
                "long_seconds": ("FLOAT", {"default": 8.0, "max": 1e6}),
                "cold": ("BOOLEAN", {"default": True}),
                "reference": ("BOOLEAN", {"default": False}),
                "kj": ("STRING", {"default": ""}),
                "turn": ("INT", {"default": 0}),
            }
        }

    RETURN_TYPES = ()
    FUNCTION = "measure"
    OUTPUT_NODE = True
    CATEGORY = "benchmarks"

    def measure(
        self, version, width, height, frames, ways, turns, stock_turns, long_seconds, cold, reference, kj, turn
    ):
        case = version, width, height, frames
        self._ways, self._cold = Ways(*case, kj), cold
        vae_of(version)  # which takes no memory of the card, but may leave some in caches
        row = {"memory": make_room(), "cold": cold}
        names = ways.split(",")
        taken = {name: [] for name in names}
        if reference:
            # The first runs warm up: libraries load, kernels are chosen and compiled.
            first = {"stock": self._take_reference(case)}
            self._frames_thwc = _reference.get(case)
            first |= {name: self._turn(name) for name in names if name != "stock"}
            row["first"] = first
            taken |= {name: [first[name]] for name in names if is_over(first[name], long_seconds)}
        self._frames_thwc = _reference.get(case)
        for _ in range(turns):
            for name in names:
                runs = taken[name]
                most = min(turns, stock_turns) if name == "stock" else turns
                if not runs or (len(runs) < most and not is_over(runs[-1], long_seconds)):
                    runs.append(self._turn(name))
        row["ways"] = {name: told(runs) for name, runs in taken.items()}
        return {"ui": {"figures": [row]}}

    def _take_reference(self, case):
        _reference.clear()
        try:
            figures, _reference[case] = self._ways.decode("stock")
            return figures
        except Exception as error:
            return failure(error)

    def _turn(self, way):
        if self._cold:
            model_management.unload_all_models()
        tidy()
        try:
            figures, frames_thwc = self._ways.decode(way)
            return figures | difference(frames_thwc, self._frames_thwc)
        except Exception as error:  # memory that ran out, most likely: that is a result as well
            return failure(error)


def failure(error):
    """A run that gave no frames. Text: an error holds the memory of all that its traceback leads to."""
    return {"error": f"{type(error).__name__}: {error}"[:500]}


def is_over(run, long_seconds):
    """Whether a way has no more turns after this one."""
    return "error" in run or run["seconds"] > long_seconds


def difference(frames_thwc, reference_thwc):
    """{"equal", "rms"} of two IMAGEs, a frame at a time; nothing where there is none to compare with.

    RMS of values in [-1, 1], as a decoder puts them out: an IMAGE's are in [0, 1].
    """
    if reference_thwc is None:
        return {}
    if frames_thwc.shape != reference_thwc.shape:
        return {"equal": False, "rms": float("nan")}
    squares, equal = 0.0, True
    for frame, reference in zip(frames_thwc, reference_thwc):
        equal = equal and torch.equal(frame, reference)
        squares += (frame - reference).square().mean(dtype=torch.float64).item()
    return {"equal": equal, "rms": 2 * (squares / len(frames_thwc)) ** 0.5}


def told(runs):
    """One way's turns as one row: the spread of what is measured; of what is said the last, or all where it changed."""
    done = [run for run in runs if "error" not in run]
    row = spread({figure: [run[figure] for run in done] for figure in ("seconds", "peak_bytes")}) if done else {}
    row["turns"] = len(runs)
    if done and "equal" in done[0]:
        row |= {"equal": all(run["equal"] for run in done), "rms": max(run["rms"] for run in done)}
    for said in ("decoder", "reason", "how", "notes"):
        values = [run[said] for run in done]
        if values:
            row[said] = values[-1]
        if any(value != values[-1] for value in values):
            row[f"{said}_all"] = values
    errors = [run["error"] for run in runs if "error" in run]
    return row | ({"error": errors[0], "errors": len(errors)} if errors else {})
