"""Decode, and decode + save: stock, ours and peers in turns, then kernel times from the profiler's trace."""

import collections
import contextlib
import importlib.metadata
import json
from functools import partial
from pathlib import Path

import torch

from . import peers
from .case import Case
from .little_memory import difference, failure
from .measured import allocated, decoding, measured
from .trace import profiled
from .turns import TURNS, in_turns
from .wan import float32_image

# What ways are compared at, on noise: width, height, frames. Too small for tiles.
SMALL = (320, 192, 17)
# What each way is run with first: all the shapes of a step are there.
WARM_LATENTS = 5
# Whose first run at any size takes a minute or more.
SLOW_TO_START = ("torch.compile",)
# These have all turns, and show the clip.
OURS_AND_STOCK = ("stock", "exact", "fast")
# What these decode stays on the GPU: it is no IMAGE yet.
LEFT_ON_GPU = ("channels_last", "torch.compile", "fastvae")


class BenchDecodeSave:
    """One size.

    Inputs:
        ways: of `Case.images`, with commas.
        peer_turns: of what is neither stock's nor ours.
        until: see `in_turns`.
        kj: folder of ComfyUI-KJNodes.
        slots: ring sizes to compare, with commas.
        traces: rows to run once more under the profiler, with commas.
        so_far: a file that gets the rows after each turn.
    """

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "version": (["2.1", "2.2"],),
                "width": ("INT", {"default": 1280, "max": 8192}),
                "height": ("INT", {"default": 720, "max": 8192}),
                "frames": ("INT", {"default": 81, "max": 8192}),
                "clip": ("STRING", {"default": ""}),
                "ways": ("STRING", {"default": "stock,exact,fast"}),
                "turns": ("INT", {"default": TURNS}),
                "peer_turns": ("INT", {"default": TURNS}),
                "until": ("FLOAT", {"default": 1e12, "max": 1e12}),
                "kj": ("STRING", {"default": ""}),
                "slots": ("STRING", {"default": ""}),
                "traces": ("STRING", {"default": ""}),
                "so_far": ("STRING", {"default": ""}),
            }
        }

    RETURN_TYPES = ()
    FUNCTION = "measure"
    OUTPUT_NODE = True
    CATEGORY = "benchmarks"

    def measure(self, version, width, height, frames, clip, ways, turns, peer_turns, until, kj, slots, traces, so_far):
        ways, counts = ways.split(","), [int(count) for count in slots.split(",") if count]
        run = Run()
        with Case(version, *SMALL, kj=kj) as small:
            figures = run.compare(small, ways)
            with Case(version, width, height, frames, clip, small.vae, kj) as case:
                figures |= run.warm_up(case, ways)
                rows = in_turns(run.turns(case, ways, counts, turns, peer_turns), turns, until, saver(so_far))
                # Afterwards: who knows what a profiler leaves on. They are few, so they are run whatever the time.
                for name in traces.split(",") if traces else ():
                    rows.setdefault(name, {}).update(run.traced(case, name))
        peers.forget()
        figures |= {"ways": rows, "errors": run.errors, "versions": versions()}
        return {"ui": {"figures": [figures]}}


class Run:
    """Ways, some of which may fail: those are told in `errors`, and left out from there on."""

    def __init__(self):
        self.errors = {}
        # Bytes that a way leaves on the GPU, its weights for the most part.
        self._kept = collections.Counter()

    def compare(self, case, ways):
        """On noise: how far each way is from float32, as RMS of values in [-1, 1], and what its first two uses take."""
        stock, reference = case.stock_image(), float32_image(case.version, case.samples)
        figures = {"rms_from_float32": {}, "first_seconds": {}, "second_seconds": {}}
        for way, image in case.images(ways).items():
            if way == "tiled" or way in SLOW_TO_START:
                continue
            with self._keeping(way):
                if (told := self._tried(way, partial(compared, image, reference, stock))) is not None:
                    figures["rms_from_float32"][way] = told["rms"]
                    figures["first_seconds"][way], figures["second_seconds"][way] = told["seconds"]
                    if way == "exact":
                        figures["bit_equal"] = told["bit_equal"]
        return figures

    def warm_up(self, case, ways):
        """A short run of each: kernels are chosen and compiled. Its seconds, and whether the frames show the clip."""
        figures = {"warm_up_seconds": {}, "shows_clip": {}}
        case.shorten(WARM_LATENTS)
        case.decoder_alone()  # what the VAE itself leaves on the GPU is there in all ways
        for way, image in case.images(ways).items():
            with self._keeping(way):
                if (told := self._tried(way, partial(warmed, image, case.overlay))) is not None:
                    figures["warm_up_seconds"][way] = told["seconds"]
                    if way in OURS_AND_STOCK:
                        figures["shows_clip"][way] = told["shows_clip"]
        for way, file in case.files(ways).items():
            self._tried(way, file)
        case.shorten(None)
        return figures

    def turns(self, case, ways, slots, turns, peer_turns):
        """What takes turns: images, then files; the stock file is made of the stock image."""
        taken = []
        for way, image in case.images(ways).items():
            name = f"{way} frames" if way in LEFT_ON_GPU else f"{way} image"
            rows = partial(stock_rows, case) if way == "stock" else partial(row, name, image)
            taken.append(self._turn(way, rows, turns if way in OURS_AND_STOCK else peer_turns))
        for way, file in case.files(ways).items():
            if way != "stock":
                taken.append(self._turn(way, partial(row, f"{way} file", file), turns))
        for count in slots:
            with_ring = partial(with_slots, count, case.our_file)
            taken.append(self._turn("exact", partial(row, f"exact file, {count} slots", with_ring), turns))
        return taken

    def traced(self, case, name):
        """What the profiler says of one more run of a row; nothing if it fails."""
        everything = {"decoder alone": case.decoder_alone}
        everything |= {f"{way} image": image for way, image in case.images().items()}
        everything |= {f"{way} file": file for way, file in case.files().items()}
        trace = self._tried(name.split()[0], partial(profiled, everything[name]))
        return trace.as_dict() if trace else {}

    def _turn(self, way, rows, turns):
        left = iter(range(turns))

        def turn():
            taken = (self._tried(way, rows) if next(left, None) is not None else None) or {}
            of_others = sum(kept for other, kept in self._kept.items() if other != way)
            for figures in taken.values():
                figures["peak_bytes"] = max(0, figures["peak_bytes"] - of_others)
            return taken

        return turn

    @contextlib.contextmanager
    def _keeping(self, way):
        before = allocated()
        yield
        self._kept[way] += allocated() - before

    def _tried(self, way, function):
        """What it returns, or None if it fails now or the way has failed before."""
        if way in self.errors:
            return None
        try:
            return function()
        except Exception as error:  # a result as well: the rest goes on
            self.errors[way] = failure(error)["error"]
            return None


def compared(image, reference, stock):
    """Of two runs of a way: their seconds, and how far the frames are from two others. Nothing of them is kept."""
    first, _ = measured(image)
    second, frames_thwc = measured(image)
    frames_thwc = frames_thwc.cpu()
    rms = difference(frames_thwc, reference)["rms"]
    return {"seconds": (first["seconds"], second["seconds"]), "rms": rms, "bit_equal": torch.equal(frames_thwc, stock)}


def warmed(image, overlay):
    """Of one run of a way: its seconds, and whether its frames are of the clip. Nothing of them is kept."""
    figures, frames_thwc = measured(image)
    return {"seconds": figures["seconds"], "shows_clip": overlay is None or overlay.shows(frames_thwc)}


def row(name, function):
    return {name: measured(function)[0]}


def stock_rows(case):
    """The file is made of the image, as in a workflow of stock nodes: one decode tells of both."""
    image, frames_thwc = measured(case.stock_image)
    saving, _ = measured(lambda: case.save_stock(frames_thwc))
    seconds, peak = image["seconds"] + saving["seconds"], max(image["peak_bytes"], saving["peak_bytes"])
    return {"stock image": image, "stock file": {"seconds": seconds, "peak_bytes": peak}}


def with_slots(count, function):
    lanes = decoding().lanes
    usual, lanes.SLOTS = lanes.SLOTS, count
    try:
        return function()
    finally:
        lanes.SLOTS = usual


def saver(path):
    """Writes rows to a file, if one is wanted."""
    return lambda rows: path and Path(path).write_text(json.dumps(rows))


def versions():
    """Of what decides about speed, and of the peer that is a package; None where it is not installed."""
    told = {"cudnn": torch.backends.cudnn.version()}
    for package in ("av", "triton", "diffusers", "fastvae"):
        try:
            told[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            told[package] = None
    return told
