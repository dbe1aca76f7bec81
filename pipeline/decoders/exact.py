"""A VAE's own modules in its own loop, each piece of output caught as it appears.

A forward hook takes what the decoder's last layer puts out, hands it to the lanes, and leaves the
loop a tensor of zero frames to carry on with, so that no frame piles up on the GPU. Not one
operation of the decoder differs, so the pixels are the stock ones bit for bit. This is for decoders that
work through a video piece by piece, and carry their own state from one to the next.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .histories import Histories


def decode(
    model: torch.nn.Module,
    latents_bcthw: torch.Tensor,
    submit: Callable[[torch.Tensor], None],
    layer: torch.nn.Module,
    to_frames: Callable[[torch.Tensor], torch.Tensor] = lambda output: output[0],
    dropped_frames: int = 0,
    histories: Histories | None = None,
    pauses: Sequence[torch.nn.Module] = (),
) -> None:
    """Decode one video, submitting every piece.

    Args:
        model: a VAE with `decode`.
        latents_bcthw: (1, C, T, H, W) in the model's dtype, on its device.
        submit: receives (3, T, H, W) pieces in the model's dtype.
        layer: of the model, called once for each piece of the video in order. Its third dimension is what
            may be left out of an output without the rest of the loop noticing. Where it gives a tuple, the first item
            is the piece, and the others are left as they are.
        to_frames: what the model does to the joined outputs after its loop, done to one: an output of `layer` as
            (3, T, H, W).
        dropped_frames: how many the model leaves out at the start of what `layer` puts out.
        histories: in the place of the list that the model hands to its decoder as `feat_cache`, for each piece of the
            video anew; None leaves the model its own. A video of one piece has no list.
        pauses: modules before which torch's allocator is to give back what it has cached: where tensors become larger,
            cudaMallocAsync does not join what smaller ones have left. It waits for the GPU.
    Raises:
        ValueError: `histories` are given, and the model hands its decoder no such list.
        What `submit` or the model raises. The hooks are gone in any case.
    Stream: kernels are launched on the caller's current stream, as the model does.
    """

    nothing: list[torch.Tensor] = []
    ours = threading.get_ident()
    left_out = dropped_frames

    def take(module: torch.nn.Module, args: tuple, output: Any) -> Any:
        nonlocal left_out
        # The module is everybody's: what another thread decodes with it meanwhile is not of this video.
        if threading.get_ident() != ours:
            return None
        if isinstance(output, tuple):
            return (take(module, args, output[0]), *output[1:])
        # A compiled or replaced decoder is hooked as a whole, and may give a list of pieces.
        pieces = output if isinstance(output, list) else [output]
        for piece in pieces:
            frames_cthw = to_frames(piece)
            kept_cthw = frames_cthw[:, left_out:]
            left_out -= frames_cthw.shape[1] - kept_cthw.shape[1]
            if kept_cthw.shape[1]:
                submit(kept_cthw)
        if not nothing:
            # Not a slice, which would keep its frames' memory alive in the model's list; and one for all, since any
            # small thing kept between the decoder's large and short-lived tensors keeps the heap from shrinking.
            nothing.append(pieces[0].new_empty((*pieces[0].shape[:2], 0, *pieces[0].shape[3:])))
        return nothing * len(pieces) if isinstance(output, list) else nothing[0]

    def replace(module: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if threading.get_ident() != ours:
            return None
        if "feat_cache" not in kwargs:
            raise ValueError(f"{type(module).__name__} is called without feat_cache: its histories cannot be moved")
        if kwargs["feat_cache"] is None:
            return None
        assert histories is not None, "else there is no such hook"
        histories.begin_piece(len(kwargs["feat_cache"]))
        return args, {**kwargs, "feat_cache": histories}

    with contextlib.ExitStack() as hooks:
        hooks.callback(layer.register_forward_hook(take).remove)
        for module in pauses:
            hooks.callback(module.register_forward_pre_hook(lambda *_: torch.cuda.empty_cache()).remove)
        if histories is not None:
            hooks.callback(model.decoder.register_forward_pre_hook(replace, with_kwargs=True).remove)
        model.decode(latents_bcthw)
