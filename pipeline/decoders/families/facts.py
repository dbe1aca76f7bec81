"""What a VAE of ComfyUI's says of itself, as `comfy.sd.VAE` has it; nothing of ComfyUI is imported for it."""

from __future__ import annotations

from typing import Any

import torch

from ...text import Text

UNKNOWN = Text("this ComfyUI decodes in a way this version of the pack does not know")


def model_name(vae: Any) -> str:
    """Module and class of a VAE's model, such as "comfy.ldm.wan.vae.WanVAE"."""
    return _class_name(getattr(vae, "first_stage_model", None))


def decoder_of(vae: Any) -> Any:
    """The decoder of a VAE's model; None where it has none of that name."""
    return getattr(getattr(vae, "first_stage_model", None), "decoder", None)


def decoder_name(vae: Any) -> str:
    """Its module and class: some models have any of several."""
    return _class_name(decoder_of(vae))


def is_wrapped(module: Any) -> bool:
    """Whether somebody compiled a module or replaced its `forward`: what lies in it may then never be called."""
    compiled = getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod")
    return compiled or "forward" in vars(module)


def _class_name(module: Any) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def size_by_ratios(vae: Any, latent: torch.Tensor) -> tuple[int, int, int] | None:
    """(frames, height, width) that decoding will give, or None for VAEs whose ratios do not tell."""
    if (
        latent.ndim not in (4, 5)
        or getattr(vae, "latent_dim", None) not in (2, 3)
        or getattr(vae, "extra_1d_channel", None)
    ):
        return None
    ratios = vae.upscale_ratio if isinstance(vae.upscale_ratio, tuple) else (1, vae.upscale_ratio, vae.upscale_ratio)
    latent_frames = latent.shape[2] if latent.ndim == 5 and vae.latent_dim == 3 else 1
    sizes = (latent_frames, latent.shape[-2], latent.shape[-1])
    frames, height, width = (ratio(n) if callable(ratio) else ratio * n for ratio, n in zip(ratios, sizes))
    return int(latent.shape[0] * frames), int(height), int(width)


def has_chunked_io(vae: Any) -> bool:
    """Whether ComfyUI gives the VAE's model a buffer for the whole video, to write each piece into."""
    return bool(getattr(getattr(vae, "first_stage_model", None), "comfy_has_chunked_io", False))


def size_of_buffer(vae: Any, latent: torch.Tensor) -> tuple[int, int, int] | None:
    """(frames, height, width) of that buffer, or None where the model does not say."""
    try:
        batch, _, frames, height, width = vae.first_stage_model.decode_output_shape(latent.shape)
        return int(batch * frames), int(height), int(width)
    except Exception:  # not one for videos, or another method than is known
        return None


def estimate(vae: Any, latent: torch.Tensor) -> float:
    """How many bytes ComfyUI reckons that a decode takes."""
    return vae.memory_used_decode(latent.shape, vae.vae_dtype)


def why_no_frames(vae: Any) -> str | None:
    """Why what the model puts out cannot be taken for frames; None if it can."""
    if vae.output_channels != 3 or getattr(vae, "conv_out_channels", 3) != 3:
        return Text("the VAE's output is not RGB")
    if output_range(vae) is None:
        return Text("the VAE scales its output in its own way")
    return None


def output_range(vae: Any) -> tuple[bool, bool] | None:
    """How the VAE's post-processing makes an IMAGE of what its model puts out.

    Returns:
        (zero_centred, clamped) of a `VideoSpec`: for (x + 1) / 2 clamped to [0, 1], and for nothing at all; None for
        what `pixels.py` cannot do.
    """
    probe = torch.tensor([-3.0, -1.0, -0.25, 0.0, 0.7, 1.0, 3.0])
    processed = vae.process_output(probe.clone())
    if torch.equal(processed, ((probe + 1.0) / 2.0).clamp(0.0, 1.0)):
        return True, True
    return (False, False) if torch.equal(processed, probe) else None
