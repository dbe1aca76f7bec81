"""Nodes that measure this pack inside a real server; loaded by benchmarks/run and benchmarks/saving.

Real Wan architectures with random weights. Noise compresses like nothing a user saves, so the decoder's
output is replaced, on the GPU and at the last layer, by frames of a natural clip: the decoder does all
of its work and the encoder sees real pictures.
"""

import gc
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import comfy.ldm.wan.vae
import comfy.ldm.wan.vae2_2
import comfy.model_management as model_management
import comfy.sd
import nodes
import torch
from comfy_api.latest import InputImpl, Types

from .saving import BenchPSNR
from .trace import profiled

ARCHITECTURES = {
    "2.1": (
        comfy.ldm.wan.vae.WanVAE,
        dict(dim=96, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[],
             temperal_downsample=[False, True, True], dropout=0.0),
    ),
    "2.2": (
        comfy.ldm.wan.vae2_2.WanVAE,
        dict(dim=160, z_dim=48, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[],
             temperal_downsample=[False, True, True], dropout=0.0),
    ),
}


def ours(node_id):
    """The module of one of this pack's nodes, as ComfyUI loaded it."""
    return sys.modules[nodes.NODE_CLASS_MAPPINGS[node_id].__module__]


def decoding():
    return ours("AsyncVAEDecodeVideo").decoding


def random_vae(version):
    kind, dims = ARCHITECTURES[version]
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, weight in kind(**dims).state_dict().items():
        if name.endswith("gamma"):
            weights[name] = torch.ones(weight.shape)
        elif name.endswith("bias"):
            weights[name] = torch.zeros(weight.shape)
        else:
            weights[name] = torch.randn(weight.shape, generator=generator) * weight[0].numel() ** -0.5
        weights[name] = weights[name].to(torch.bfloat16)
    return comfy.sd.VAE(sd=weights)


def plain_module(version):
    """The decoder's module as the published code would use it: bfloat16 on the GPU, nobody managing its weights."""
    kind, dims = ARCHITECTURES[version]
    module = kind(**dims).to("cuda", torch.bfloat16).eval().requires_grad_(False)
    for parameter in module.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=parameter[0].numel() ** -0.5)
    return module


def natural_frames(path, frames, height, width):
    """(3, T, H, W) bfloat16 in [-1, 1] on the CPU, the clip played forwards and backwards."""
    with av.open(path) as container:
        pictures = [f.reformat(width, height, "rgb24").to_ndarray() for f in container.decode(video=0)]
    pictures += pictures[::-1]
    stacked = torch.stack([torch.from_numpy(pictures[i % len(pictures)]) for i in range(frames)])
    return stacked.permute(3, 0, 1, 2).to(torch.bfloat16).div(127.5).sub(1.0)


class Overlay:
    """Replaces the decoders' output by natural frames, wherever the decoder is in the clip."""

    def __init__(self, vae, version, frames_cthw):
        self._pictures = frames_cthw.to(vae.device)
        self._patchify = comfy.ldm.wan.vae2_2.patchify if version == "2.2" else (lambda pictures, patch_size: pictures)
        self._position = 0
        self._hook = vae.first_stage_model.decoder.head[-1].register_forward_hook(self._replace)
        self._wan = decoding().families.wan
        self._steps = self._wan.steps
        self._wan.steps = self._steps_replaced

    def _replace(self, module, args, output):
        pictures = self._patchify(self._next(output.shape[2])[None], patch_size=2)
        return output.mul_(0.0).add_(pictures) if pictures.shape == output.shape else None  # tiles stay as they are

    def _steps_replaced(self, decoder, latent):
        for frames in self._steps(decoder, latent):
            if latent.shape[2] <= self._wan.CHECKED[0]:  # the comparison before the first use
                yield frames
            else:  # float32, as the fast decoder's own output
                yield frames.mul_(0.0).add_(self._next(frames.shape[1]))

    def _next(self, frames):
        first = self._position % self._pictures.shape[1]
        self._position = first + frames
        return self._pictures[:, first : self._position]

    def restart(self):
        self._position = 0

    def remove(self):
        self._hook.remove()
        self._wan.steps = self._steps


def peak_bytes(function):
    """Most GPU memory allocated at once, weights included."""
    model_management.soft_empty_cache()
    torch.cuda.reset_peak_memory_stats()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def timed(function):
    torch.cuda.synchronize()
    began = time.perf_counter()
    result = function()
    torch.cuda.synchronize()
    return time.perf_counter() - began, result


def latent_shape(version, width, height, frames):
    channels, scale = {"2.1": (16, 8), "2.2": (48, 16)}[version]
    return 1, channels, (frames + 3) // 4, height // scale, width // scale


class Case:
    """One VAE, one latent, and the ways to decode and save it."""

    def __init__(self, version, width, height, frames, clip, vae=None):
        self.vae = vae or random_vae(version)
        shape = latent_shape(version, width, height, frames)
        self.samples = {"samples": torch.randn(shape, generator=torch.Generator().manual_seed(1))}
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
        model_management.load_models_gpu([vae.patcher], memory_required=vae.memory_used_decode(latent.shape, vae.vae_dtype))
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

    def stock_file(self):
        components = Types.VideoComponents(images=self.stock_image(), audio=None, frame_rate=Fraction(16))
        InputImpl.VideoFromComponents(components).save_to(self.path("stock"))

    def our_file(self, decoder="exact"):
        self._restart()
        saver = ours("SaveVideoStreaming")
        sink = saver.file_sink(self.path("ours"), saver.VideoOptions(Fraction(16)))
        return decoding().decode_into(self.vae, self.samples, [sink], None, decoder)


class BenchDecodeSave:
    """Decode, and decode + save, ours and stock, in one run; kernel times from the profiler's trace."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "version": (["2.1", "2.2"],), "width": ("INT", {"default": 1280, "max": 8192}),
            "height": ("INT", {"default": 720, "max": 8192}), "frames": ("INT", {"default": 81, "max": 8192}),
            "clip": ("STRING", {"default": ""}), "slots": ("STRING", {"default": "2,3,4,6"}),
            "repeats": ("INT", {"default": 2}), "tiled": ("BOOLEAN", {"default": True}),
        }}  # fmt: skip

    RETURN_TYPES = ()
    FUNCTION = "measure"
    OUTPUT_NODE = True
    CATEGORY = "benchmarks"

    def measure(self, version, width, height, frames, clip, slots, repeats, tiled):
        plain = Case(version, 320, 192, 17, clip="")
        stock, fast = plain.stock_image(), plain.our_image("fast")
        figures = dict(version=version, width=width, height=height, frames=frames)
        figures["fast_rms_from_stock"] = (fast - stock).square().mean().sqrt().item()
        case = Case(version, width, height, frames, clip, plain.vae)
        try:
            figures |= self._measure(case, slots, repeats, tiled)
        finally:
            case.close()
            plain.close()
        return {"ui": {"figures": [figures]}}

    def _measure(self, case, slots, repeats, tiled):
        def best(function):
            return min(timed(function)[0] for _ in range(repeats))

        stock = case.stock_image()  # also the warm-up
        equal = torch.equal(stock, case.our_image())
        first_fast = timed(lambda: case.our_image("fast"))[0]
        del stock
        ways = {
            "decoder alone": case.decoder_alone, "stock image": case.stock_image, "exact image": case.our_image,
            "fast image": lambda: case.our_image("fast"), "stock file": case.stock_file, "exact file": case.our_file,
            "fast file": lambda: case.our_file("fast"),
        }  # fmt: skip
        figures = {"bit_equal": equal, "fast_first_image_seconds": first_fast, "by_slots": {}}
        for name, way in ways.items():
            figures[name] = {"seconds": best(way), "peak_bytes": peak_bytes(way)} | profiled(way).as_dict()
        if tiled:  # slow, and steady enough for one run
            figures["tiled image"] = {"seconds": timed(case.tiled_image)[0]}
        usual = decoding().lanes.SLOTS
        try:
            for count in map(int, slots.split(",") if slots else ()):
                decoding().lanes.SLOTS = count
                seconds, report = min((timed(case.our_file) for _ in range(repeats)), key=lambda run: run[0])
                row = {"seconds": seconds, "report": report.as_dict()} | profiled(case.our_file).as_dict()
                figures["by_slots"][count] = row
        finally:
            decoding().lanes.SLOTS = usual
        return figures


class BenchRivals:
    """The stock decoder's own code made faster by what torch offers, on the same GPU in the same run."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "version": (["2.1", "2.2"],), "width": ("INT", {"default": 1280, "max": 8192}),
            "height": ("INT", {"default": 720, "max": 8192}), "frames": ("INT", {"default": 81, "max": 8192}),
        }}  # fmt: skip

    RETURN_TYPES = ()
    FUNCTION = "measure"
    OUTPUT_NODE = True
    CATEGORY = "benchmarks"

    def measure(self, version, width, height, frames):
        model_management.unload_all_models()
        latents = torch.randn(latent_shape(version, width, height, frames), device="cuda").bfloat16()
        module = plain_module(version)

        def seconds():
            first = timed(lambda: module.decode(latents))[0]
            return {"first_seconds": first, "seconds": min(timed(lambda: module.decode(latents))[0] for _ in range(2))}

        rows = {"as published": seconds()}
        for layer in module.modules():
            if isinstance(layer, (torch.nn.Conv2d, torch.nn.Conv3d)):
                layout = torch.channels_last if layer.weight.ndim == 4 else torch.channels_last_3d
                layer.weight.data = layer.weight.data.contiguous(memory_format=layout)
        rows["channels_last"] = seconds()
        module = plain_module(version)
        module.decoder.forward = torch.compile(module.decoder.forward)
        try:
            rows["torch.compile"] = seconds()
        except Exception as error:
            rows["torch.compile"] = {"error": f"{type(error).__name__}: {error}"[:500]}
        torch._dynamo.reset()
        return {"ui": {"rows": [rows]}}


class BenchMemory:
    """Peak memory of saving a short and a long video; host peak is the process's own high-water mark."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "version": (["2.1", "2.2"],), "width": ("INT", {"default": 832, "max": 8192}),
            "height": ("INT", {"default": 480, "max": 8192}), "frames": ("STRING", {"default": "81,801"}),
        }}  # fmt: skip

    RETURN_TYPES = ()
    FUNCTION = "measure"
    OUTPUT_NODE = True
    CATEGORY = "benchmarks"

    def measure(self, version, width, height, frames):
        rows = []
        vae = None
        for count in [int(frames.split(",")[0]), *map(int, frames.split(","))]:  # the first warms up
            case = Case(version, width, height, count, "", vae)
            vae = case.vae
            ways = {"exact": case.our_file, "fast": lambda: case.our_file("fast"), "stock": case.stock_file}
            for name, way in ways.items():
                gc.collect()
                Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
                seconds = timed(way)[0]
                status = Path("/proc/self/status").read_text().splitlines()
                mark = next(line for line in status if line.startswith("VmHWM"))
                host_peak = int(mark.split()[1]) * 1024
                rows.append({
                    "frames": count, "way": name, "seconds": seconds, "host_peak_bytes": host_peak,
                    "device_peak_bytes": peak_bytes(way),
                })  # fmt: skip
            case.close()
        return {"ui": {"rows": rows[3:]}}


NODE_CLASS_MAPPINGS = {
    "BenchDecodeSave": BenchDecodeSave, "BenchRivals": BenchRivals, "BenchMemory": BenchMemory, "BenchPSNR": BenchPSNR,
}  # fmt: skip
