"""A Wan VAE's state dict -> the decoder's layers, folded and laid out for the kernels.

Knows the names in Wan's checkpoints; nothing else does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

# cuDNN's bf16 3-D convolution runs at 360 TFLOP/s with 96 output channels and at 691 with 128 (H100, cuDNN 9.19,
# 1280x720): a third more work, done in less time. Wider layers are fast as they are.
PADDED_CHANNELS = {96: 128}


@dataclass(slots=True)
class Conv:
    """A convolution.

    Attributes:
        weight: (out >= channels, in, kt, kh, kw) or (out, in, kh, kw), channels last, model dtype; the outputs
            past `channels` are zero.
        bias: (channels,) float32.
        channels: true number of outputs.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    channels: int


@dataclass(slots=True)
class Residual:
    """norm, silu, conv, norm, silu, conv, plus the input, itself through a 1x1 convolution if widths differ."""

    gamma1: torch.Tensor
    conv1: Conv
    gamma2: torch.Tensor
    conv2: Conv
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
    blocks: list[Residual]
    upsample: Upsample | None


@dataclass(slots=True)
class Weights:
    """All of a decoder. `patch`: 1, or 2 where each output pixel is a 2x2 block (Wan 2.2)."""

    latent: tuple[torch.Tensor, torch.Tensor]
    conv_in: Conv
    middle: tuple[Residual, Attention, Residual]
    stages: list[Stage]
    head_gamma: torch.Tensor
    head: Conv
    patch: int


def load(state: Mapping[str, torch.Tensor], device: torch.device, dtype: torch.dtype) -> Weights:
    """Read a Wan 2.1 or 2.2 VAE of any width.

    Args:
        state: its state dict, as in the published files and in ComfyUI's modules; only the decoder is read.
        device, dtype: where and as what the convolutions run.
    Raises:
        ValueError: the names or shapes are not those of a Wan VAE.
    """
    try:
        return _Reader(state, device, dtype).weights()
    except KeyError as error:
        raise ValueError(f"this is not the state dict of a Wan 2.1 or 2.2 VAE: {error.args[0]} is missing") from error


class _Reader:
    def __init__(self, state, device, dtype):
        self._state, self._device, self._dtype = state, device, dtype

    def weights(self) -> Weights:
        wan22 = "decoder.upsamples.0.upsamples.0.residual.2.weight" in self._state
        return Weights(
            latent=self._linear("conv2"),
            conv_in=self._conv("decoder.conv1"),
            middle=(
                self._residual("decoder.middle.0"), self._attention("decoder.middle.1"), self._residual("decoder.middle.2"),
            ),
            stages=self._nested_stages() if wan22 else self._flat_stages(),
            head_gamma=self._gamma("decoder.head.0"),
            head=self._conv("decoder.head.2"),
            patch=2 if wan22 else 1,
        )  # fmt: skip

    def _flat_stages(self) -> list[Stage]:
        """Wan 2.1: one list; an upsampling layer ends a stage."""
        stages, index = [Stage([], None)], 0
        while True:
            name = f"decoder.upsamples.{index}"
            if f"{name}.residual.0.gamma" in self._state:
                stages[-1].blocks.append(self._residual(name))
            elif f"{name}.resample.1.weight" in self._state:
                stages[-1].upsample = self._upsample(name, shortcut=False)
                stages.append(Stage([], None))
            else:
                return stages
            index += 1

    def _nested_stages(self) -> list[Stage]:
        """Wan 2.2: a list of stages, each a list whose last layer may upsample."""
        stages = []
        while f"decoder.upsamples.{len(stages)}.upsamples.0.residual.0.gamma" in self._state:
            name, blocks = f"decoder.upsamples.{len(stages)}.upsamples", []
            while f"{name}.{len(blocks)}.residual.0.gamma" in self._state:
                blocks.append(self._residual(f"{name}.{len(blocks)}"))
            last = f"{name}.{len(blocks)}"
            upsamples = f"{last}.resample.1.weight" in self._state
            stages.append(Stage(blocks, self._upsample(last, shortcut=True) if upsamples else None))
        return stages

    def _residual(self, name: str) -> Residual:
        shortcut = self._linear(f"{name}.shortcut") if f"{name}.shortcut.weight" in self._state else None
        return Residual(
            self._gamma(f"{name}.residual.0"), self._conv(f"{name}.residual.2"),
            self._gamma(f"{name}.residual.3"), self._conv(f"{name}.residual.6"), shortcut,
        )  # fmt: skip

    def _attention(self, name: str) -> Attention:
        return Attention(self._gamma(f"{name}.norm"), self._linear(f"{name}.to_qkv"), self._linear(f"{name}.proj"))

    def _upsample(self, name: str, shortcut: bool) -> Upsample:
        time = None
        if f"{name}.time_conv.weight" in self._state:
            weight, bias = self._pair(f"{name}.time_conv")
            halves = zip(weight.chunk(2), bias.chunk(2))
            time = tuple(self._laid_out(half_weight, half_bias) for half_weight, half_bias in halves)
        weight, bias = self._pair(f"{name}.resample.1")
        space = Conv(self._to_model(_fold_upsampling(weight)), bias.to(self._device, torch.float32), len(bias))
        return Upsample(time, space, shortcut)

    def _conv(self, name: str) -> Conv:
        return self._laid_out(*self._pair(name))

    def _laid_out(self, weight: torch.Tensor, bias: torch.Tensor) -> Conv:
        channels = len(bias)
        padding = PADDED_CHANNELS.get(channels, channels) - channels
        weight = torch.nn.functional.pad(weight, (0, 0) * (weight.ndim - 1) + (0, padding))
        return Conv(self._to_model(weight), bias.to(self._device, torch.float32), channels)

    def _linear(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """A 1x1 convolution as a matrix."""
        weight, bias = self._pair(name)
        return weight.flatten(1).to(self._device, self._dtype), bias.to(self._device, self._dtype)

    def _pair(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias in float32, on the device: folding is quick there."""
        weight, bias = self._state[f"{name}.weight"], self._state[f"{name}.bias"]
        return weight.to(self._device).float(), bias.to(self._device).float()

    def _gamma(self, name: str) -> torch.Tensor:
        return self._state[f"{name}.gamma"].flatten().to(self._device, torch.float32)

    def _to_model(self, weight: torch.Tensor) -> torch.Tensor:
        layout = torch.channels_last_3d if weight.ndim == 5 else torch.channels_last
        return weight.to(self._device, self._dtype).contiguous(memory_format=layout)


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
