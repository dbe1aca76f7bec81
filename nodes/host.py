"""Everything this pack needs of ComfyUI: models, memory, progress, cancel, settings, files.

The only file that imports `comfy.*`, so that a change in ComfyUI is met in one place. Facts about
ComfyUI here were read from 0.18.2 and 0.30.0.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Callable, Sequence

import comfy.ldm.wan.vae
import comfy.ldm.wan.vae2_2
import comfy.model_management as model_management
import comfy.sd
import comfy.utils
import folder_paths
import nodes as core_nodes
import torch
from comfy.cli_args import args

from ..pipeline import engine
from ..pipeline.decoders import exact, whole
from ..pipeline.decoders.window import within
from ..pipeline.report import Report
from ..pipeline.sinks import Sink
from ..pipeline.sinks.tensor import TensorSink
from ..pipeline.video_spec import VideoSpec

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
        ValueError: a Wan VAE was given a video latent with another number of channels.
    """
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


def decode_image(vae, samples: dict) -> torch.Tensor:
    """The IMAGE the stock VAEDecode would give, streamed off the GPU where that is possible.

    Args:
        vae, samples: VAE and LATENT.
    Returns:
        (T, H, W, 3), same shape, dtype, device and values as from the stock node.
    Raises:
        ValueError: see `check_latent`. Otherwise what the stock node raises.
    """
    check_latent(vae, samples)
    reason = why_not_exact(vae, samples)
    if reason is None and vae.output_device.type != "cpu":
        reason = "the frames stay on the GPU (--gpu-only), there is no copy to overlap"
    if reason is None and vae.vae_output_dtype() not in (torch.float32, torch.float16):
        reason = f"the IMAGE is to be {vae.vae_output_dtype()}"
    if reason is None:
        sink = TensorSink(vae.vae_output_dtype())
        outcome = _decode_exact(vae, samples, [sink], window=None)
        if isinstance(outcome, Report):
            return sink.frames_thwc
        if isinstance(outcome, torch.Tensor):
            return outcome
        reason = outcome
    return _decode_stock(vae, samples, reason)


def decode_into(vae, samples: dict, sinks: Sequence[Sink], window: tuple[int, int] | None = None) -> Report:
    """Decode into sinks, while the GPU decodes where that is possible.

    Args:
        vae, samples: VAE and LATENT.
        sinks: where the frames go.
        window: (start, stop) frames to deliver, or None for all.
    Returns:
        The run's report.
    Raises:
        ValueError: see `check_latent`. Otherwise what decoding or a sink raises; the sinks are aborted.
    """
    check_latent(vae, samples)
    outcome = why_not_exact(vae, samples)
    if outcome is None:
        outcome = _decode_exact(vae, samples, sinks, window)
        if isinstance(outcome, Report):
            return outcome
    frames = outcome if isinstance(outcome, torch.Tensor) else _decode_stock(vae, samples, outcome)
    return write_frames(frames if window is None else frames[slice(*window)], sinks)


def write_frames(frames_thwc: torch.Tensor, sinks: Sequence[Sink]) -> Report:
    """Send an IMAGE, (T, H, W, >= 3) in [0, 1] on any device, through the lanes into sinks."""
    frames, height, width = frames_thwc.shape[:3]
    device = frames_thwc.device if frames_thwc.device.type in ("cuda", "cpu") else torch.device("cpu")
    spec = VideoSpec(frames, height, width, device, signed=False)
    return _run(lambda submit: whole.feed(frames_thwc.to(device), submit), spec, sinks, frames_per_slot=4)


def _decode_stock(vae, samples: dict, reason: str) -> torch.Tensor:
    say(f"decoding the stock way: {reason}")
    return core_nodes.VAEDecode().decode(vae, samples)[0]


def _decode_exact(
    vae, samples: dict, sinks: Sequence[Sink], window: tuple[int, int] | None
) -> Report | torch.Tensor | str:
    """Stream one video through the lanes, with what `VAE.decode` does before and around its model.

    Returns:
        A report; or, out of memory, the stock node's own answer to that: the tiled IMAGE; or the
        reason why the stock way must be taken, should the model not behave as it was known to.
    """
    latent = samples["samples"]
    version = wan_version(vae)
    start, stop = window or (0, output_size(vae, samples)[0])
    _, height, width = output_size(vae, samples)
    vae.throw_exception_if_invalid()
    with _device_context(vae.device):
        try:
            memory_used = vae.memory_used_decode(latent.shape, vae.vae_dtype)
            model_management.load_models_gpu(
                [vae.patcher], memory_required=memory_used, force_full_load=vae.disable_offload
            )

            def decode(submit):
                exact.decode(
                    vae.first_stage_model,
                    latent.to(device=vae.device, dtype=vae.vae_dtype),
                    submit,
                    _unpatchify if version == "2.2" else lambda output: output,
                )

            decode = _telling_apart(decode)
            report = _run(
                decode if window is None else within(decode, start, stop),
                VideoSpec(stop - start, height, width, vae.device),
                sinks,
                frames_per_slot=2 if version == "2.1" else 4,
            )
            say(f"exact Wan {version} decode, {report.text()}")
            return report
        except (_DecoderFailed, engine.FrameCountError) as error:
            return f"streaming this ComfyUI's Wan {version} decoder failed: {error}"
        except Exception as error:
            model_management.raise_non_oom(error)
        # Out of the `except`: the error holds the tensors of every frame it passed through.
        say("out of memory, decoding in tiles as the stock node does", logging.WARNING)
        model_management.soft_empty_cache()
        tile = 256 // vae.spacial_compression_decode()
        overlap = tile // 4
        pixels = vae.decode_tiled_3d(latent, tile_x=tile, tile_y=tile, overlap=(1, overlap, overlap))
    return pixels.to(vae.output_device).movedim(1, -1).flatten(0, 1)


class _DecoderFailed(Exception):
    """The decoder, not a lane, raised; the stock way may still work, and else has the better error."""


def _telling_apart(decode: Callable) -> Callable:
    """`decode`, with the errors of its own as `_DecoderFailed`; those of the lanes and OOM as they are."""

    def decode_telling(submit):
        lane_error = None

        def submit_noting(frames_cthw):
            nonlocal lane_error
            try:
                submit(frames_cthw)
            except BaseException as error:
                lane_error = error
                raise

        try:
            decode(submit_noting)
        except Exception as error:
            if error is lane_error or _is_oom(error):
                raise
            raise _DecoderFailed(f"{type(error).__name__}: {error}") from error

    return decode_telling


def _is_oom(error: Exception) -> bool:
    try:
        model_management.raise_non_oom(error)
    except Exception:
        return False
    return True


def _unpatchify(output: torch.Tensor) -> torch.Tensor:
    return comfy.ldm.wan.vae2_2.unpatchify(output, patch_size=2)


def _run(decode: Callable, spec: VideoSpec, sinks: Sequence[Sink], frames_per_slot: int) -> Report:
    progress = comfy.utils.ProgressBar(spec.frames)

    def decode_with_progress(submit):
        def submit_and_tell(frames_cthw):
            submit(frames_cthw)
            progress.update(frames_cthw.shape[1])

        decode(submit_and_tell)

    return engine.run(
        decode_with_progress,
        spec,
        sinks,
        slots=SLOTS,
        frames_per_slot=frames_per_slot,
        # Raises in this thread and clears ComfyUI's flag, which is why no other thread may call it.
        check=model_management.throw_exception_if_processing_interrupted,
        # ComfyUI's own, so that its budget of page-locked memory and --disable-pinned-memory hold.
        pin=model_management.pin_memory,
        unpin=model_management.unpin_memory,
    )


def _device_context(device: torch.device):
    """Makes `device` current for the kernels of a VAE on a second GPU; older ComfyUIs have no such thing."""
    context = getattr(model_management, "cuda_device_context", None)
    return context(device) if context is not None else contextlib.nullcontext()


# -- files ----------------------------------------------------------------------------------------


def load_vae(path: str):
    """A VAE from a safetensors file, as the stock VAELoader makes it."""
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(path))
    vae.throw_exception_if_invalid()
    return vae


def metadata_enabled() -> bool:
    """False under --disable-metadata."""
    return not args.disable_metadata


def output_path(filename_prefix: str, extension: str, width: int, height: int) -> tuple[str, str, str]:
    """Where the next file with this prefix goes.

    Returns:
        (folder, file name, subfolder), the folder below ComfyUI's output folder, the name counted up.
    Raises:
        ValueError: the prefix leads out of the output folder.
    """
    root = folder_paths.get_output_directory()
    try:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(filename_prefix, root, width, height)
    except Exception as error:  # ComfyUI raises a bare Exception here
        raise ValueError(
            f"filename_prefix '{filename_prefix}' does not name a place inside the output folder. "
            "Use a name or a relative path without '..', for example 'video/ComfyUI'."
        ) from error
    return folder, f"{name}_{counter:05}_.{extension}", subfolder
