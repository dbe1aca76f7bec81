"""As much of torch as `Away` and its tests use, on a GPU that is only thought of: streams, events, the allocator.

Time is a number. A call takes the host some of it, a kernel or a copy its stream. What one of them reads is what was in
memory when it began, what it writes is there when it ends; so who does not wait gets what he would get on a GPU, each
time. Memory holds one number for a whole tensor, None where nobody wrote.
"""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace

COPY_SECONDS, KERNEL_SECONDS, CYCLE_SECONDS = 0.4e-3, 10e-6, 0.5e-9


class Memory:
    """A tensor's place, on the GPU or page-locked."""

    addresses = itertools.count()

    def __init__(self) -> None:
        self.address = next(Memory.addresses)
        self.free_at = 0.0


class Gpu:
    """Stands in for `torch`.

    Args:
        host_seconds: what each call takes.
    """

    int64 = int

    def __init__(self, host_seconds: float):
        self.now, self.host_seconds = 0.0, host_seconds
        self._done: list[tuple[float, float, list[Memory], Memory | None, Callable]] = []
        self._streams: list[_Stream] = []
        self._wrong = 0
        self._current = _Stream(self)
        self.cuda = SimpleNamespace(
            Stream=lambda device: _Stream(self),
            Event=lambda **options: _Event(self),
            stream=self._as_current,
            current_stream=lambda device: self._current,
            synchronize=lambda device: [stream.synchronize() for stream in self._streams],
            empty_cache=lambda: None,
            _sleep=lambda cycles: self.launch(cycles * CYCLE_SECONDS, [], None, lambda: None),
        )

    @contextlib.contextmanager
    def _as_current(self, stream: _Stream) -> Iterator[None]:
        before, self._current = self._current, stream
        try:
            yield
        finally:
            self._current = before

    def launch(self, seconds: float, reads: list[Memory], writes: Memory | None, function: Callable) -> None:
        """Something of the current stream: function(*what was read) is what it writes."""
        self.now += self.host_seconds
        begin = max(self.now, self._current.ends)
        self._current.ends = begin + seconds
        self._done.append((begin, begin + seconds, reads, writes, function))

    def allocate(self, tensor: Tensor) -> Memory:
        """As torch does: what the same stream has given up, the lowest address first, else something new."""
        self.now += self.host_seconds
        stream, used_by = self._current, tensor.used_by
        free = [memory for memory in stream.given_up if memory.free_at <= self.now]
        memory = min(free, key=lambda memory: memory.address) if free else Memory()
        if free:
            stream.given_up.remove(memory)

        def give_up() -> None:
            memory.free_at = max((other.ends for other in used_by), default=0.0)
            stream.given_up.append(memory)

        weakref.finalize(tensor, give_up)
        return memory

    # -- tensors

    def zeros(self, shape, dtype, device) -> _Wrong:
        return _Wrong(self)

    def empty(self, shape, device) -> Tensor:
        return Tensor(self)

    def empty_like(self, tensor, device=None) -> Tensor:
        return Tensor(self)

    def full(self, shape, value, device) -> Tensor:
        tensor = Tensor(self)
        self.launch(KERNEL_SECONDS, [], tensor.memory, lambda: value)
        return tensor

    def add(self, tensor, number, out) -> None:
        def plus(value):
            return None if value is None else value + number

        self.launch(KERNEL_SECONDS, [tensor.memory], out.memory, plus)

    def count_wrong(self) -> int:
        """Go through everything in the order of time."""
        times = [(begin, False, at) for at, (begin, *_) in enumerate(self._done)]
        times += [(end, True, at) for at, (_, end, *_) in enumerate(self._done)]
        values: dict[Memory, float | None] = {}
        seen: dict[int, list] = {}
        for _, is_end, at in sorted(times):
            *_, reads, writes, function = self._done[at]
            if not is_end:
                seen[at] = [values.get(memory) for memory in reads]
            elif writes is None:
                function(*seen.pop(at))
            else:
                values[writes] = function(*seen.pop(at))
        return self._wrong

    def compare(self, tensor: Tensor, number: float) -> int:
        def check(value):
            self._wrong += value != number

        self.launch(KERNEL_SECONDS, [tensor.memory], None, check)
        return 0


class Tensor:
    nbytes = 1

    def __init__(self, gpu: Gpu, memory: Memory | None = None):
        self._gpu = gpu
        self.used_by: list[_Stream] = []
        self.memory = memory or gpu.allocate(self)

    def data_ptr(self) -> int:
        return self.memory.address

    def record_stream(self, stream) -> None:
        self.used_by.append(stream)

    def copy_(self, source, non_blocking) -> None:
        assert non_blocking
        self._gpu.launch(COPY_SECONDS, [source.memory], self.memory, lambda value: value)

    def __iadd__(self, number):
        self._gpu.add(self, number, self)
        return self

    def __ne__(self, number):
        return SimpleNamespace(sum=lambda: self._gpu.compare(self, number))


class _Wrong:
    """The count of wrong numbers."""

    def __init__(self, gpu: Gpu):
        self._gpu = gpu

    def __iadd__(self, nothing_yet):
        return self

    def __int__(self) -> int:
        return self._gpu.count_wrong()


class _Stream:
    def __init__(self, gpu: Gpu):
        self._gpu, self.ends = gpu, 0.0
        self.given_up: list[Memory] = []
        gpu._streams.append(self)

    def wait_stream(self, other) -> None:
        self.ends = max(self.ends, other.ends)

    def wait_event(self, event) -> None:
        self.ends = max(self.ends, event.at)

    def record_event(self, event=None):
        self._gpu.now += self._gpu.host_seconds
        event = event or _Event(self._gpu)
        event.at = max(self.ends, self._gpu.now)
        return event

    def synchronize(self) -> None:
        self._gpu.now = max(self._gpu.now, self.ends)


class _Event:
    def __init__(self, gpu: Gpu):
        self._gpu, self.at = gpu, 0.0

    def synchronize(self) -> None:
        self._gpu.now = max(self._gpu.now, self.at)

    def query(self) -> bool:
        return self.at <= self._gpu.now

    def elapsed_time(self, end) -> float:
        return (end.at - self.at) * 1e3
