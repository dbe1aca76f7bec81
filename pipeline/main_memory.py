"""Main memory that is quick to fill and to copy into."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch


def in_huge_pages(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """A contiguous tensor in main memory, uninitialised: in numpy's, since numpy asks Linux for huge pages.

    Pages are made when they are first used, small ones one by one. 4 GiB were made, filled by torch on all cores,
    page-locked and given back in 0.40 s, torch's in 0.78 s (beside an H200).
    """
    return torch.from_numpy(np.empty(math.prod(shape) * dtype.itemsize, dtype=np.uint8)).view(dtype).view(tuple(shape))


def copied(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor without gaps, and not empty, in main memory, with its strides."""
    return in_huge_pages(tensor.shape, tensor.dtype).as_strided(tensor.shape, tensor.stride()).copy_(tensor)


def page_lock(host: torch.Tensor) -> bool:
    """Page-lock a contiguous CPU tensor so that copies from the GPU run by themselves; False if refused."""
    if torch.cuda.cudart().cudaHostRegister(host.data_ptr(), host.nbytes, 0) == 0:
        return True
    # CUDA keeps an error until somebody asks for the last one, and torch asks after each kernel it launches: the next
    # one would fail for nothing. This one is launched to do so (not zeros, which are no kernel).
    with contextlib.suppress(RuntimeError):
        torch.ones(1, device="cuda")
    return False


def page_unlock(host: torch.Tensor) -> None:
    """Undo `page_lock`, before the tensor is freed."""
    torch.cuda.cudart().cudaHostUnregister(host.data_ptr())


def unpin_all(pinned: list[torch.Tensor], unpin: Callable[[torch.Tensor], object]) -> None:
    """Undo page-locking and forget what was locked; does not raise."""
    while pinned:
        try:
            unpin(pinned.pop())
        except Exception as error:  # the others' pages are to go all the same
            logging.warning("async-frame-pipeline: memory could not be unpinned: %s", error)
