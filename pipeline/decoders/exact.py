"""A Wan VAE's own modules in its own loop, each piece of output caught as it appears.

A forward hook takes what the decoder's last layer puts out, hands it to the lanes, and leaves the
loop a tensor of zero frames to carry on with, so that no frame piles up on the GPU. Not one
operation of the decoder differs, so the pixels are the stock ones bit for bit. Wan's decoder is
causal and carries its own state from chunk to chunk.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch


def decode(
    model: torch.nn.Module,
    latents_bcthw: torch.Tensor,
    submit: Callable[[torch.Tensor], None],
    to_pixels: Callable[[torch.Tensor], torch.Tensor] = lambda output: output,
) -> None:
    """Decode one video, submitting every piece.

    Args:
        model: a Wan 2.1 or 2.2 VAE with `decode` and `decoder.head`, whose last layer's outputs are
            the frames in order.
        latents_bcthw: (1, C, T, H, W) in the model's dtype, on its device.
        submit: receives (3, T, H, W) pieces in the model's dtype, values about [-1, 1].
        to_pixels: what the model does to the joined outputs after its loop, if that can be done to
            each piece alone (Wan 2.2: unpatchify).
    Raises:
        What `submit` or the model raises. The hook is gone in any case.
    Stream: kernels are launched on the caller's current stream, as the model does.
    """

    nothing: list[torch.Tensor] = []
    ours = threading.get_ident()

    def take(module, args, output):
        # The module is everybody's: what another thread decodes with it meanwhile is not of this video.
        if threading.get_ident() != ours:
            return None
        # A compiled or replaced decoder is hooked as a whole, and may give a list of pieces.
        pieces = output if isinstance(output, list) else [output]
        for piece in pieces:
            submit(to_pixels(piece)[0])
        if not nothing:
            # Not a slice, which would keep its frames' memory alive in the model's list; and one for all, since any
            # small thing kept between the decoder's large and short-lived tensors keeps the heap from shrinking.
            nothing.append(pieces[0].new_empty((*pieces[0].shape[:2], 0, *pieces[0].shape[3:])))
        return nothing * len(pieces) if isinstance(output, list) else nothing[0]

    handle = _last_layer(model.decoder).register_forward_hook(take)
    try:
        model.decode(latents_bcthw)
    finally:
        handle.remove()


def _last_layer(decoder: torch.nn.Module) -> torch.nn.Module:
    """The layer whose outputs are the frames: the head's last convolution, two frames at a time.

    A decoder whose `forward` was replaced or compiled may never call that layer as a module: then the
    decoder itself, whose outputs come in bursts of a whole chunk.
    """
    compiled = getattr(decoder, "_compiled_call_impl", None) is not None or hasattr(decoder, "_orig_mod")
    if compiled or "forward" in vars(decoder):
        return decoder
    return decoder.head[-1]
