"""Nodes that measure this pack inside a real server; loaded by benchmarks/run only.

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
        self._decode_fast = decoding()._decode_fast
        decoding()._decode_fast = self._decode_fast_replaced

    def _replace(self, module, args, output):
        return output.mul_(0.0).add_(self._patchify(self._next(output.shape[2])[None], patch_size=2))

    def _decode_fast_replaced(self, *args):
        *args, submit = args
        self._decode_fast(*args, lambda frames: submit(frames.mul_(0.0).add_(self._next(frames.shape[1]))))

    def _next(self, frames):
        first = self._position % self._pictures.shape[1]
        self._position = first + frames
        return self._pictures[:, first : self._position]

    def restart(self):
        self._position = 0

    def remove(self):
        self._hook.remove()
        decoding()._decode_fast = self._decode_fast


def busy_seconds(profile):
    """(kernel time, span from the first kernel to the end of the last), both in seconds."""
    kernels = sorted(
        (event.start_ns(), event.start_ns() + event.duration_ns())
        for event in profile.profiler.kineto_results.events()
        if event.device_type() == torch.autograd.DeviceType.CUDA and not event.name().startswith(("Memcpy", "Memset"))
    )
    busy, reached = 0, kernels[0][0]
    for start, end in kernels:
        busy += max(0, end - max(start, reached))
        reached = max(reached, end)
    return busy / 1e9, (reached - kernels[0][0]) / 1e9


def profiled(function):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        function()
        torch.cuda.synchronize()
    return busy_seconds(profile)


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


class Case:
    """One VAE, one latent, and the ways to decode and save it."""

    def __init__(self, version, width, height, frames, clip, vae=None):
        channels, scale = {"2.1": (16, 8), "2.2": (48, 16)}[version]
        self.vae = vae or random_vae(version)
        shape = (1, channels, (frames + 3) // 4, height // scale, width // scale)
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

    def our_image(self, decoder="exact"):
        self._restart()
        return decoding().decode_image(self.vae, self.samples, decoder)

    def stock_file(self):
        components = Types.VideoComponents(images=self.stock_image(), audio=None, frame_rate=Fraction(16))
        InputImpl.VideoFromComponents(components).save_to(self.path("stock"))

    def our_file(self, decoder="exact"):
        self._restart()
        saver = ours("SaveVideoStreaming")
        sink = saver.VideoFileSink(self.path("ours"), saver.VideoOptions(Fraction(16)))
        return decoding().decode_into(self.vae, self.samples, [sink], None, decoder)


class BenchDecodeSave:
    """Decode, and decode + save, ours and stock, in one run; kernel times from the profiler's trace."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "version": (["2.1", "2.2"],), "width": ("INT", {"default": 1280, "max": 8192}),
            "height": ("INT", {"default": 720, "max": 8192}), "frames": ("INT", {"default": 81, "max": 8192}),
            "clip": ("STRING", {"default": ""}), "slots": ("STRING", {"default": "2,3,4,6"}),
            "repeats": ("INT", {"default": 2}),
        }}  # fmt: skip

    RETURN_TYPES = ()
    FUNCTION = "measure"
    OUTPUT_NODE = True
    CATEGORY = "benchmarks"

    def measure(self, version, width, height, frames, clip, slots, repeats):
        plain = Case(version, 320, 192, 17, clip="")
        stock, fast = plain.stock_image(), plain.our_image("fast")
        figures = dict(version=version, width=width, height=height, frames=frames)
        figures["fast_rms_from_stock"] = (fast - stock).square().mean().sqrt().item()
        case = Case(version, width, height, frames, clip, plain.vae)
        try:
            figures |= self._measure(case, slots, repeats)
        finally:
            case.close()
            plain.close()
        return {"ui": {"figures": [figures]}}

    def _measure(self, case, slots, repeats):
        def best(function):
            return min(timed(function)[0] for _ in range(repeats))

        stock = case.stock_image()  # also the warm-up
        equal = torch.equal(stock, case.our_image())
        first_fast = timed(lambda: case.our_image("fast"))[0]
        del stock
        kernels, span = profiled(case.decoder_alone)
        figures = {
            "bit_equal": equal, "kernel_seconds": kernels, "decoder_busy": kernels / span,
            "decoder_seconds": best(case.decoder_alone),
            "stock_image_seconds": best(case.stock_image), "our_image_seconds": best(case.our_image),
            "stock_file_seconds": best(case.stock_file), "ours_by_slots": {},
        }  # fmt: skip
        usual = decoding().host.SLOTS
        try:
            for count in map(int, slots.split(",")):
                decoding().host.SLOTS = count
                seconds, report = min((timed(case.our_file) for _ in range(repeats)), key=lambda run: run[0])
                busy, span = profiled(case.our_file)
                figures["ours_by_slots"][count] = {
                    "file_seconds": seconds, "kernel_busy": busy / span, "kernel_span": span, "report": report.as_dict(),
                }  # fmt: skip
        finally:
            decoding().host.SLOTS = usual
        ways = {
            "stock_image": case.stock_image, "exact_image": case.our_image, "exact_file": case.our_file,
            "fast_image": lambda: case.our_image("fast"), "fast_file": lambda: case.our_file("fast"),
        }  # fmt: skip
        figures["peak_bytes"] = {name: peak_bytes(way) for name, way in ways.items()}
        figures["fast"] = {
            "first_image_seconds": first_fast,
            "image_seconds": best(ways["fast_image"]), "file_seconds": best(ways["fast_file"]),
        }  # fmt: skip
        busy, span = profiled(ways["fast_image"])
        figures["fast"] |= {"image_kernel_seconds": busy, "image_busy": busy / span}
        busy, span = profiled(ways["fast_file"])
        figures["fast"]["file_busy"] = busy / span
        busy, span = profiled(case.our_image)
        figures["our_image_busy"] = busy / span
        busy, span = profiled(case.stock_file)
        figures["stock_file_busy"] = busy / span
        return figures


class BenchMemory:
    """Peak memory of saving a short and a long video, ours; host peak is the process's own high-water mark."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "version": (["2.1", "2.2"],), "width": ("INT", {"default": 832, "max": 8192}),
            "height": ("INT", {"default": 480, "max": 8192}), "frames": ("STRING", {"default": "77,797"}),
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
            gc.collect()
            Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
            seconds, report = timed(case.our_file)
            mark = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
            rows.append({
                "frames": count, "seconds": seconds, "host_peak_bytes": int(mark.split()[1]) * 1024,
                "device_peak_bytes": report.device_peak_bytes,
            })  # fmt: skip
            case.close()
        return {"ui": {"rows": rows[1:]}}


NODE_CLASS_MAPPINGS = {"BenchDecodeSave": BenchDecodeSave, "BenchMemory": BenchMemory}
