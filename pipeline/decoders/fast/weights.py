"""A Wan VAE's state dict -> the decoder's layers, folded, transformed and laid out for the kernels.

Knows the names in Wan's checkpoints; nothing else does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch

from .winograd import fit, row_points, weight_points

# As what weights and activations are kept, by the type of the device.
DTYPES = {"cuda": torch.float16, "cpu": torch.float32}
# Twice that, which is what sums of frames can come to, is within float16's range.
LARGEST_INPUT = 32768.0
# On a CPU, channels from which on four frames are made at a time: there products cost so much more than sums that more
# of those are worth it. What is narrower keeps the smaller error of two.
WIDE = 96
# What runs through the blocks, from sum to sum, is kept at this scale, so that it may grow to a million; the norms do
# not see a scale. Everything else is bounded by the norms before it, or fitted to float16 below.
STREAM_SCALE = 2.0**-4


@dataclass(slots=True)
class Conv:
    """A convolution.

    Attributes:
        weight: (out, in, kt, kh, kw) or (out, in, kh, kw), channels last.
        bias: (out,) float32.
        scale: what its outputs are to be multiplied by before the bias is added.

    For `cpu` a convolution over time is (out, kt * in, 1), of frames side by side, and that of an upsampling what
    `cpu.enlarge` takes.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    scale: float = 1.0


@dataclass(slots=True)
class PointsConv:
    """A 3x3x3 convolution that makes 2 or 4 frames at a time out of 4 or 6 products (see `winograd`).

    Attributes:
        points: tensors (out, in, 3, 3), channels last; the last is the newest frame's tap.
        bias: (out,) float32.
        scale: what products are to be multiplied by before the bias is added.
    """

    points: list[torch.Tensor]
    bias: torch.Tensor
    scale: float


@dataclass(slots=True)
class RowConv:
    """A 3x3x3 convolution for `cpu`, which makes two rows at a time, of 1, 2 or 4 frames (see `winograd`).

    Attributes:
        points: of time, the newest tap last, or one for 1 frame: its input is three frames side by side.
            Each is four tensors (out, in, 3), the points of rows.
        bias: (out,) float32.
    """

    points: list[list[torch.Tensor]]
    bias: torch.Tensor


AnyConv: TypeAlias = "Conv | PointsConv | RowConv"


@dataclass(slots=True)
class Residual:
    """norm, silu, conv, norm, silu, conv, plus the input, itself through a 1x1 convolution if widths differ."""

    gamma1: torch.Tensor
    conv1: AnyConv
    gamma2: torch.Tensor
    conv2: AnyConv
    shortcut: tuple[torch.Tensor, torch.Tensor] | None


@dataclass(slots=True)
class Attention:
    gamma: torch.Tensor
    qkv: tuple[torch.Tensor, torch.Tensor]
    proj: tuple[torch.Tensor, torch.Tensor]


@dataclass(slots=True)
class Upsample:
    """Twice the width and height, and where `time` is given twice the frames.

    Attributes:
        time: the two halves of the time convolution: first the even new frames, then the odd ones.
        space: nearest doubling and its 3x3 convolution folded into one 2x2 convolution at the low resolution (see
            `_fold_upsampling`).
        shortcut: whether the block's input is spread over its output (Wan 2.2).
    """

    time: tuple[Conv, Conv] | None
    space: Conv
    shortcut: bool


@dataclass(slots=True)
class Stage:
    """Blocks at one resolution, and what leads to the next."""

    blocks: list[Residual]
    upsample: Upsample | None


@dataclass(slots=True)
class Weights:
    """All of a decoder.

    Attributes:
        patch: 1, or 2 where each output pixel is a 2x2 block (Wan 2.2).
        in_rows: whether it is laid out for `cpu`.
    """

    latent: tuple[torch.Tensor, torch.Tensor]
    conv_in: Conv | RowConv
    middle: tuple[Residual, Attention, Residual]
    stages: list[Stage]
    head_gamma: torch.Tensor
    head: Conv
    patch: int
    in_rows: bool


def load(
    state: Mapping[str, torch.Tensor], device: torch.device, dtype: torch.dtype, in_rows: bool | None = None
) -> Weights:
    """Read a Wan 2.1 or 2.2 VAE of any width.

    Args:
        state: its state dict, as in the published files and in ComfyUI's modules; only the decoder is read.
        device: where the decoder is to run.
        dtype: as what: float16, or float32. float16 for bfloat16 weights too: it keeps three bits more of every
            activation, which leaves a tenth of the error, and scales take care of its range.
        in_rows: lay them out for `cpu`; None: if they are to run on a CPU in float32.
    Raises:
        ValueError: the names or shapes are not those of a Wan VAE, or its weights too large for float16.
    """
    if device.type == "cuda" and dtype != torch.float16:
        raise ValueError(f"on a GPU the decoder runs in float16, and not in {dtype}")
    if in_rows is None:
        in_rows = device.type == "cpu" and dtype == torch.float32
    try:
        return (_RowReader if in_rows else _Reader)(state, device, dtype).weights()
    except KeyError as error:
        raise ValueError(f"this is not the state dict of a Wan 2.1 or 2.2 VAE: {error.args[0]} is missing") from error


class _Reader:
    in_rows = False
    stream_scale = STREAM_SCALE

    def __init__(self, state: Mapping[str, torch.Tensor], device: torch.device, dtype: torch.dtype):
        self._state, self._device, self._dtype = state, device, dtype

    def weights(self) -> Weights:
        wan22 = "decoder.upsamples.0.upsamples.0.residual.2.weight" in self._state
        return Weights(
            latent=self._linear("conv2"),
            conv_in=self._conv_in(),
            middle=(
                self._residual("decoder.middle.0"),
                self._attention("decoder.middle.1"),
                self._residual("decoder.middle.2"),
            ),
            stages=self._nested_stages() if wan22 else self._flat_stages(),
            head_gamma=self._gamma("decoder.head.0"),
            head=self._head(),
            patch=2 if wan22 else 1,
            in_rows=self.in_rows,
        )

    def _flat_stages(self) -> list[Stage]:
        """Wan 2.1: one list; an upsampling layer ends a stage."""
        stages, index, frames = [Stage([], None)], 0, 1
        while True:
            name = f"decoder.upsamples.{index}"
            if f"{name}.residual.0.gamma" in self._state:
                stages[-1].blocks.append(self._residual(name, frames))
            elif f"{name}.resample.1.weight" in self._state:
                stages[-1].upsample = self._upsample(name, shortcut=False)
                stages.append(Stage([], None))
                frames *= self._factor_t(name)
            else:
                return stages
            index += 1

    def _nested_stages(self) -> list[Stage]:
        """Wan 2.2: a list of stages, each a list whose last layer may upsample."""
        stages: list[Stage] = []
        frames = 1
        while f"decoder.upsamples.{len(stages)}.upsamples.0.residual.0.gamma" in self._state:
            name = f"decoder.upsamples.{len(stages)}.upsamples"
            blocks: list[Residual] = []
            while f"{name}.{len(blocks)}.residual.0.gamma" in self._state:
                blocks.append(self._residual(f"{name}.{len(blocks)}", frames))
            last = f"{name}.{len(blocks)}"
            upsamples = f"{last}.resample.1.weight" in self._state
            stages.append(Stage(blocks, self._upsample(last, shortcut=True) if upsamples else None))
            frames *= self._factor_t(last)
        return stages

    def _factor_t(self, upsample: str) -> int:
        return 2 if f"{upsample}.time_conv.weight" in self._state else 1

    def _residual(self, name: str, frames: int = 1) -> Residual:
        shortcut = None
        if f"{name}.shortcut.weight" in self._state:
            shortcut = self._linear(f"{name}.shortcut", bias_scale=self.stream_scale)
        gammas = [self._gamma(f"{name}.residual.{index}") for index in (0, 3)]
        convs = [self._conv(f"{name}.residual.{index}", frames, gamma) for index, gamma in zip((2, 6), gammas)]
        return Residual(gammas[0], convs[0], gammas[1], convs[1], shortcut)

    def _conv_in(self) -> Conv | RowConv:
        return self._laid_out(*(self.stream_scale * part for part in self._pair("decoder.conv1")))

    def _attention(self, name: str) -> Attention:
        proj = self._linear(f"{name}.proj", self.stream_scale, self.stream_scale)
        return Attention(self._gamma(f"{name}.norm"), self._linear(f"{name}.to_qkv"), proj)

    def _upsample(self, name: str, shortcut: bool) -> Upsample:
        time = None
        if self._factor_t(name) == 2:
            weight, bias = self._pair(f"{name}.time_conv")
            even, odd = zip(weight.chunk(2), (self.stream_scale * bias).chunk(2))
            time = self._over_time(*even), self._over_time(*odd)
        weight, bias = self._pair(f"{name}.resample.1")
        return Upsample(time, self._enlarging(_fold_upsampling(weight), self.stream_scale * bias), shortcut)

    def _enlarging(self, weight: torch.Tensor, bias: torch.Tensor) -> Conv:
        return self._laid_out(weight, bias)

    def _conv(self, name: str, frames: int, gamma: torch.Tensor) -> AnyConv:
        """A block's convolution, of input that is normalised with `gamma`, making `frames` at a time."""
        weight, bias = self._pair(name)
        if frames == 1:
            weight, scale = fit(weight, 27**0.5 * _largest_input(gamma))
            return self._laid_out(weight, self.stream_scale * bias, self.stream_scale * scale)
        points, scale = weight_points(weight, frames, _largest_input(gamma))
        points = [self._channels_last(point) for point in points]
        return PointsConv(points, self.stream_scale * bias, self.stream_scale * scale)

    def _head(self) -> Conv:
        _largest_input(self._gamma("decoder.head.0"))
        return self._laid_out(*self._pair("decoder.head.2"))

    def _over_time(self, weight: torch.Tensor, bias: torch.Tensor) -> Conv:
        return self._laid_out(weight, bias)

    def _laid_out(self, weight: torch.Tensor, bias: torch.Tensor, scale: float = 1.0) -> Conv:
        return Conv(self._channels_last(weight), bias, scale)

    def _linear(self, name: str, scale: float = 1.0, bias_scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        """A 1x1 convolution as a matrix."""
        weight, bias = self._pair(name)
        return (scale * weight.flatten(1)).to(self._dtype), (bias_scale * bias).to(self._dtype)

    def _pair(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias in float32, on the device: folding is quick there."""
        weight, bias = self._state[f"{name}.weight"], self._state[f"{name}.bias"]
        return weight.to(self._device).float(), bias.to(self._device).float()

    def _gamma(self, name: str) -> torch.Tensor:
        return self._state[f"{name}.gamma"].flatten().to(self._device, torch.float32)

    def _channels_last(self, weight: torch.Tensor) -> torch.Tensor:
        layout = torch.channels_last_3d if weight.ndim == 5 else torch.channels_last
        return weight.to(self._dtype).contiguous(memory_format=layout)


class _RowReader(_Reader):
    """For `cpu`: in float32, so that nothing is to be scaled."""

    in_rows = True
    stream_scale = 1.0

    def _conv_in(self) -> RowConv:
        weight, bias = self._pair("decoder.conv1")
        return RowConv(row_points(weight, 1), bias)

    def _conv(self, name: str, frames: int, gamma: torch.Tensor) -> RowConv:
        weight, bias = self._pair(name)
        if min(weight.shape[:2]) < WIDE:
            frames = min(frames, 2)
        return RowConv(row_points(weight, frames), bias)

    def _over_time(self, weight: torch.Tensor, bias: torch.Tensor) -> Conv:
        return Conv(weight.transpose(1, 2).flatten(1).unsqueeze(-1), bias)

    def _enlarging(self, weight: torch.Tensor, bias: torch.Tensor) -> Conv:
        by_row = weight.unflatten(0, (2, -1))  # (2, 2 * out, in, 2, 2)
        return Conv(by_row.transpose(2, 3).flatten(2, 3).contiguous(), bias)

    def _head(self) -> Conv:
        return Conv(*self._pair("decoder.head.2"))

    def _linear(self, name: str, scale: float = 1.0, bias_scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        """A 1x1 convolution along rows."""
        weight, bias = self._pair(name)
        return weight.flatten(1).unsqueeze(-1), bias


def _largest_input(gamma: torch.Tensor) -> float:
    """A bound on the length of a normalised pixel: sqrt(C) times gamma, and SiLU makes nothing larger.

    Raises:
        ValueError: it is too large for float16, sums of frames considered; NaN is.
    """
    largest = len(gamma) ** 0.5 * gamma.abs().max().item()
    if not largest < LARGEST_INPUT:
        raise ValueError(f"the weights allow activations of {largest:.3g}, too large for float16")
    return largest


def _fold_upsampling(weight: torch.Tensor) -> torch.Tensor:
    """A 3x3 convolution after nearest doubling, as a 2x2 convolution before it with four outputs a pixel.

    Of the three taps in a direction two fall on the same low-resolution pixel; their weights are added, in float32.
    An upper (left) large pixel sees the neighbour above (to the left) once and its own pixel twice, a lower (right)
    one the other way round. 4/9 of the arithmetic is left.

    Args:
        weight: (out, in, 3, 3).
    Returns:
        (4 * out, in, 2, 2), to be applied with a padding of 1; outputs as `kernels.depth_to_space` reads them.
    """
    # fold[p][i][j]: whether tap j of the large frame, at phase p, falls on tap i of the small one.
    fold = torch.tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], dtype=weight.dtype, device=weight.device)
    return torch.einsum("yap,xbq,oipq->yxoiab", fold, fold, weight).flatten(0, 2)
