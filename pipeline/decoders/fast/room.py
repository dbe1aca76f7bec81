"""How much GPU memory a decode will take, known before the first kernel: its steps run once without any data."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..away import LEAVING
from .network import Bands, WanDecoder
from .weights import Weights


@dataclass(frozen=True, slots=True)
class Measured:
    """Attributes:
    peak: the most that a decode holds on the GPU at a time, weights left out, in bytes.
    away: what it keeps in main memory, in bytes; so much leaves and comes back in each step.
    """

    peak: int
    away: int


def measured(weights: Weights, height: int, width: int, bands: Sequence[Bands] = ()) -> Measured:
    """What a decode takes.

    Args:
        weights: on any device; only shapes are looked at.
        height, width: of the latent.
        bands: see `WanDecoder`.
    """
    meta = _on_meta(weights)
    away: Any = _Away()  # in the place of an `Away`
    with torch.device("meta"), _Counter() as counter:
        decoder = WanDecoder(meta, bands, away)
        latent = torch.empty((1, meta.latent[0].shape[1], height, width), dtype=meta.latent[0].dtype)
        counter.peak = counter.held = 0
        frames: deque[torch.Tensor] = deque(maxlen=1)  # who asked for them has them until the next are there
        for _ in range(3):  # from the third on, all steps are the same
            frames.append(decoder.step(latent))
        return Measured(counter.peak, away.nbytes)


class _Away:
    """Holds what `Away` holds on the GPU: what is coming, and the last groups that leave."""

    def __init__(self) -> None:
        self._leaving: deque[list[torch.Tensor]] = deque(maxlen=LEAVING)
        self._left: dict[Hashable, list[tuple[torch.Size, torch.dtype]]] = {}
        self._coming: dict[Hashable, list[torch.Tensor]] = {}
        self._nbytes: dict[Hashable, int] = {}

    @property
    def nbytes(self) -> int:
        return sum(self._nbytes.values())

    def __contains__(self, key: Hashable) -> bool:
        return key in self._left or key in self._coming

    def put(self, key: Hashable, tensors: list[torch.Tensor]) -> None:
        self._left[key] = [(tensor.shape, tensor.dtype) for tensor in tensors]
        self._nbytes[key] = sum(tensor.nbytes for tensor in tensors)
        self._leaving.append(tensors.copy())
        tensors.clear()

    def fetch(self, key: Hashable) -> None:
        if key in self._left:
            self._coming[key] = [torch.empty(shape, dtype=dtype) for shape, dtype in self._left.pop(key)]

    def take(self, key: Hashable) -> list[torch.Tensor]:
        self.fetch(key)
        return self._coming.pop(key)


class _Counter(TorchDispatchMode):
    """Adds up what the tensors hold that are made in it."""

    def __init__(self) -> None:
        super().__init__()
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.held = self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in [result] if isinstance(result, torch.Tensor) else tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                reference = StorageWeakRef(storage)
                if reference.cdata not in self._live:
                    self._live[reference.cdata] = reference, storage.nbytes()
                    self.held += storage.nbytes()
        if self.held > self.peak:  # what was freed meanwhile is only looked for when it matters
            self._forget()
            self.peak = max(self.peak, self.held)
        return result

    def _forget(self) -> None:
        for cdata in [cdata for cdata, (reference, _) in self._live.items() if reference.expired()]:
            self.held -= self._live.pop(cdata)[1]


def _on_meta(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return torch.empty_like(value, device="meta")
    if isinstance(value, (list, tuple)):
        return type(value)(map(_on_meta, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(
            value, **{field.name: _on_meta(getattr(value, field.name)) for field in dataclasses.fields(value)}
        )
    return value
