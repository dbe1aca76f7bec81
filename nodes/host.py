"""Everything this pack needs of ComfyUI: models, memory, progress, cancel, settings, files.

The only file that imports `comfy.*`, so that a change in ComfyUI is met in one place. Facts about
ComfyUI here were read from 0.18.2 and 0.30.0.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
from collections.abc import Callable, Sequence

import comfy.ldm.wan.vae
import comfy.ldm.wan.vae2_2
import comfy.model_management as model_management
import comfy.model_patcher
import comfy.sd
import comfy.utils
import folder_paths
import nodes as core_nodes
import torch
from comfy.cli_args import args
from comfy_execution.graph_utils import ExecutionBlocker

from ..pipeline import engine
from ..pipeline.report import Report
from ..pipeline.sinks import Sink
from ..pipeline.video_spec import VideoSpec
from . import file_names, live

log = logging.getLogger("async-frame-pipeline")

# Ring size. Saving 81 frames of 720p (H100, 16 cores, 2026-11-21) the GPU was busy 98.7 % of the span with two
# slots and 99.1 % with four, the decoder alone 99.2 %; more did not help. Four slots hold 11 MB.
SLOTS = 4


def say(message: str, level: int = logging.INFO) -> None:
    """One line in ComfyUI's log, under the pack's name."""
    log.log(level, "async-frame-pipeline: %s", message)


# -- what a VAE and a latent are ------------------------------------------------------------------


def wan_version(vae) -> str | None:
    """"2.1" or "2.2" for a VAE whose model is one of ComfyUI's own Wan VAEs, else None."""
    kinds = {comfy.ldm.wan.vae.WanVAE: "2.1", comfy.ldm.wan.vae2_2.WanVAE: "2.2"}
    return kinds.get(type(getattr(vae, "first_stage_model", None)))


def latent_of(samples: dict) -> torch.Tensor:
    """The video latent in a LATENT; of a nested one the first, as the stock VAEDecode takes."""
    latent = samples["samples"]
    return latent.unbind()[0] if latent.is_nested else latent


def output_size(vae, samples: dict) -> tuple[int, int, int] | None:
    """(frames, height, width) that decoding will give, or None for VAEs whose ratios do not tell."""
    latent = latent_of(samples)
    if latent.ndim not in (4, 5) or getattr(vae, "latent_dim", None) not in (2, 3) or getattr(vae, "extra_1d_channel", None):
        return None
    ratios = vae.upscale_ratio if isinstance(vae.upscale_ratio, tuple) else (1, vae.upscale_ratio, vae.upscale_ratio)
    latent_frames = latent.shape[2] if latent.ndim == 5 and vae.latent_dim == 3 else 1
    sizes = (latent_frames, latent.shape[-2], latent.shape[-1])
    frames, height, width = (ratio(n) if callable(ratio) else ratio * n for ratio, n in zip(ratios, sizes))
    return int(latent.shape[0] * frames), int(height), int(width)


def check_latent(vae, samples: dict) -> None:
    """Refuse, before anything is loaded, a latent this VAE cannot decode.

    Raises:
        ValueError: what is in `samples` is no latent, `vae` is no VAE, or a Wan VAE was given a video latent with
            another number of channels.
    """
    if not hasattr(vae, "decode"):
        raise ValueError(f"vae is {type(vae).__name__}, which cannot decode. Connect the VAE of a loader.")
    latent = samples.get("samples") if isinstance(samples, dict) else None
    if not hasattr(latent, "is_nested") or 0 in latent.shape or not latent_of(samples).is_floating_point():
        given = f"{latent.dtype} {tuple(latent.shape)}" if isinstance(latent, torch.Tensor) else type(latent).__name__
        raise ValueError(f"There is nothing to decode: the samples are {given}, expected floats of shape (batch, channels, "
                         "frames, height, width), each at least 1. Connect the LATENT of a sampler.")
    latent = latent_of(samples)
    if wan_version(vae) is None or latent.ndim != 5 or latent.shape[1] == vae.latent_channels:
        return
    raise ValueError(
        f"The latent has {latent.shape[1]} channels, but this VAE decodes {vae.latent_channels}. "
        "Wan 2.1 and Wan 2.2 14B make 16 channels and need the Wan 2.1 VAE; Wan 2.2 5B makes 48 and needs "
        "the Wan 2.2 VAE. Load the VAE that belongs to the model the latent came from."
    )


def why_not_exact(vae, samples: dict) -> str | None:
    """Why this decode cannot be streamed and goes the stock way; None if it can.

    Anything that differs from the ComfyUI this was written for counts: streaming relies on how
    `VAE.decode` and the Wan decoders work inside, and the stock way is always right.
    """
    latent = samples["samples"]
    version = wan_version(vae)
    if version is None:
        return f"{type(getattr(vae, 'first_stage_model', vae)).__name__} is not a Wan video VAE"
    if not (_is_cores_own(vae) and _is_cores_own(vae.first_stage_model)):
        return "another node or pack replaced the VAE's decode"
    if list(inspect.signature(comfy.sd.VAE.decode).parameters) != ["self", "samples_in", "vae_options"]:
        return "this ComfyUI decodes in a way this version of the pack does not know"
    if latent.is_nested:
        return "the latent is nested"
    if latent.ndim != 5 or latent.shape[0] != 1:
        return f"a latent of shape {tuple(latent.shape)} is not one video"
    if vae.device.type not in ("cuda", "cpu") or not model_management.device_supports_non_blocking(vae.device):
        return f"asynchronous copies are not safe on '{vae.device}' with these settings (--deterministic)"
    if vae.output_channels != 3 or getattr(vae, "conv_out_channels", 3) != 3:
        return "the VAE's output is not RGB"
    if not _plain_output(vae):
        return "the VAE scales its output in its own way"
    return None


def _is_cores_own(owner) -> bool:
    """Whether `owner.decode` is the method its class was written with, not one patched in since."""
    code = getattr(type(owner).decode, "__code__", None)
    return "decode" not in vars(owner) and code is not None and code.co_filename == inspect.getfile(type(owner))


def _plain_output(vae) -> bool:
    """Whether the VAE's post-processing is (x + 1) / 2 clamped to [0, 1], which `pixels.py` does."""
    probe = torch.tensor([-3.0, -1.0, -0.25, 0.0, 0.7, 1.0, 3.0])
    return torch.equal(vae.process_output(probe.clone()), ((probe + 1.0) / 2.0).clamp(0.0, 1.0))


# -- decoding -------------------------------------------------------------------------------------


def stock_decode(vae, samples: dict) -> torch.Tensor:
    """What the stock VAEDecode node gives: it accepts what it accepts, and raises what it raises."""
    return core_nodes.VAEDecode().decode(vae, samples)[0]


def tiled_decode(vae, latent: torch.Tensor) -> torch.Tensor:
    """What `VAE.decode` does with a video when the GPU's memory does not suffice: (T, H, W, 3), in tiles."""
    model_management.soft_empty_cache()
    tile = 256 // vae.spacial_compression_decode()
    overlap = tile // 4
    pixels = vae.decode_tiled_3d(latent, tile_x=tile, tile_y=tile, overlap=(1, overlap, overlap))
    return pixels.to(vae.output_device).movedim(1, -1).flatten(0, 1)


def load_for_decoding(vae, latent: torch.Tensor) -> None:
    """Load the VAE and make room, as `VAE.decode` does before it decodes."""
    vae.throw_exception_if_invalid()
    memory_used = vae.memory_used_decode(latent.shape, vae.vae_dtype)
    model_management.load_models_gpu([vae.patcher], memory_required=memory_used, force_full_load=vae.disable_offload)


def patch_size_undone(vae) -> Callable[[torch.Tensor], torch.Tensor]:
    """What Wan's `decode` does to its joined outputs: nothing in 2.1, in 2.2 it spreads channels over 2x2 pixels."""
    if wan_version(vae) == "2.2":
        return lambda output: comfy.ldm.wan.vae2_2.unpatchify(output, patch_size=2)
    return lambda output: output


def run_lanes(
    decode: Callable, spec: VideoSpec, sinks: Sequence[Sink], frames_per_slot: int, ready: bool = False, slots: int = SLOTS,
    spectators: Sequence[Sink] = (), frames: tuple[int, int] | None = None,
) -> Report:  # fmt: skip
    """`engine.run` with ComfyUI's progress, cancel and page-locked memory."""
    first, stop = frames or (0, spec.frames)
    bar = comfy.utils.ProgressBar(stop - first)
    with live.watch(sinks, ready) as watch:

        def check():
            # Raises in this thread and clears ComfyUI's flag, which is why no other thread may call it.
            model_management.throw_exception_if_processing_interrupted()
            watch.look()

        def progress(submitted: int):
            bar.update_absolute(submitted)
            watch.look()

        return engine.run(
            decode,
            spec,
            sinks,
            spectators=[*spectators, *watch.spectators],
            frames=frames,
            slots=slots,
            frames_per_slot=frames_per_slot,
            check=check,
            progress=progress,
            pin=_pin_or_say(),
            unpin=model_management.unpin_memory,
            report=watch.report,
        )


def _pin_or_say() -> Callable[[torch.Tensor], bool]:
    """ComfyUI's own page-locking, so that its budget and --disable-pinned-memory hold; says once where it is refused."""
    said = False

    def pin(host: torch.Tensor) -> bool:
        nonlocal said
        pinned = bool(model_management.pin_memory(host))
        if not pinned and not said:
            said = True
            say("no page-locked memory is left or allowed: copies from the GPU are slower and hold up the decoder")
        return pinned

    return pin


def make_room() -> None:
    """Unload every model and give cached GPU memory back."""
    model_management.unload_all_models()
    model_management.soft_empty_cache()


def device_context(device: torch.device):
    """Makes `device` current for the kernels of a VAE on a second GPU; older ComfyUIs have no such thing."""
    context = getattr(model_management, "cuda_device_context", None)
    return context(device) if context is not None else contextlib.nullcontext()


@contextlib.contextmanager
def reading():
    """For runs that only hand over what is there: the reader's own error, and not that decoding failed."""
    try:
        yield
    except engine.FrameCountError:
        raise
    except engine.DecodeError as error:
        raise error.__cause__ from error.__cause__.__cause__


def is_oom(error: BaseException) -> bool:
    """Whether ComfyUI counts this error as out of memory."""
    try:
        model_management.raise_non_oom(error)
    except Exception:
        return False
    return True


def is_cancel(error: BaseException) -> bool:
    """Whether the user interrupted the prompt; an Exception in older ComfyUIs, a BaseException in newer ones."""
    return isinstance(error, model_management.InterruptProcessingException)


# -- models of our own ----------------------------------------------------------------------------


def static_patcher(module: torch.nn.Module, vae):
    """Put a module under ComfyUI's memory management, on the VAE's devices; loaded whole or not at all."""
    return comfy.model_patcher.ModelPatcher(module, load_device=vae.device, offload_device=vae.patcher.offload_device)


def load_whole(patcher, memory_needed: int) -> None:
    """Load a model of `static_patcher` to its GPU, with `memory_needed` bytes beside it free."""
    model_management.load_models_gpu([patcher], memory_required=memory_needed, force_full_load=True)


def why_not_enough_memory(vae, memory_needed: int) -> str | None:
    """Whether the VAE's GPU, with all models unloaded, is too small for a decode; None if it is large enough."""
    total = model_management.get_total_memory(vae.device)
    # What ComfyUI and others keep for themselves, and the weights.
    if memory_needed + 2 * 1024**3 <= total:
        return None
    return f"it needs {memory_needed / 1024**3:.1f} GiB of the GPU's {total / 1024**3:.1f}"


# -- files ----------------------------------------------------------------------------------------


def load_vae(path: str):
    """A VAE from a safetensors file, as the stock VAELoader makes it."""
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(path))
    vae.throw_exception_if_invalid()
    return vae


def metadata_enabled() -> bool:
    """False under --disable-metadata."""
    return not args.disable_metadata


def check_prefix(filename_prefix: str) -> None:
    """Refuse, with a ValueError, a prefix that leads out of ComfyUI's output folder."""
    file_names.check_prefix(filename_prefix, folder_paths.get_output_directory())


def output_names(filename_prefix: str, width: int, height: int) -> tuple[str, str, int, str]:
    """Where files with this prefix go.

    Returns:
        (folder, start of the file name, number of the next file, subfolder), the folder below ComfyUI's output folder.
    Raises:
        ValueError: the prefix leads out of the output folder.
    """
    check_prefix(filename_prefix)
    try:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory(), width, height
        )
    except OSError:  # something is in the way; the error names it
        raise
    except Exception as error:  # ComfyUI raises a bare Exception where the prefix leads out
        raise ValueError(
            f"filename_prefix '{filename_prefix}' does not name a place inside the output folder. "
            "Use a name or a relative path without '..', for example 'video/ComfyUI'."
        ) from error
    return folder, name, counter, subfolder


def temp_folder() -> str:
    """Where previews go; ComfyUI empties it when it starts."""
    folder = folder_paths.get_temp_directory()
    os.makedirs(folder, exist_ok=True)
    return folder


def blocked(reason: str):
    """An output that stops whatever node uses it, with this reason."""
    return ExecutionBlocker(reason)
