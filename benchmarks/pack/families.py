"""Decode, and decode + save, of one family's VAE: stock and ours in turns in one server."""

import contextlib
import ctypes
import logging
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import comfy.model_management as model_management
import torch
from comfy_api.latest import InputImpl, Types

import nodes

from .family_vaes import samples_of, vae_of
from .little_memory import difference, failure, make_room, tidy
from .measured import decoding, ours
from .turns import spread

FPS = 24.0
# The first run of each way is of so many frames at most: it loads libraries and has kernels chosen.
WARM_FRAMES = 49
# Families that have a fast decoder on GPUs.
FAST = ("ltx",)


class Meter:
    """What is taken from its making on: seconds, and the most memory of GPU and host at once.

    Both are the high-water mark over what was held before. GPU: torch's own count; weights are not in it, neither those
    that ComfyUI pages in, which are not torch's, nor those of *fast*, which stay there from one run to the next. Host:
    of the process; None where the system does not let it be set back.
    """

    def __init__(self):
        tidy()
        ctypes.CDLL(None).malloc_trim(0)  # what is free but kept would hide what is taken
        self._on_gpu = torch.cuda.is_available()
        if self._on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self._held = torch.cuda.memory_allocated()
        self._before = None
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
            self._before = _status_bytes("VmRSS")
        self._began = time.perf_counter()

    def read(self):
        """{"seconds", "peak_bytes", "host_bytes"}, so far."""
        if self._on_gpu:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - self._began
        peak_bytes = torch.cuda.max_memory_allocated() - self._held if self._on_gpu else 0
        figures = {"seconds": seconds, "peak_bytes": peak_bytes}
        if self._before is not None:
            figures["host_bytes"] = max(0, _status_bytes("VmHWM") - self._before)
        return figures


def _status_bytes(name):
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) * 1024


@contextlib.contextmanager
def heard():
    """A list of what this pack logs meanwhile, and of all warnings: how something was decoded, and what went wrong."""
    lines = []

    class Ear(logging.Handler):
        def emit(self, record):
            if record.name == "async-frame-pipeline" or record.levelno >= logging.WARNING:
                lines.append(record.getMessage()[:500])

    ear = Ear()
    logging.getLogger().addHandler(ear)
    try:
        yield lines
    finally:
        logging.getLogger().removeHandler(ear)


def node(node_id, **inputs):
    """What one of this pack's nodes gives."""
    return nodes.NODE_CLASS_MAPPINGS[node_id].execute(**inputs).args[0]


def check_fast(report):
    """Raises: RuntimeError, where another decoder did it."""
    decoded = report.decoded
    if decoded.decoder != "fast":
        raise RuntimeError(f"decoded {decoded.decoder}: {decoded.why_not_fast}")


class Case:
    """One latent, and each way to decode and to save it; a way gives {name: figures}, of two names if they share parts.

    "ours" are decoded *exact*; "fast" by a family's fast decoder, and fail where that cannot be used.

    Args:
        tiles: tile_size, overlap, temporal_size and temporal_overlap of VAE Decode (Tiled), or None for VAE Decode.
    """

    def __init__(self, family, width, height, frames, tiles, folder):
        self._vae, self._samples = vae_of(family), samples_of(family, width, height, frames)
        names = ("tile_size", "overlap", "temporal_size", "temporal_overlap")
        self._tiles = dict(zip(names, tiles)) if tiles else None
        self._folder = Path(folder)
        self._stock_thwc = None
        self._is_fast = family in FAST
        # By the name of a way of ours: how far its frames are from the stock ones, of its first run.
        self.compared = {}

    def ways(self):
        ways = {"stock": self.stock, "ours image": self.image, "ours file": self.file}
        if self._tiles is None:
            if self._is_fast:
                ways |= {"fast image": self.fast_image, "fast file": self.fast_file}
            return {"decoder alone": self.alone, **ways, "saver alone": self.saver_alone}
        if "AsyncVAEDecodeTiled" in nodes.NODE_CLASS_MAPPINGS:
            ways |= {"ours tiled image": self.tiled_image, "ours tiled file": self.tiled_file}
        return ways

    def alone(self):
        """The model's own decode, weights loaded; frames stay on the GPU, unless the model itself moves them."""
        vae, latent = self._vae, self._samples["samples"]
        model = vae.first_stage_model
        needed = vae.memory_used_decode(latent.shape, vae.vae_dtype)
        model_management.load_models_gpu([vae.patcher], memory_required=needed, force_full_load=vae.disable_offload)
        more = {}
        meter = Meter()
        latent = latent.to(vae.device, vae.vae_dtype)
        if getattr(model, "comfy_has_chunked_io", False):
            shape = model.decode_output_shape(latent.shape)
            more["output_buffer"] = torch.empty(shape, dtype=latent.dtype, device=latent.device)
        model.decode(latent, **more)
        return {"decoder alone": meter.read()}

    def stock(self):
        """The file is made of the image, as in a workflow of stock nodes: one decode tells of both."""
        self._stock_thwc = None
        meter = Meter()
        if self._tiles is None:
            self._stock_thwc = nodes.VAEDecode().decode(self._vae, self._samples)[0]
        else:
            self._stock_thwc = nodes.VAEDecodeTiled().decode(self._vae, self._samples, **self._tiles)[0]
        figures = {"stock image": meter.read()}
        components = Types.VideoComponents(images=self._stock_thwc, audio=None, frame_rate=Fraction(FPS))
        InputImpl.VideoFromComponents(components).save_to(self._path("stock"))
        return {**figures, "stock file": meter.read() | self._written("stock")}

    def image(self):
        return self._image("ours image", "AsyncVAEDecodeVideo", decoder="exact", compare=self._tiles is None)

    def file(self):
        return self._file("ours file", "AsyncVAEDecodeToVideo", decoder="exact")

    def fast_image(self):
        meter = Meter()
        frames_thwc, report = decoding().decode_image_with_report(self._vae, self._samples, "fast")
        figures = meter.read()
        check_fast(report)
        self._compare("fast image", frames_thwc)
        return {"fast image": figures}

    def fast_file(self):
        meter = Meter()
        video = node("AsyncVAEDecodeToVideo", samples=self._samples, vae=self._vae, fps=FPS, decoder="fast")
        report = video.decode_into([self._sink()])
        figures = meter.read()
        check_fast(report)
        return {"fast file": figures | self._written("ours")}

    def tiled_image(self):
        return self._image("ours tiled image", "AsyncVAEDecodeTiled", **self._tiles)

    def tiled_file(self):
        return self._file("ours tiled file", "AsyncVAEDecodeTiledToVideo", **self._tiles)

    def saver_alone(self):
        """Our encoder, of frames that are decoded already: what is saved while it is decoded cannot take less."""
        meter = Meter()
        decoding().write_frames(self._stock_thwc, [self._sink()])
        return {"saver alone": meter.read()}

    def _sink(self):
        """A file as Save Video asks for it."""
        latent_video = sys.modules[ours("AsyncVAEDecodeToVideo").LatentVideo.__module__]
        choice = latent_video.Choice(latent_video.STOCK_FORMAT, latent_video.STOCK_QUALITY)
        return latent_video.VideoFileSink(
            self._path("ours"), latent_video.VideoOptions(Fraction(FPS), choice, None, {})
        )

    def _image(self, name, node_id, compare=True, **inputs):
        meter = Meter()
        frames_thwc = node(node_id, samples=self._samples, vae=self._vae, **inputs)
        figures = meter.read()
        if compare:
            self._compare(name, frames_thwc)
        return {name: figures}

    def _compare(self, name, frames_thwc):
        if name not in self.compared and self._stock_thwc is not None:
            self.compared[name] = difference(frames_thwc, self._stock_thwc)

    def _file(self, name, node_id, **inputs):
        meter = Meter()
        node(node_id, samples=self._samples, vae=self._vae, fps=FPS, **inputs).save_to(self._path("ours"))
        return {name: meter.read() | self._written("ours")}

    def _path(self, name):
        return str(self._folder / f"{name}.mp4")

    def _written(self, name):
        with av.open(self._path(name)) as container:
            return {"frames": container.streams.video[0].frames, "bytes": Path(self._path(name)).stat().st_size}


class Turns:
    """Runs of each way, one after the other and then again, until the turns or the seconds are over.

    Attributes:
        taken: {name: [figures, ...]}, of what failed {"error"}.
        said: {way: lines of the log}, of its last run.
    """

    def __init__(self, ways):
        self._ways = ways
        self.taken, self.said, self._over = {}, {}, set()

    def run(self, turns, seconds):
        began = time.perf_counter()
        for done in range(turns):
            took = time.perf_counter() - began
            if done and took * (done + 1) / done > seconds:
                break
            for name, way in self._ways.items():
                if name not in self._over:
                    self._take(name, way)

    def _take(self, name, way):
        with heard() as lines:
            try:
                rows = way()
            except Exception as error:  # a result as well: the rest goes on
                self._over.add(name)
                rows = {name: failure(error)}
        self.said[name] = lines
        for row, figures in rows.items():
            self.taken.setdefault(row, []).append(figures)


def told(runs):
    """The runs of one name as one row: the spread of what was measured, and the error that ended it."""
    done = [run for run in runs if "error" not in run]
    row = {"turns": len(done)}
    if done:
        row |= spread({figure: [run[figure] for run in done] for figure in done[0]})
    return row | ({"error": runs[-1]["error"]} if "error" in runs[-1] else {})


class BenchFamily:
    """One family at one size and length.

    tiles: "" or "tile_size,overlap,temporal_size,temporal_overlap": stock is then VAE Decode (Tiled), beside ours
        without tiles, and ours with them where there is such a node; *exact* all of them.
    turns, seconds: after the first one no further turn begins that would not end within those seconds.
    turn: makes one call another than the one before it.
    """

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "family": ("STRING", {"default": "ltx"}),
                "width": ("INT", {"default": 1280, "max": 8192}),
                "height": ("INT", {"default": 704, "max": 8192}),
                "frames": ("INT", {"default": 121, "max": 8192}),
                "tiles": ("STRING", {"default": ""}),
                "turns": ("INT", {"default": 3}),
                "seconds": ("FLOAT", {"default": 10.0, "max": 1e6}),
                "turn": ("INT", {"default": 0}),
            }
        }

    RETURN_TYPES = ()
    FUNCTION = "measure"
    OUTPUT_NODE = True
    CATEGORY = "benchmarks"

    def measure(self, family, width, height, frames, tiles, turns, seconds, turn):
        make_room()
        began = time.perf_counter()
        vae = vae_of(family)
        row = {
            "vae_seconds": time.perf_counter() - began,
            "dtype": str(vae.vae_dtype).removeprefix("torch."),
            "latent": list(samples_of(family, width, height, frames)["samples"].shape),
        }
        tiles = [int(value) for value in tiles.split(",") if value]
        with tempfile.TemporaryDirectory() as folder:
            warm = Turns(Case(family, width, height, min(frames, WARM_FRAMES), tiles, folder).ways())
            warm.run(1, seconds)
            case = Case(family, width, height, frames, tiles, folder)
            counted = Turns(case.ways())
            counted.run(turns, seconds)
        row["ways"] = {name: told(runs) | case.compared.get(name, {}) for name, runs in counted.taken.items()}
        row["said"] = counted.said
        failed = {name: runs[0]["error"] for name, runs in warm.taken.items() if "error" in runs[0]}
        return {"ui": {"figures": [row | ({"warm_errors": failed} if failed else {})]}}
