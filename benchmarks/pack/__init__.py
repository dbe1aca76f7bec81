"""Nodes that measure this pack inside a real server; loaded by benchmarks/run, saving, encoders, little_memory and
families.

Real Wan architectures with random weights. Noise compresses like nothing a user saves, so the decoder's
output is replaced, on the GPU and at the last layer, by frames of a natural clip: the decoder does all
of its work and the encoder sees real pictures.
"""

import gc
import importlib
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import comfy.ldm.wan.vae2_2
import comfy.model_management as model_management
import torch
from comfy_api.latest import InputImpl, Types

import nodes

from .families import BenchFamily
from .little_memory import BenchLittleMemory, BenchRoom
from .measured import decoding, measured, ours
from .prompts import BenchDecode, BenchMade, BenchModel, BenchUse, BenchVAE
from .saving import BenchClip, BenchPeer, BenchPSNR
from .trace import profiled
from .turns import TURNS, in_turns
from .wan import latent_shape, plain_module, random_samples, random_vae


def natural_frames(path, frames, height, width):
    """(3, T, H, W) bfloat16 in [-1, 1] on the CPU, the clip played forwards and backwards."""
    with av.open(path) as container:
        pictures = [f.reformat(width, height, "rgb24").to_ndarray() for f in container.decode(video=0)]
    pictures += pictures[::-1]
    stacked = torch.stack([torch.from_numpy(pictures[i % len(pictures)]) for i in range(frames)])
    return stacked.permute(3, 0, 1, 2).to(torch.bfloat16).div(127.5).sub(1.0)


class Overlay:
    """Replaces the decoders' output by natural frames, wherever the decoder is in the clip.

    Only frames of the clip's size: tiles, and what is compared before the first use of the fast decoder, stay.
    """

    def __init__(self, vae, version, frames_cthw):
        self._pictures = frames_cthw.to(vae.device)
        self._patchify = comfy.ldm.wan.vae2_2.patchify if version == "2.2" else (lambda pictures, patch_size: pictures)
        self._position = 0
        self._hook = vae.first_stage_model.decoder.head[-1].register_forward_hook(self._replace)
        # The class, which nodes of other commits have too: --checkout measures those.
        self._fast = importlib.import_module("..pipeline.decoders.fast.network", decoding().__package__).WanDecoder
        self._step = self._fast.step
        self._fast.step = lambda decoder, latent_bchw: self._replace_step(self._step(decoder, latent_bchw))

    def _replace(self, module, args, output):
        pictures = self._patchify(self._next(output.shape[2])[None], patch_size=2)
        return output.mul_(0.0).add_(pictures) if pictures.shape == output.shape else None

    def _replace_step(self, frames_cthw):
        if frames_cthw.shape[2:] != self._pictures.shape[2:]:
            return frames_cthw
        return frames_cthw.mul_(0.0).add_(self._next(frames_cthw.shape[1]))  # float32, as they were

    def _next(self, frames):
        first = self._position % self._pictures.shape[1]
        self._position = first + frames
        return self._pictures[:, first : self._position]

    def restart(self):
        self._position = 0

    def remove(self):
        self._hook.remove()
        self._fast.step = self._step


class Case:
    """One VAE, one latent, and the ways to decode and save it."""

    def __init__(self, version, width, height, frames, clip, vae=None):
        self.vae = vae or random_vae(version)
        self.samples = random_samples(version, width, height, frames)
        self.frames = frames
        self.overlay = Overlay(self.vae, version, natural_frames(clip, frames, height, width)) if clip else None
        self.folder = tempfile.TemporaryDirectory()

    def close(self):
        if self.overlay:
            self.overlay.remove()
        self.folder.cleanup()

    def _restart(self):
        if self.overlay:
            self.overlay.restart()

    def path(self, name):
        return str(Path(self.folder.name) / f"{name}.mp4")

    def decoder_alone(self):
        """The model's own decode, weights loaded, result left on the GPU."""
        self._restart()
        vae, latent = self.vae, self.samples["samples"]
        model_management.load_models_gpu(
            [vae.patcher], memory_required=vae.memory_used_decode(latent.shape, vae.vae_dtype)
        )
        vae.first_stage_model.decode(latent.to(vae.device, vae.vae_dtype))

    def stock_image(self):
        self._restart()
        return nodes.VAEDecode().decode(self.vae, self.samples)[0]

    def tiled_image(self):
        self._restart()
        return nodes.VAEDecodeTiled().decode(self.vae, self.samples, 512, 64, 64, 8)[0]

    def our_image(self, decoder="exact"):
        self._restart()
        return decoding().decode_image(self.vae, self.samples, decoder)

    def save_stock(self, images):
        components = Types.VideoComponents(images=images, audio=None, frame_rate=Fraction(16))
        InputImpl.VideoFromComponents(components).save_to(self.path("stock"))

    def stock_file(self):
        self.save_stock(self.stock_image())

    def our_file(self, decoder="exact"):
        self._restart()
        video = ours("AsyncVAEDecodeToVideo").LatentVideo(self.vae, self.samples, Fraction(16), decoder=decoder)
        video.save_to(self.path("ours"))


class BenchDecodeSave:
    """Decode, and decode + save, ours and stock, in turns; kernel times from the profiler's trace."""

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "version": (["2.1", "2.2"],),
                "width": ("INT", {"default": 1280, "max": 8192}),
                "height": ("INT", {"default": 720, "max": 8192}),
                "frames": ("INT", {"default": 81, "max": 8192}),
                "clip": ("STRING", {"default": ""}),
                "slots": ("STRING", {"default": ""}),
                "tiled": ("BOOLEAN", {"default": True}),
                "traces": ("BOOLEAN", {"default": False}),
            }
        }

    RETURN_TYPES = ()
    FUNCTION = "measure"
    OUTPUT_NODE = True
    CATEGORY = "benchmarks"

    def measure(self, version, width, height, frames, clip, slots, tiled, traces):
        plain = Case(version, 320, 192, 17, clip="")
        stock, exact, fast = plain.stock_image(), plain.our_image("exact"), plain.our_image("fast")
        figures = dict(version=version, width=width, height=height, frames=frames, turns=TURNS)
        figures["bit_equal"] = torch.equal(stock, exact)
        figures["fast_rms_from_stock"] = (fast - stock).square().mean().sqrt().item()
        case = Case(version, width, height, frames, clip, plain.vae)
        try:
            figures |= self._measure(case, [int(count) for count in slots.split(",") if count], tiled, traces)
        finally:
            case.close()
            plain.close()
        figures |= {"cudnn": torch.backends.cudnn.version(), "pyav": av.__version__}
        return {"ui": {"figures": [figures]}}

    def _measure(self, case, slots, tiled, traces):
        case.decoder_alone()  # warms up what stock and exact both run
        figures = {"fast_first_image_seconds": measured(lambda: case.our_image("fast"))[0]["seconds"]}
        ways = {
            "exact image": case.our_image,
            "fast image": lambda: case.our_image("fast"),
            "exact file": case.our_file,
            "fast file": lambda: case.our_file("fast"),
        }
        ways |= {f"exact file, {count} slots": lambda count=count: with_slots(count, case.our_file) for count in slots}
        if tiled:
            ways["tiled image"] = case.tiled_image
        taken = [lambda name=name, way=way: {name: measured(way)[0]} for name, way in ways.items()]
        figures |= in_turns([lambda: stock_rows(case), *taken])
        # Afterwards: who knows what a profiler leaves on.
        figures["decoder alone"] = profiled(case.decoder_alone).as_dict()
        if traces:
            for name, way in {"stock image": case.stock_image, "stock file": case.stock_file, **ways}.items():
                figures[name] |= profiled(way).as_dict()
        return figures


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


class BenchRivals:
    """The stock decoder's own code made faster by what torch offers, on the same GPU in the same run."""

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "version": (["2.1", "2.2"],),
                "width": ("INT", {"default": 1280, "max": 8192}),
                "height": ("INT", {"default": 720, "max": 8192}),
                "frames": ("INT", {"default": 81, "max": 8192}),
            }
        }

    RETURN_TYPES = ()
    FUNCTION = "measure"
    OUTPUT_NODE = True
    CATEGORY = "benchmarks"

    def measure(self, version, width, height, frames):
        model_management.unload_all_models()
        latents = torch.randn(latent_shape(version, width, height, frames), device="cuda").bfloat16()
        modules = {name: plain_module(version) for name in ("as published", "channels_last", "torch.compile")}
        for layer in modules["channels_last"].modules():
            if isinstance(layer, (torch.nn.Conv2d, torch.nn.Conv3d)):
                layout = torch.channels_last if layer.weight.ndim == 4 else torch.channels_last_3d
                layer.weight.data = layer.weight.data.contiguous(memory_format=layout)
        decoder = modules["torch.compile"].decoder
        decoder.forward = torch.compile(decoder.forward)

        def seconds(module):
            return measured(lambda: module.decode(latents))[0]["seconds"]

        rows = {}
        for name, module in list(modules.items()):
            try:
                rows[name] = {"first_seconds": seconds(module)}
            except Exception as error:
                rows[name] = {"error": f"{type(error).__name__}: {error}"[:500]}
                del modules[name]
        ways = [lambda name=name: {name: {"seconds": seconds(modules[name])}} for name in modules]
        for name, row in in_turns(ways).items():
            rows[name] |= row
        torch._dynamo.reset()
        return {"ui": {"rows": [rows]}}


class BenchMemory:
    """Peak memory of saving a short and a long video; host peak is the process's own high-water mark."""

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "version": (["2.1", "2.2"],),
                "width": ("INT", {"default": 832, "max": 8192}),
                "height": ("INT", {"default": 480, "max": 8192}),
                "frames": ("STRING", {"default": "81,801"}),
            }
        }

    RETURN_TYPES = ()
    FUNCTION = "measure"
    OUTPUT_NODE = True
    CATEGORY = "benchmarks"

    def measure(self, version, width, height, frames):
        rows = []
        vae = None
        for count in map(int, frames.split(",")):
            case = Case(version, width, height, count, "", vae)
            vae = case.vae
            ways = {"exact": case.our_file, "fast": lambda case=case: case.our_file("fast"), "stock": case.stock_file}
            for way in ways.values() if not rows else ():
                way()  # warms up
            taken = in_turns([lambda name=name, way=way: {name: memory_row(way)} for name, way in ways.items()])
            rows += [{"frames": count, "way": name} | row for name, row in taken.items()]
            case.close()
        return {"ui": {"rows": rows}}


def memory_row(way):
    gc.collect()
    model_management.soft_empty_cache()
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    row = measured(way)[0]
    [mark] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    host_peak_bytes = int(mark.split()[1]) * 1024
    return {"seconds": row["seconds"], "host_peak_bytes": host_peak_bytes, "device_peak_bytes": row["peak_bytes"]}


NODE_CLASS_MAPPINGS = {
    "BenchDecodeSave": BenchDecodeSave,
    "BenchRivals": BenchRivals,
    "BenchMemory": BenchMemory,
    "BenchPSNR": BenchPSNR,
    "BenchClip": BenchClip,
    "BenchPeer": BenchPeer,
    "BenchFamily": BenchFamily,
    "BenchRoom": BenchRoom,
    "BenchLittleMemory": BenchLittleMemory,
    "BenchModel": BenchModel,
    "BenchMade": BenchMade,
    "BenchVAE": BenchVAE,
    "BenchUse": BenchUse,
    "BenchDecode": BenchDecode,
}
