"""The list in which Wan's modules keep what their causal convolutions remember, a part of it in main memory."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch

from .away import Away

# How many histories are brought back ahead of the one that is wanted. With one, decoding took three times as long on
# an H100, since the time to bring the largest back is about that of one convolution.
AHEAD = 2


class Histories(list):
    """Stands in for a list of None, a history's tensor, or a word of the modules' own at each place.

    Tensors stay on the GPU up to a limit, in the order in which they come; the others wait in main memory, and come
    back, as they were, when they are read. They are then held until something else is put in their place.

    Args:
        away: where they wait; closed by the caller.
        bytes_here: how much may stay on the GPU.
    Stream: the caller's, always the same.
    """

    def __init__(self, away: Away, bytes_here: float = math.inf):
        super().__init__()
        self._away, self._bytes_here = away, bytes_here
        self._sent: set[int] = set()  # places whose tensors do not stay
        self._back: dict[int, torch.Tensor] = {}  # those that were read and not yet replaced
        self._read: list[int] = []  # places, as this piece reads them
        self._read_before: list[int] = []  # as the piece before did
        self._pieces = 0

    def begin_piece(self, places: int) -> None:
        """Before the modules go through the list for one more piece of the video."""
        if not self:
            self.extend([None] * places)
        self._pieces += 1
        self._read_before, self._read = self._read, []

    def __getitem__(self, at: Any) -> Any:
        if self._read[-1:] != [at]:
            self._read.append(at)
        value = super().__getitem__(at)
        if not isinstance(value, _Sent):
            return value
        if at not in self._back:
            [self._back[at]] = self._away.take(value.place)
            self._fetch_ahead()
        return self._back[at]

    def __setitem__(self, at: Any, value: Any) -> None:
        self._back.pop(at, None)
        super().__setitem__(at, None)
        if not isinstance(value, torch.Tensor) or not self._is_to_leave(at, value):
            super().__setitem__(at, value)
            return
        self._sent.add(at)
        super().__setitem__(at, _Sent(at))
        # A video begins with a single latent frame, of which a convolution remembers one frame and not two.
        self._away.put(at, [value], growth=2 if self._pieces == 1 else 1)

    def _is_to_leave(self, at: int, value: torch.Tensor) -> bool:
        here = sum(other.nbytes for other in self if isinstance(other, torch.Tensor))
        growth = 2 if self._pieces == 1 else 1
        return at in self._sent or (here + value.nbytes) * growth > self._bytes_here

    def __iter__(self) -> Iterator[Any]:
        return (super(Histories, self).__getitem__(at) for at in range(len(self)))

    def _fetch_ahead(self) -> None:
        """What the piece before read next; after its end, what it began with. 2.1 reads some places several times."""
        done = len(self._read)
        if self._read != self._read_before[:done]:
            return
        following = self._read_before[done:] + self._read_before[:done]
        away = (place for place in following if isinstance(super(Histories, self).__getitem__(place), _Sent))
        for place in itertools.islice(away, AHEAD):
            with contextlib.suppress(torch.OutOfMemoryError):  # then when it is wanted
                self._away.fetch(place)


class _Sent:
    """Marks a place whose tensor waits in main memory."""

    __slots__ = ("place",)

    def __init__(self, place: int):
        self.place = place
