"""What a decoder remembers, in main memory until it is needed again: the lanes of `ring`, turned round.

Tensors leave on one stream and come back on another, into and out of page-locked memory, while the decoder computes.

Note [The barriers of what is away]
    made      The stream out waits for the decoder before it reads what is to leave. Without it main memory gets what
              was there before.
    out       The stream back waits for what it is to bring: it may not have left yet. Without it an older
              piece of the video comes back.
    back      The decoder waits before it reads what comes back. Without it, it reads a buffer that is being filled.
    used      The stream back waits for the decoder before it fills GPU memory: what was there may still be read.
              Without it what comes lands on that.
    free      The GPU memory of what left is given up when the decoder has waited for that: what it makes next lands
              there. Without it that lands on what is still being copied.
    All GPU memory is the decoder's stream's: memory that is given up on one stream and wanted on another is often not
    found again by cudaMallocAsync, which then ran out with 7 GB reserved for 1 GB of tensors.
    That main memory is not overwritten while it is being read needs no barrier of its own: a group is put again
    only after it was taken, and `made` stands behind `back`.
    tests/cuda/test_away.py removes each in turn; tests/unit/test_away_barriers.py does so without a GPU.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence

import torch

from ..main_memory import in_huge_pages, page_lock, page_unlock, unpin_all

# Groups that are on their way out at a time: the decoder waits for the oldest. What is on its way holds GPU memory.
LEAVING = 1
# Tensors begin at multiples of this in a group's memory.
ALIGNMENT = 256


class Away:
    """Groups of tensors that are either on the GPU, in the hands of who uses them, or here.

    A group keeps its place in main memory from its first time on, as long as its tensors do not grow. They come back
    with the strides that they had, by which cuDNN chooses its kernels.

    Args:
        device: where the tensors are used. On the CPU, where there is nothing to be won, everything works as well.
        pin, unpin: see `ring.Ring`.
    Stream: `put`, `fetch` and `take` are called on the stream that the decoder computes on, and do not wait for it.
    """

    def __init__(
        self,
        device: torch.device,
        pin: Callable[[torch.Tensor], bool] = page_lock,
        unpin: Callable[[torch.Tensor], None] = page_unlock,
    ):
        self._device, self._pin, self._unpin = device, pin, unpin
        self._streams = (torch.cuda.Stream(device), torch.cuda.Stream(device)) if device.type == "cuda" else None
        self._places: dict[Hashable, list[torch.Tensor]] = {}  # bytes, for each tensor of a group
        self._host: dict[Hashable, list[torch.Tensor]] = {}  # those bytes as the tensor they hold
        self._pinned: list[torch.Tensor] = []
        self._left: dict[Hashable, torch.cuda.Event | None] = {}
        self._coming: dict[Hashable, tuple[list[torch.Tensor], torch.cuda.Event | None]] = {}
        self._leaving: deque[tuple[torch.cuda.Event, list[torch.Tensor]]] = deque()
        self._waits: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        self._waited_seconds = 0.0

    def __contains__(self, key: Hashable) -> bool:
        """Whether a group is here, to be taken."""
        return key in self._left or key in self._coming

    @property
    def nbytes(self) -> int:
        """Of main memory that is held."""
        return sum(place.nbytes for group in self._places.values() for place in group)

    def put(self, key: Hashable, tensors: list[torch.Tensor], growth: int = 1) -> None:
        """Send a group away. The list is emptied, so that nobody holds its memory.

        Args:
            growth: how many times as large its tensors will be later.
        """
        if key in self._coming:
            self.take(key)  # in vain; but nobody else may have its memory while that is being filled
        hosts = self._host[key] = self._room(key, tensors, growth)
        if self._streams is None:
            for host, tensor in zip(hosts, tensors):
                host.copy_(tensor)
            self._left[key] = None
            tensors.clear()
            return
        out, _ = self._streams
        self.fence_made(out)
        with torch.cuda.stream(out):
            for host, tensor in zip(hosts, tensors):
                host.copy_(tensor, non_blocking=True)
            event = out.record_event()
        self._left[key] = event
        self._leaving.append((event, tensors.copy()))
        tensors.clear()
        while len(self._leaving) > LEAVING:
            self.free(*self._leaving.popleft())

    def fetch(self, key: Hashable) -> None:
        """Begin to bring a group back, if it is here and not on its way already.

        If the GPU's memory does not suffice, it is still here.
        """
        if key not in self._left:
            return
        event, hosts = self._left[key], self._host[key]
        if self._streams is None:
            self._coming[key] = [host.to(self._device, copy=True) for host in hosts], None
        else:
            _, back = self._streams
            tensors = [torch.empty_like(host, device=self._device) for host in hosts]
            self.fence_used(back)
            self.fence_out(back, event)
            with torch.cuda.stream(back):
                for host, tensor in zip(hosts, tensors):
                    tensor.copy_(host, non_blocking=True)
                self._coming[key] = tensors, back.record_event()
        del self._left[key]

    def take(self, key: Hashable) -> list[torch.Tensor]:
        """A group back on the GPU, for the caller's stream."""
        self.fetch(key)
        tensors, event = self._coming.pop(key)
        if event is not None:
            stream = torch.cuda.current_stream(self._device)
            began = stream.record_event(torch.cuda.Event(enable_timing=True))
            self.fence_back(stream, event)
            self._waits.append((began, stream.record_event(torch.cuda.Event(enable_timing=True))))
            while len(self._waits) > 1 and self._waits[0][1].query():
                self._add_wait()
        return tensors

    def waited_seconds(self) -> float:
        """How long the decoder has waited for what was to come back. Waits for the last of it."""
        while self._waits:
            self._waits[0][1].synchronize()
            self._add_wait()
        return self._waited_seconds

    def _add_wait(self) -> None:
        began, ended = self._waits.popleft()
        self._waited_seconds += began.elapsed_time(ended) / 1000

    def close(self) -> None:
        """Wait for all copies and give all memory back, whatever was done before. After this, `put` begins anew.

        Must be called: copies may be under way into memory that would be freed under them, and what is page-locked
        stays so.
        """
        if self._streams is not None:
            for stream in self._streams:  # and with them for the decoder, behind which they are
                stream.synchronize()
        self._leaving.clear()
        self._coming.clear()
        self._left.clear()
        unpin_all(self._pinned, self._unpin)
        self._host.clear()
        self._places.clear()

    def fence_made(self, out: torch.cuda.Stream) -> None:
        """Barrier `made`: see Note [The barriers of what is away]."""
        out.wait_stream(torch.cuda.current_stream(self._device))

    def fence_out(self, back: torch.cuda.Stream, event: torch.cuda.Event) -> None:
        """Barrier `out`: see Note [The barriers of what is away]."""
        back.wait_event(event)

    def fence_back(self, stream: torch.cuda.Stream, event: torch.cuda.Event) -> None:
        """Barrier `back`: see Note [The barriers of what is away]."""
        stream.wait_event(event)

    def fence_used(self, back: torch.cuda.Stream) -> None:
        """Barrier `used`: see Note [The barriers of what is away]."""
        back.wait_stream(torch.cuda.current_stream(self._device))

    def free(self, event: torch.cuda.Event, tensors: Sequence[torch.Tensor]) -> None:
        """Barrier `free`: see Note [The barriers of what is away]."""
        torch.cuda.current_stream(self._device).wait_event(event)

    def _room(self, key: Hashable, tensors: Sequence[torch.Tensor], growth: int) -> list[torch.Tensor]:
        """Where a group's tensors are kept; made for those that do not fit."""
        places = self._places.setdefault(key, [])
        places.extend(torch.empty(0, dtype=torch.uint8) for _ in tensors[len(places) :])
        new = {at: tensor.nbytes * growth for at, tensor in enumerate(tensors) if places[at].nbytes < tensor.nbytes}
        if new:
            block = _touched(sum(map(_aligned, new.values())))
            if self._streams is not None and self._pin(block):
                self._pinned.append(block)
            start = 0
            for at, nbytes in new.items():
                places[at] = block[start : start + nbytes]
                start += _aligned(nbytes)
        return [_as(tensor, place) for tensor, place in zip(tensors, places)]


def _as(tensor: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Bytes as a tensor like this one: with the order of its strides, without gaps."""
    strides = torch.empty_like(tensor, device="meta").stride()
    return place[: tensor.nbytes].view(tensor.dtype).as_strided(tensor.shape, strides)


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def _touched(nbytes: int) -> torch.Tensor:
    """Main memory whose pages are there: torch fills it on all cores, page-locking would make them one by one."""
    return in_huge_pages((nbytes,), torch.uint8).zero_()
