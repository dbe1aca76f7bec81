"""A video decoded in overlapping tiles, each frame put out as soon as no later tile touches it.

What ComfyUI's tiles make, bit for bit: each tile is multiplied by a mask that falls off towards its edges and added,
and the sums are divided by the sums of the masks. Here as there the tiles go through time, then from top to bottom,
then from left to right, so each pixel is the sum of the same numbers in the same order; all of it is elementwise in
float32, which rounds alike on CPU and CUDA as long as a product and a sum are two operations.

This module knows nothing of VAEs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Submit = Callable[[torch.Tensor], None]
Axes = tuple[int, int, int]
# As many frames are multiplied by their masks at a time: what that takes is small beside the sums.
FRAMES_AT_A_TIME = 4


@dataclass(frozen=True)
class Tile:
    """A part of a latent, and where its pixels go.

    Attributes:
        at, size: of the latent, (frames, rows, columns).
        pixels_at: of the video, likewise.
    """

    at: Axes
    size: Axes
    pixels_at: Axes

    def of(self, latents_bcthw: torch.Tensor) -> torch.Tensor:
        """This part of (1, C, T, H, W), as a view."""
        for axis in range(3):
            latents_bcthw = latents_bcthw.narrow(axis + 2, self.at[axis], self.size[axis])
        return latents_bcthw


@dataclass(frozen=True)
class Plan:
    """Which tiles a latent is decoded in.

    Attributes:
        rows: the tiles of each stretch of time, in the order in which they are added.
        pixels: (frames, height, width) of the video.
        feather: over how many (frames, rows, columns) of pixels a tile falls off on each side.
    """

    rows: tuple[tuple[Tile, ...], ...]
    pixels: Axes
    feather: Axes

    @property
    def is_one_tile(self) -> bool:
        """Whether there is nothing to blend."""
        return len(self.rows) == len(self.rows[0]) == 1

    @property
    def largest(self) -> Axes:
        """(frames, rows, columns) of a latent as large as the largest tile."""
        return _axes(lambda axis: max(tile.size[axis] for row in self.rows for tile in row))

    def final_before(self, row: int) -> int:
        """The first frame that a tile after this row touches."""
        return self.rows[row + 1][0].pixels_at[0] if row + 1 < len(self.rows) else self.pixels[0]


def plan(
    latent: Axes,
    tile: Axes,
    overlap: Axes,
    length: Callable[[int, int], float],
    position: Callable[[int, int], float],
) -> Plan:
    """The tiles that ComfyUI decodes a latent in.

    Args:
        latent: its (frames, rows, columns).
        tile, overlap: likewise, of latents.
        length: (axis, so many latents) -> how many pixels they make.
        position: (axis, after so many latents) -> at which pixel they begin.
    Raises:
        ValueError: the tiles overlap by all of their size.
    """
    starts = [
        range(0, latent[axis] - overlap[axis], tile[axis] - overlap[axis]) if latent[axis] > tile[axis] else range(1)
        for axis in range(3)
    ]

    def made(at: Axes) -> Tile:
        size = _axes(lambda axis: min(tile[axis], latent[axis] - at[axis]))
        return Tile(at, size, _axes(lambda axis: round(position(axis, at[axis]))))

    return Plan(
        tuple(tuple(made((t, y, x)) for y, x in itertools.product(*starts[1:])) for t in starts[0]),
        _axes(lambda axis: round(length(axis, latent[axis]))),
        _axes(lambda axis: round(length(axis, overlap[axis]))),
    )


def _axes(of: Callable[[int], int]) -> Axes:
    return of(0), of(1), of(2)


def falloff(size: int, feather: int) -> list[torch.Tensor]:
    """What a mask is multiplied by along one axis, one after the other: float32 vectors of `size`, none where it is
    left as it is.

    Near both ends at once, the nearer one's weight is multiplied first: products round.
    """
    if feather >= size:
        return []
    weights = torch.tensor([(step + 1) / feather for step in range(feather)] + [1.0] * (size - feather))
    nearer = [min(at, size - 1 - at) for at in range(size)]
    farther = [size - 1 - at for at in nearer]
    vectors = [weights[nearer], weights[farther]]
    return [vector for vector in vectors if bool((vector != 1.0).any())]


class Masks:
    """The weights of tiles' pixels.

    Args:
        feather: see `Plan`.
        device: where they are made.
    """

    def __init__(self, feather: Axes, device: torch.device):
        self._feather, self._device = feather, device
        self._along: dict[tuple[int, int], list[torch.Tensor]] = {}  # by axis and size

    def of(self, pixels: Axes, start: int, stop: int) -> torch.Tensor:
        """(T, H, W) float32, of the frames `start` to `stop` of a tile of so many (frames, rows, columns)."""
        weights = torch.ones((), device=self._device)
        for axis, size in enumerate(pixels):
            span = slice(start, stop) if axis == 0 else slice(None)
            # Each axis in turn, since products round; and not yet spread over the axes to come.
            weights = weights[..., None].expand(*weights.shape, len(range(size)[span]))
            for vector in self._falloff(axis, size):
                weights = weights * vector[span]
        return weights

    def _falloff(self, axis: int, size: int) -> list[torch.Tensor]:
        if (axis, size) not in self._along:
            vectors = falloff(size, self._feather[axis])
            self._along[axis, size] = [vector.to(self._device) for vector in vectors]
        return self._along[axis, size]


class Sums:
    """The frames that tiles still add to, and the sums of their masks.

    Args:
        pixels: (frames, height, width) of the video.
        device: where they are summed.
    """

    def __init__(self, pixels: Axes, device: torch.device):
        self._pixels, self._device = pixels, device
        self._first = 0  # frame
        self._sums = torch.zeros(3, 0, *pixels[1:], device=device)
        self._weights = torch.zeros(1, 0, *pixels[1:], device=device)

    def reach(self, stop: int) -> None:
        """Make room for the frames up to `stop`, but for none beyond the end."""
        more = min(stop, self._pixels[0]) - self._first - self._sums.shape[1]
        if more > 0:
            self._sums = _with_more(self._sums, more)
            self._weights = _with_more(self._weights, more)

    def add(self, frames_cthw: torch.Tensor, weights_thw: torch.Tensor, at: Axes) -> None:
        """Add a tile's frames at `at`; what would lie beyond the end is left out."""
        self.reach(at[0] + frames_cthw.shape[1])
        frames_cthw = frames_cthw.to(self._device)
        parts = []
        for axis, (start, size) in enumerate(zip(at, frames_cthw.shape[1:])):
            stop = max(start, min(start + size, self._pixels[axis]))
            frames_cthw = frames_cthw.narrow(axis + 1, 0, stop - start)
            weights_thw = weights_thw.narrow(axis, 0, stop - start)
            parts.append(slice(start, stop))
        parts[0] = slice(parts[0].start - self._first, parts[0].stop - self._first)
        # Never in one operation: a fused product and sum round once and not twice.
        here = (slice(None), *parts)
        self._sums[here].add_(frames_cthw * weights_thw)
        self._weights[here].add_(weights_thw)

    def take(self, stop: int) -> torch.Tensor:
        """(3, T, H, W), the frames up to `stop`, which no tile adds to any more."""
        self.reach(stop)
        count = stop - self._first
        done = self._sums[:, :count].div_(self._weights[:, :count])
        # Copies: views would keep the frames that are done.
        self._sums, self._weights = self._sums[:, count:].clone(), self._weights[:, count:].clone()
        self._first = stop
        return done


def _with_more(frames: torch.Tensor, more: int) -> torch.Tensor:
    larger = frames.new_zeros(frames.shape[0], frames.shape[1] + more, *frames.shape[2:])
    larger[:, : frames.shape[1]] = frames
    return larger


def decode(
    latents_bcthw: torch.Tensor,
    plan: Plan,
    decode_tile: Callable[[torch.Tensor], torch.Tensor],
    submit: Submit,
    sums_on: torch.device,
    device: torch.device,
) -> None:
    """Decode videos tile by tile, submitting the frames of each stretch of time when its last tile is added.

    Args:
        latents_bcthw: (B, C, T, H, W), any dtype, anywhere; one video after the other.
        plan: of one of them.
        decode_tile: (1, C, t, h, w), a view of `latents_bcthw`, -> (1, 3, T, H, W) in float32 or float16.
        submit: receives (3, T, H, W) pieces on `device`, float32 unless there is only one tile.
        sums_on: where tiles are summed: 16 bytes for each pixel of the frames of a tile's length, whatever the
            video's.
        device: where pieces are wanted.
    Stream: kernels are launched on the caller's current stream.
    """
    masks = Masks(plan.feather, sums_on)
    for video_1cthw in latents_bcthw.split(1):
        if plan.is_one_tile:
            submit(decode_tile(video_1cthw)[0])
            continue
        sums = Sums(plan.pixels, sums_on)
        for number, row in enumerate(plan.rows):
            for tile in row:
                add(decode_tile(tile.of(video_1cthw))[0], tile.pixels_at, sums, masks)
            _submit(sums.take(plan.final_before(number)), submit, device)


def _submit(frames_cthw: torch.Tensor, submit: Submit, device: torch.device) -> None:
    # A function of its own, so that nothing holds these frames while the next tile is decoded.
    for few_cthw in few_at_a_time(frames_cthw):
        submit(few_cthw.to(device))


def add(frames_cthw: torch.Tensor, at: Axes, sums: Sums, masks: Masks) -> None:
    """Add all frames of a tile."""
    pixels = frames_cthw.shape[1:]
    sums.reach(at[0] + pixels[0])  # at once, and not anew for every few
    start = 0
    for few_cthw in few_at_a_time(frames_cthw):
        stop = start + few_cthw.shape[1]
        sums.add(few_cthw, masks.of(pixels, start, stop), (at[0] + start, *at[1:]))
        start = stop


def few_at_a_time(frames_cthw: torch.Tensor) -> Sequence[torch.Tensor]:
    return frames_cthw.split(FRAMES_AT_A_TIME, dim=1)
