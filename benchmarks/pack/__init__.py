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


def ours(node_id="AsyncVAEDecodeToVideo"):
    """The module of one of this pack's nodes, as ComfyUI loaded it."""
    return sys.modules[nodes.NODE_CLASS_MAPPINGS[node_id].__module__]


def host():
    return ours("AsyncVAEDecodeVideo").host


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
    """Replaces the decoder's output by natural frames, wherever the decoder is in the clip."""

    def __init__(self, vae, version, frames_cthw):
        pictures = frames_cthw[None]
        if version == "2.2":
            pictures = comfy.ldm.wan.vae2_2.patchify(pictures, patch_size=2)
        self._pictures = pictures.to(vae.device)
        self._position = 0
        self._hook = vae.first_stage_model.decoder.head[-1].register_forward_hook(self._replace)

    def _replace(self, module, args, output):
        first = self._position % self._pictures.shape[2]
        self._position = first + output.shape[2]
        return output.mul_(0.0).add_(self._pictures[:, :, first : self._position])

    def restart(self):
        self._position = 0

    def remove(self):
        self._hook.remove()


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


def timed(function):
    torch.cuda.synchronize()
    began = time.perf_counter()
    result = function()
    torch.cuda.synchronize()
    return time.perf_counter() - began, result


class Case:
    """One VAE, one latent, and the ways to decode and save it."""

    def __init__(self, version, width, height, frames, clip):
        channels, scale = {"2.1": (16, 8), "2.2": (48, 16)}[version]
        self.vae = random_vae(version)
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

    def our_image(self):
        self._restart()
        return host().decode_image(self.vae, self.samples)

    def stock_file(self):
        components = Types.VideoComponents(images=self.stock_image(), audio=None, frame_rate=Fraction(16))
        InputImpl.VideoFromComponents(components).save_to(self.path("stock"))

    def our_file(self, crf=23):
        self._restart()
        return ours().LatentVideo(self.vae, self.samples, Fraction(16)).encode(self.path("ours"), crf=crf)


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
        case = Case(version, width, height, frames, clip)
        try:
            figures = self._measure(case, slots, repeats)
        finally:
            case.close()
        figures |= dict(version=version, width=width, height=height, frames=frames)
        return {"ui": {"figures": [figures]}}

    def _measure(self, case, slots, repeats):
        def best(function):
            return min(timed(function)[0] for _ in range(repeats))

        equal = torch.equal(case.stock_image(), case.our_image())  # also the warm-up
        kernels, span = profiled(case.decoder_alone)
        figures = {
            "bit_equal": equal, "kernel_seconds": kernels, "decoder_busy": kernels / span,
            "decoder_seconds": best(case.decoder_alone),
            "stock_image_seconds": best(case.stock_image), "our_image_seconds": best(case.our_image),
            "stock_file_seconds": best(case.stock_file), "ours_by_slots": {},
        }  # fmt: skip
        usual = host().SLOTS
        try:
            for count in map(int, slots.split(",")):
                host().SLOTS = count
                seconds, report = min((timed(case.our_file) for _ in range(repeats)), key=lambda run: run[0])
                busy, span = profiled(case.our_file)
                figures["ours_by_slots"][count] = {
                    "file_seconds": seconds, "kernel_busy": busy / span, "kernel_span": span, "report": report.as_dict(),
                }  # fmt: skip
        finally:
            host().SLOTS = usual
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
            case = Case(version, width, height, count, clip="")
            case.vae = vae = vae or case.vae
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
