"""What a call takes on this machine's GPU, and this pack's modules as ComfyUI loaded them."""

import gc
import sys
import time

import torch

import nodes


def ours(node_id):
    """The module of one of this pack's nodes, as ComfyUI loaded it."""
    return sys.modules[nodes.NODE_CLASS_MAPPINGS[node_id].__module__]


def decoding():
    return ours("AsyncVAEDecodeVideo").decoding


def allocated():
    """Bytes of GPU memory that tensors hold now."""
    gc.collect()
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def measured(function):
    """Seconds, and the most GPU memory allocated at once, weights of all that is loaded included; and the result.

    Weights that ComfyUI pages in as they are used (dynamic VRAM) are not torch's, and not counted. Without a GPU,
    in a rehearsal, no memory is.
    """
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    result = function()
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "peak_bytes": torch.cuda.max_memory_allocated() if on_gpu else 0}, result
