"""What a VAE and a latent are, and how ComfyUI itself decodes one with the other."""

from __future__ import annotations

import copy
import inspect
import types
from collections.abc import Callable

import comfy.model_management as model_management
import comfy.sd
import comfy.utils
import psutil
import torch

import nodes as core_nodes

from ...pipeline.decoders.families.facts import UNKNOWN, why_no_frames
from ...pipeline.text import Text

REPLACED = Text("another node or pack replaced the VAE's decode")

# By the function that a VAE's class decodes with, the model's class, and `into_buffer`: whether it does what
# `_rehearse` looks for.
_is_known: dict[tuple[Callable, type, bool], bool] = {}
# The same of `_rehearse_batch`.
_is_known_of_batches: dict[tuple[Callable, type], bool] = {}


def latent_of(samples: dict) -> torch.Tensor:
    """The video latent in a LATENT; of a nested one the first, as the stock VAEDecode takes."""
    latent = samples["samples"]
    return latent.unbind()[0] if latent.is_nested else latent


def check(vae, samples: dict) -> None:
    """Refuse, before anything is loaded, what is no VAE and no latent.

    Raises:
        ValueError: that is so.
    """
    if not hasattr(vae, "decode"):
        raise ValueError(f"vae is {type(vae).__name__}, which cannot decode. Connect the VAE of a loader.")
    try:
        latent = samples["samples"]
    except Exception:  # whatever a stranger's type raises
        latent = None
    if not hasattr(latent, "is_nested") or 0 in latent.shape or not latent_of(samples).is_floating_point():
        given = f"{latent.dtype} {tuple(latent.shape)}" if isinstance(latent, torch.Tensor) else type(latent).__name__
        raise ValueError(
            f"There is nothing to decode: the samples are {given}, expected floats of shape (batch, channels, "
            "frames, height, width), each at least 1. Connect the LATENT of a sampler."
        )
    nbytes, main = latent_of(samples).nbytes, psutil.virtual_memory().total
    if nbytes > main:  # of tensors that repeat themselves, which take no memory until they are used
        raise ValueError(
            f"The latent has the shape {tuple(latent_of(samples).shape)}, {nbytes / 1024**3:,.0f} GiB, more than the "
            f"{main / 1024**3:,.0f} GiB of main memory. Look at what made it: no sampler can have."
        )
    if _has_too_few_axes(vae, latent_of(samples)):
        axes = "frames, height, width" if vae.latent_dim == 3 else "height, width"
        raise ValueError(
            f"This VAE decodes latents of shape (batch, channels, {axes}), and this one is "
            f"{tuple(latent_of(samples).shape)}. Make it with the empty latent node that belongs to the VAE's model."
        )


def _has_too_few_axes(vae, latent: torch.Tensor) -> bool:
    """Whether ComfyUI's decode would end in "tuple index out of range" when it reckons how much memory it takes."""
    try:
        vae.memory_used_decode(latent.shape, vae.vae_dtype)
    except IndexError:
        return True
    except Exception:  # a stranger's VAE, which decodes in its own way
        return False
    return False


# -- what may be done in the place of `VAE.decode` --------------------------------------------------


def why_not_known(vae, into_buffer: bool = False) -> str | None:
    """Why `first_stage_model.decode(latent)`, or with `into_buffer` `decode(latent, output_buffer=...)`, may not be
    called in the place of `VAE.decode`; None if it may."""
    if not (is_cores_own(vae) and is_cores_own(vae.first_stage_model)):
        return REPLACED
    # What is done around a model may depend on which it is.
    decode = type(vae).decode, type(vae.first_stage_model), into_buffer
    if decode not in _is_known:
        _is_known[decode] = _rehearse(vae, into_buffer)
    return why_no_frames(vae) if _is_known[decode] else UNKNOWN


def why_not_in_batches(vae) -> str | None:
    """Why a batch may not be given to `first_stage_model.decode` in parts of `memory.batch_size` in the place of
    `VAE.decode`; None if it may."""
    if not (is_cores_own(vae) and is_cores_own(getattr(vae, "first_stage_model", vae))):
        return REPLACED
    decode = type(vae).decode, type(vae.first_stage_model)
    if decode not in _is_known_of_batches:
        _is_known_of_batches[decode] = _rehearse_batch(vae)
    return why_no_frames(vae) if _is_known_of_batches[decode] else UNKNOWN


def is_cores_own(owner, name: str = "decode") -> bool:
    """Whether a method is the one that the owner's class was written with, not one patched in since."""
    code = getattr(getattr(type(owner), name, None), "__code__", None)
    return name not in vars(owner) and code is not None and code.co_filename == inspect.getfile(type(owner))


def _rehearse(vae, into_buffer: bool) -> bool:
    """Whether `VAE.decode` gives the model the latent, in the VAE's dtype, and nothing else, and of what comes back
    `process_output`, in the dtype of an IMAGE, and nothing else.

    With `into_buffer`, it is to give the model a buffer too, of the size that the model says, and what comes back is
    what is written into that.

    It is played through on the CPU, with a model that decodes nothing and no model loaded. So a ComfyUI whose `decode`
    has more parameters, or does more around it, is known as long as it does this.
    """
    calls = []
    try:
        latent = torch.linspace(-1.0, 1.0, vae.latent_channels * 24).view(1, -1, 2, 3, 4)
        decoded = torch.linspace(-1.5, 1.5, 630).view(1, 3, 5, 6, 7).to(vae.vae_dtype)
        stand_in, model = copy.copy(vae), copy.copy(vae.first_stage_model)
        model.decode_output_shape = lambda shape: decoded.shape if shape == latent.shape else None

        def decode(*args, output_buffer=None, **options):
            calls.append((args, options, output_buffer is not None))
            return decoded.clone() if output_buffer is None else output_buffer.copy_(decoded)

        model.decode = decode
        stand_in.first_stage_model = model
        stand_in.device = stand_in.output_device = torch.device("cpu")
        stand_in.process_output = lambda frames: frames.mul_(0.25)
        frames_thwc = with_nothing_loaded(type(vae).decode)(stand_in, latent)
        [((given,), options, buffer_given)] = calls
        if options or buffer_given != into_buffer:
            return False
        expected = decoded.to(vae.vae_output_dtype()).mul(0.25).movedim(1, -1)
        return torch.equal(given, latent.to(vae.vae_dtype)) and torch.equal(frames_thwc, expected)
    except Exception:  # whatever it is that this VAE does not have
        return False


def _rehearse_batch(vae) -> bool:
    """What `_rehearse` looks for, of a batch of which the memory holds two and a half: it is to be decoded in parts of
    two, since frames differ by rounding where others are decoded with them.
    """
    parts: list[torch.Tensor] = []
    try:
        latent = torch.linspace(-1.0, 1.0, 5 * vae.latent_channels * 24)
        latent = latent.view(5, -1, 2, 3, 4) if vae.latent_dim == 3 else latent.view(5, -1, 6, 4)
        decoded = torch.linspace(-1.5, 1.5, 5 * 630).view(5, 3, *((5, 6, 7) if vae.latent_dim == 3 else (15, 14)))
        rest = iter(decoded.to(vae.vae_dtype).split((2, 2, 1)))
        stand_in, model = copy.copy(vae), copy.copy(vae.first_stage_model)
        model.decode = lambda part: parts.append(part) or next(rest).clone()
        stand_in.first_stage_model = model
        stand_in.patcher = types.SimpleNamespace(get_free_memory=lambda device: 500)
        stand_in.memory_used_decode = lambda shape, dtype: 200
        stand_in.device = stand_in.output_device = torch.device("cpu")
        stand_in.process_output = lambda frames: frames.mul_(0.25)
        frames = with_nothing_loaded(type(vae).decode)(stand_in, latent)
        expected = decoded.to(vae.vae_dtype).to(vae.vae_output_dtype()).mul(0.25).movedim(1, -1)
        in_parts = [len(part) for part in parts] == [2, 2, 1]
        return in_parts and torch.equal(torch.cat(parts), latent.to(vae.vae_dtype)) and torch.equal(frames, expected)
    except Exception:  # whatever it is that this VAE does not have
        return False


def with_nothing_loaded(decode: Callable) -> Callable:
    """The same function, whose `model_management` loads no models."""

    class Idle:
        def __getattr__(self, name):
            return getattr(model_management, name)

        def load_models_gpu(self, *args, **kwargs):
            pass

    names = {**decode.__globals__, "model_management": Idle()}
    idle = types.FunctionType(decode.__code__, names, decode.__name__, decode.__defaults__, decode.__closure__)
    idle.__kwdefaults__ = decode.__kwdefaults__
    return idle


# -- ComfyUI's own decoding -------------------------------------------------------------------------


def stock_decode(vae, samples: dict) -> torch.Tensor:
    """What the stock VAEDecode node gives: it accepts what it accepts, and raises what it raises."""
    return core_nodes.VAEDecode().decode(vae, samples)[0]


def tiled_decode(vae, latent: torch.Tensor) -> torch.Tensor:
    """What `VAE.decode` does with frames when the GPU's memory does not suffice: (T, H, W, 3), in tiles, where the
    model has none of its own."""
    model_management.soft_empty_cache()
    tile = 256 // vae.spacial_compression_decode()
    overlap = tile // 4
    if getattr(vae, "handles_tiling", False):
        pixels = vae._decode_tiled_owned(latent, tile_x=tile, tile_y=tile, overlap=overlap)
    elif latent.ndim == 4:
        pixels = vae.decode_tiled_(latent)
    else:
        pixels = vae.decode_tiled_3d(latent, tile_x=tile, tile_y=tile, overlap=(1, overlap, overlap))
    frames_last = pixels.to(vae.output_device).movedim(1, -1)
    return frames_last if latent.ndim == 4 else frames_last.flatten(0, 1)


def load_vae(path: str):
    """A VAE from a safetensors file, as the stock VAELoader makes it."""
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(path))
    vae.throw_exception_if_invalid()
    return vae
