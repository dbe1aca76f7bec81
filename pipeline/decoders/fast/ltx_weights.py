"""An LTX VAE's state dict and configuration -> the decoder's layers, folded, transformed and laid out for the kernels.

Knows the names in LTX's checkpoints; nothing else does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .weights import LARGEST_INPUT, STREAM_SCALE
from .winograd import WEIGHT, fit, matrix, weight_points

# Of LTX's norms, for what runs through the blocks at another scale.
EPS = 1e-8 * STREAM_SCALE**2
# Of what enlarges, (of time, of width and height).
FACTORS = {"compress_all": (2, 2), "compress_time": (2, 1), "compress_space": (1, 2)}


@dataclass(slots=True)
class Conv:
    """A 3x3x3 convolution that makes four frames of six products (see `winograd`).

    Attributes:
        points: tensors (out, in, 3, 3), channels last.
        bias: (out,) float32.
        scale: what products are to be multiplied by before the bias is added.
        normalised: whether its input is, and went through SiLU.
    """

    points: list[torch.Tensor]
    bias: torch.Tensor
    scale: float
    normalised: bool


@dataclass(slots=True)
class Block:
    """norm, silu, conv, norm, silu, conv, plus the input."""

    conv1: Conv
    conv2: Conv


@dataclass(slots=True)
class Upsample:
    """A convolution whose channels become frames and pixels.

    Attributes:
        conv: its outputs are ordered by phase: (frame, row, column, channel).
        factors: (of time, of width and height).
        shortcut: whether the input is spread over the output.
    """

    conv: Conv
    factors: tuple[int, int]
    shortcut: bool


@dataclass(slots=True)
class Level:
    """Blocks at one resolution, and what leads to the next."""

    blocks: list[Block]
    upsample: Upsample | None


@dataclass(slots=True)
class Head:
    """The last convolution, as one over space for each tap in time.

    Attributes:
        weight: (3 * out, in, 3, 3), channels last; outputs (tap, colour, row, column) of a patch.
        bias: (out,) float32.
        scale: what outputs are to be multiplied by before the bias is added.
        patch: rows and columns.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    scale: float
    patch: int


@dataclass(slots=True)
class Weights:
    """All of a decoder.

    Attributes:
        mean, std: (C,) float32, of the latent.
        causal: whether convolutions see two frames back, and not one back and one ahead.
        reflects: whether beyond a frame's edge there is its mirror image, and not zeros.
    """

    mean: torch.Tensor
    std: torch.Tensor
    conv_in: Conv
    levels: list[Level]
    head: Head
    causal: bool
    reflects: bool


def load(
    state: Mapping[str, torch.Tensor], config: Mapping[str, Any], device: torch.device, dtype: torch.dtype
) -> Weights:
    """Read an LTX VAE, 0.9.7 or 2 and of any width, that takes neither noise nor a timestep.

    Args:
        state: its state dict, as in the published files and in ComfyUI's modules; only the decoder is read.
        config: as in the published files, of the VAE.
        device: where the decoder is to run.
        dtype: as what: float16, or float32 for tests.
    Raises:
        ValueError: it is another VAE, or its weights too large for float16.
    """
    reader = _Reader(state, config, device, dtype)
    try:
        weights = reader.weights()
    except KeyError as error:
        raise ValueError(f"this is not the state dict of an LTX VAE: {error.args[0]} is missing") from error
    unknown = [name for name in state if name.startswith("decoder.") and name not in reader.read]
    if unknown:
        raise ValueError(f"the VAE has weights that the fast decoder does not know: {unknown[0]}")
    return weights


class _Reader:
    def __init__(
        self,
        state: Mapping[str, torch.Tensor],
        config: Mapping[str, Any],
        device: torch.device,
        dtype: torch.dtype,
    ):
        self._state, self._config, self._device, self._dtype = state, config, device, dtype
        self.read: set[str] = set()

    def weights(self) -> Weights:
        config = self._config
        wanted: dict[str, tuple[Any, Any]] = {
            "dims": (None, 3),
            "out_channels": (3, 3),
            "norm_layer": ("group_norm", "pixel_norm"),
            "timestep_conditioning": (False, False),
        }
        for name, (default, value) in wanted.items():
            if config.get(name, default) != value:
                raise ValueError(f"there is no fast decoder for LTX VAEs of {name} {config.get(name, default)}")
        padding = config.get("spatial_padding_mode", "reflect")
        if padding not in ("zeros", "reflect"):
            raise ValueError(f"there is no fast decoder for LTX VAEs of spatial_padding_mode {padding}")
        statistics = "per_channel_statistics.{}-of-means"
        return Weights(
            mean=self._float32(statistics.format("mean")),
            std=self._float32(statistics.format("std")),
            conv_in=self._conv("decoder.conv_in", None, STREAM_SCALE),
            levels=self._levels(),
            head=self._head(),
            causal=bool(config.get("causal_decoder", False)),
            reflects=padding == "reflect",
        )

    def _levels(self) -> list[Level]:
        """The configuration has the blocks in the encoder's order."""
        levels = [Level([], None)]
        blocks = self._config.get("decoder_blocks", self._config.get("blocks", []))
        for index, (kind, options) in enumerate(reversed(blocks)):
            name = f"decoder.up_blocks.{index}"
            given = options if isinstance(options, dict) else {}
            if kind == "res_x":
                if given.get("inject_noise", False):
                    raise ValueError("there is no fast decoder for LTX VAEs that draw noise in their blocks")
                count = given["num_layers"] if given else options
                levels[-1].blocks += [self._block(f"{name}.res_blocks.{layer}") for layer in range(count)]
            elif kind in FACTORS:
                # Only what doubles everything has a shortcut, whatever is said of the others.
                shortcut = kind == "compress_all" and bool(given.get("residual", False))
                levels[-1].upsample = self._upsample(f"{name}.conv", FACTORS[kind], shortcut)
                levels.append(Level([], None))
            else:
                raise ValueError(f"there is no fast decoder for LTX VAEs with a block of kind {kind}")
        return levels

    def _block(self, name: str) -> Block:
        convs = [self._conv(f"{name}.conv{number}", self._largest_input, STREAM_SCALE) for number in (1, 2)]
        return Block(*convs)

    def _upsample(self, name: str, factors: tuple[int, int], shortcut: bool) -> Upsample:
        weight, bias = self._pair(name)
        phases = factors[0] * factors[1] ** 2
        weight, bias = (part.unflatten(0, (-1, phases)).transpose(0, 1).flatten(0, 1) for part in (weight, bias))
        return Upsample(self._laid_out(weight, STREAM_SCALE * bias, None, 1.0), factors, shortcut)

    def _head(self) -> Head:
        weight, bias = self._pair("decoder.conv_out")
        patch = self._config.get("patch_size", 1)
        # Of a patch the columns come first.
        weight, bias = (part.unflatten(0, (3, patch, patch)).transpose(1, 2).flatten(0, 2) for part in (weight, bias))
        weight, scale = fit(weight, 9**0.5 * self._largest_input(weight))
        by_tap = weight.permute(2, 0, 1, 3, 4).flatten(0, 1)
        return Head(self._channels_last(by_tap), bias, scale, patch)

    def _conv(self, name: str, largest_input: Any, scale: float) -> Conv:
        weight, bias = self._pair(name)
        return self._laid_out(weight, scale * bias, largest_input, scale)

    def _laid_out(self, weight: torch.Tensor, bias: torch.Tensor, largest_input: Any, scale: float) -> Conv:
        """Where the input is not bounded by a norm, weights stay as they are."""
        if largest_input is None:
            points, fitted = torch.einsum("pk,oikyx->poiyx", matrix(WEIGHT[4], weight), weight), 1.0
        else:
            points, fitted = weight_points(weight, 4, largest_input(weight))
        return Conv([self._channels_last(point) for point in points], bias, scale * fitted, largest_input is not None)

    def _largest_input(self, weight: torch.Tensor) -> float:
        """A bound on the length of a normalised pixel; SiLU makes nothing larger."""
        largest = float(weight.shape[1] ** 0.5)
        assert largest < LARGEST_INPUT
        return largest

    def _pair(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias in float32, on the device: folding is quick there."""
        return self._float32(f"{name}.conv.weight"), self._float32(f"{name}.conv.bias")

    def _float32(self, name: str) -> torch.Tensor:
        self.read.add(name)
        return self._state[name].to(self._device).float()

    def _channels_last(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.to(self._dtype).contiguous(memory_format=torch.channels_last)
