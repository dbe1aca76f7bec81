"""Sinks and decoders the lane tests are built from."""

import threading

import torch
from async_frame_pipeline.pipeline.pixels import PixelFormat


def clip(frames: int, height: int = 6, width: int = 10, device: str = "cpu") -> torch.Tensor:
    """(3, T, H, W) noise in about [-1, 1]; every frame differs from every other."""
    generator = torch.Generator().manual_seed(frames)
    return torch.randn(3, frames, height, width, generator=generator).mul_(0.5).to(device)


def as_image(frames_cthw: torch.Tensor) -> torch.Tensor:
    """What the stock VAE makes of the same output: (T, H, W, 3) float32 in [0, 1], on the CPU."""
    return frames_cthw.float().add(1.0).div(2.0).clamp(0.0, 1.0).permute(1, 2, 3, 0).cpu()


def in_chunks(frames_cthw: torch.Tensor, *sizes: int):
    """A decoder that submits chunks of these sizes, over and over."""

    def decode(submit):
        start, turn = 0, 0
        while start < frames_cthw.shape[1]:
            size = sizes[turn % len(sizes)]
            submit(frames_cthw[:, start : start + size])
            start, turn = start + size, turn + 1

    return decode


class ListSink:
    """Keeps a copy of all it is given, and what was done to it; can be told to fail or to wait."""

    pixel_format = PixelFormat.RGB_F32
    name = "the list"
    advice = "a shorter list"
    held_frames = 0

    def __init__(self, fail_at: int | None = None, fail_on: str | None = None, gate: threading.Event | None = None):
        self.calls: list[str] = []
        self.chunks: list[torch.Tensor] = []
        self._fail_at = fail_at
        self._fail_on = fail_on
        self._gate = gate

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if self._fail_on == name:
            raise OSError(f"the sink fails on {name}")

    def open(self, spec):
        self._called("open")

    def write(self, pixels):
        if self._gate is not None:
            assert self._gate.wait(60), "the test never opened the gate"
        self._called("write")
        if self._fail_at is not None and sum(len(chunk) for chunk in self.chunks) >= self._fail_at:
            raise OSError(f"the sink fails at frame {self._fail_at}")
        self.chunks.append(pixels.clone())

    def finish(self):
        self._called("finish")

    def publish(self):
        self._called("publish")

    def abort(self):
        self._called("abort")

    @property
    def frames(self) -> torch.Tensor:
        return torch.cat(self.chunks)


class Kept(ListSink):
    """Only what was written since it was last opened counts, as in a file."""

    def open(self, spec):
        super().open(spec)
        self.chunks.clear()


def out_of_memory():
    raise torch.OutOfMemoryError("a test's")


def another_error():
    raise RuntimeError("a test's")
