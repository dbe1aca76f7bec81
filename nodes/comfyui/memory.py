"""Models, and the memory that they and the lanes take: all of it goes through ComfyUI's own accounting."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import comfy.model_management as model_management
import comfy.model_patcher
import psutil
import torch
from comfy.cli_args import args

from ...pipeline.decoders.away import Away
from ...pipeline.decoders.families import facts
from ...pipeline.decoders.fast.plan import Room
from ..log import say

# Of main memory that is free; the rest is for what else goes on meanwhile, such as the encoder.
MAIN_MEMORY_SHARE = 0.8


def load_for_decoding(vae, latent: torch.Tensor, memory_needed: int | None = None) -> None:
    """Load the VAE and make room, as `VAE.decode` does before it decodes; for `memory_needed` bytes, where that is
    known better than ComfyUI knows it.
    """
    vae.throw_exception_if_invalid()
    if memory_needed is None:
        memory_needed = facts.estimate(vae, latent)
    model_management.load_models_gpu([vae.patcher], memory_required=memory_needed, force_full_load=vae.disable_offload)


def batch_size(vae, latent: torch.Tensor) -> int:
    """How many of a batch `VAE.decode` would decode at a time, with what is loaded and free now."""
    free = vae.patcher.get_free_memory(vae.device)
    return max(1, int(free / facts.estimate(vae, latent)))


def room(vae, model) -> Room:
    """What a decode with `model`, a ModelPatcher, may take of the memory of the VAE's device."""
    device = vae.device
    main = int(psutil.virtual_memory().available * MAIN_MEMORY_SHARE)
    # What of the model is not there yet comes, with what ComfyUI adds for it; what it reserves for others is theirs.
    to_load = (model.model_size() - model.loaded_size()) * 1.1
    free = int(model_management.get_free_memory(device) - model_management.extra_reserved_memory() - to_load)
    there = [loaded.model for loaded in model_management.current_loaded_models if loaded.device == device]
    # ComfyUI holds them weakly: one can be gone, and its module held by something else.
    others = [other for other in there if other is not None and other.model is not model.model]
    others = [other for other in others if other.offload_device != device]  # where else could it go?
    emptied = free + sum(other.loaded_size() for other in others)
    return Room(free, emptied, main)


def static_patcher(module: torch.nn.Module, vae):
    """Put a module of our own under ComfyUI's management, on the VAE's devices; loaded whole or not at all."""
    return comfy.model_patcher.ModelPatcher(module, load_device=vae.device, offload_device=vae.patcher.offload_device)


def load_whole(patcher, memory_needed: int) -> None:
    """Load a model of `static_patcher` to its GPU, with `memory_needed` bytes beside it free."""
    model_management.load_models_gpu([patcher], memory_required=memory_needed, force_full_load=True)
    if patcher.load_device.type == "cuda":
        take_in_one_piece(memory_needed, patcher.load_device)


def take_in_one_piece(nbytes: int, device: torch.device) -> None:
    """Where GPU memory is short, let torch's allocator have so much of it in one piece.

    cudaMallocAsync, ComfyUI's choice, does not join what came in pieces: a decode ran out a tenth earlier.
    """
    if model_management.get_free_memory(device) < 2 * nbytes:
        # First of all the pieces: for what is asked for beside them ComfyUI would unload models.
        give_pieces_back()
        with contextlib.suppress(torch.OutOfMemoryError):
            torch.empty(nbytes, dtype=torch.uint8, device=device)


def give_pieces_back() -> None:
    """Let nothing that torch's allocator has cached be in the way of something larger."""
    model_management.soft_empty_cache()


def allocator_joins() -> bool:
    """Whether torch's allocator finds room for something large where smaller things were."""
    return torch.cuda.get_allocator_backend() != "cudaMallocAsync" if torch.cuda.is_available() else True


def size_of(vae) -> int:
    """Of its weights, in bytes."""
    return int(vae.patcher.model_size())


def make_room_for(nbytes: int, device: torch.device) -> None:
    """Unload as many models as it takes for so much to be free."""
    if device.type != "cpu":
        model_management.free_memory(nbytes + model_management.extra_reserved_memory(), device)


def float32_was_asked_for() -> bool:
    """Whether VAEs are to run in float32 by --fp32-vae."""
    return bool(args.fp32_vae)


def make_room() -> None:
    """Unload every model and give cached GPU memory back."""
    model_management.unload_all_models()
    give_pieces_back()


def out_of_memory(message: str) -> Exception:
    """An error that ComfyUI counts as out of memory."""
    return model_management.OOM_EXCEPTION(message)


def is_oom(error: BaseException) -> bool:
    """Whether ComfyUI counts this error as out of memory."""
    traceback, context = error.__traceback__, error.__context__
    try:
        model_management.raise_non_oom(error)
        return True
    except Exception:
        return False
    finally:
        # It was raised once more: with the frames of that, and whatever is handled now, it would hold itself.
        error.__traceback__, error.__context__ = traceback, context


def copies_are_safe(device: torch.device) -> bool:
    """Whether copies off this device may go on while it computes."""
    return device.type in ("cuda", "cpu") and model_management.device_supports_non_blocking(device)


def device_context(vae):
    """Makes the device of a VAE on a second GPU the current one for its kernels; older ComfyUIs have no such thing."""
    context, device = getattr(model_management, "cuda_device_context", None), getattr(vae, "device", None)
    known = context is not None and isinstance(device, torch.device)  # a stranger's VAE may say it in words
    return context(device) if known else contextlib.nullcontext()


def pin_or_say() -> Callable[[torch.Tensor], bool]:
    """ComfyUI's own page-locking, so that its budget and --disable-pinned-memory hold;
    says once where it is refused.
    """
    said = False

    def pin(host: torch.Tensor) -> bool:
        nonlocal said
        pinned = bool(model_management.pin_memory(host))
        if not pinned and not said:
            said = True
            say("no page-locked memory is left or allowed: copies from the GPU are slower and hold up the decoder")
        return pinned

    return pin


unpin = model_management.unpin_memory


@contextlib.contextmanager
def away(device: torch.device) -> Iterator[Away]:
    """Main memory for what a decoder remembers, by ComfyUI's page-locking; given back at the end."""
    there = Away(device, pin_or_say(), unpin)
    try:
        yield there
    finally:
        there.close()
