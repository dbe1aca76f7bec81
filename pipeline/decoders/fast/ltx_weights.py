"""An LTX VAE's state dict and configuration -> the decoder's layers, folded, transformed and laid out for the kernels.

Knows the names in LTX's checkpoints; nothing else does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F

from .weights import LARGEST_INPUT, STREAM_SCALE
from .winograd import WEIGHT, fit, matrix, weight_points

# Of LTX's norms, for what runs through the blocks at another scale.
EPS = 1e-8 * STREAM_SCALE**2
# Of what enlarges, (of time, of width and height).
FACTORS = {"compress_all": (2, 2), "compress_time": (2, 1), "compress_space": (1, 2)}


Affine: TypeAlias = "tuple[torch.Tensor, torch.Tensor]"


@dataclass(slots=True)
class Conv:
    """A 3x3x3 convolution that makes four frames of six products (see `winograd`).

    Attributes:
        points: tensors (out, in, 3, 3), channels last.
        bias: (out,) float32.
        scale: what products are to be multiplied by before the bias is added.
        normalised: whether its input is, and went through SiLU.
        affine: (gamma, beta), (in,) float32 each, between the two; None: 1 and 0.
    """

    points: list[torch.Tensor]
    bias: torch.Tensor
    scale: float
    normalised: bool
    affine: Affine | None


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
        affine: as of `Conv`.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    scale: float
    patch: int
    affine: Affine | None


@dataclass(slots=True)
class Weights:
    """All of a decoder.

    Attributes:
        mean, std: (C,) float32, of the latent.
        causal: whether convolutions see two frames back, and not one back and one ahead.
        reflects: whether beyond a frame's edge there is its mirror image, and not zeros.
        noise: how much of the latent is to be replaced by noise before it is decoded.
    """

    mean: torch.Tensor
    std: torch.Tensor
    conv_in: Conv
    levels: list[Level]
    head: Head
    causal: bool
    reflects: bool
    noise: float


def load(
    state: Mapping[str, torch.Tensor], config: Mapping[str, Any], device: torch.device, dtype: torch.dtype
) -> Weights:
    """Read the decoder of an LTX VAE of 0.9.5 or newer, of any width.

    Those that know a timestep are always given the same one, so that what they make of it is worked out here.

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
        }
        for name, (default, value) in wanted.items():
            if config.get(name, default) != value:
                raise ValueError(f"there is no fast decoder for LTX VAEs of {name} {config.get(name, default)}")
        padding = config.get("spatial_padding_mode", "reflect")
        if padding not in ("zeros", "reflect"):
            raise ValueError(f"there is no fast decoder for LTX VAEs of spatial_padding_mode {padding}")
        timed = bool(config.get("timestep_conditioning", False))
        self._timestep: torch.Tensor | None = None
        if timed:
            self._timestep = config.get("decode_timestep", 0.05) * self._float32("decoder.timestep_scale_multiplier")
        statistics = "per_channel_statistics.{}-of-means"
        return Weights(
            mean=self._float32(statistics.format("mean")),
            std=self._float32(statistics.format("std")),
            conv_in=self._conv_in(),
            levels=self._levels(),
            head=self._head(),
            causal=bool(config.get("causal_decoder", False)),
            reflects=padding == "reflect",
            noise=config.get("decode_noise_scale", 0.025) if timed else 0.0,
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
                seen = self._embedded(f"{name}.time_embedder")
                levels[-1].blocks += [self._block(f"{name}.res_blocks.{layer}", seen) for layer in range(count)]
            elif kind in FACTORS:
                # Only what doubles everything has a shortcut, whatever is said of the others.
                shortcut = kind == "compress_all" and bool(given.get("residual", False))
                levels[-1].upsample = self._upsample(f"{name}.conv", FACTORS[kind], shortcut)
                levels.append(Level([], None))
            else:
                raise ValueError(f"there is no fast decoder for LTX VAEs with a block of kind {kind}")
        return levels

    def _conv_in(self) -> Conv:
        weight, bias = self._pair("decoder.conv_in")
        return self._raw(weight, STREAM_SCALE * bias, STREAM_SCALE)

    def _block(self, name: str, timestep: torch.Tensor | None) -> Block:
        affines = self._affines(f"{name}.scale_shift_table", timestep, 2)
        return Block(*(self._conv(f"{name}.conv{number}", affine) for number, affine in zip((1, 2), affines)))

    def _upsample(self, name: str, factors: tuple[int, int], shortcut: bool) -> Upsample:
        weight, bias = self._pair(name)
        phases = factors[0] * factors[1] ** 2
        weight, bias = (part.unflatten(0, (-1, phases)).transpose(0, 1).flatten(0, 1) for part in (weight, bias))
        return Upsample(self._raw(weight, STREAM_SCALE * bias, 1.0), factors, shortcut)

    def _head(self) -> Head:
        [affine] = self._affines("decoder.last_scale_shift_table", self._embedded("decoder.last_time_embedder"), 1)
        weight, bias = self._pair("decoder.conv_out")
        patch = self._config.get("patch_size", 1)
        # Of a patch the columns come first.
        weight, bias = (part.unflatten(0, (3, patch, patch)).transpose(1, 2).flatten(0, 2) for part in (weight, bias))
        weight, scale = fit(weight, 9**0.5 * _largest_input(weight, affine))
        by_tap = weight.permute(2, 0, 1, 3, 4).flatten(0, 1)
        return Head(self._channels_last(by_tap), bias, scale, patch, affine)

    def _conv(self, name: str, affine: Affine | None) -> Conv:
        """A block's convolution, of normalised input."""
        weight, bias = self._pair(name)
        points, scale = weight_points(weight, 4, _largest_input(weight, affine))
        points = [self._channels_last(point) for point in points]
        return Conv(points, STREAM_SCALE * bias, STREAM_SCALE * scale, True, affine)

    def _raw(self, weight: torch.Tensor, bias: torch.Tensor, scale: float) -> Conv:
        """One whose input no norm bounds: its weights stay as they are."""
        points = torch.einsum("pk,oikyx->poiyx", matrix(WEIGHT[4], weight), weight)
        return Conv([self._channels_last(point) for point in points], bias, scale, False, None)

    def _embedded(self, name: str) -> torch.Tensor | None:
        """What two layers make of the timestep."""
        if self._timestep is None:
            return None
        frequencies = torch.exp(-math.log(10000.0) * torch.arange(128, device=self._device) / 128)
        angles = self._timestep * frequencies
        seen = torch.cat((angles.cos(), angles.sin()))
        for layer in ("linear_1", "linear_2"):
            weight, bias = (self._float32(f"{name}.timestep_embedder.{layer}.{part}") for part in ("weight", "bias"))
            seen = F.linear(seen if layer == "linear_1" else F.silu(seen), weight, bias)
        return seen

    def _affines(self, table: str, timestep: torch.Tensor | None, count: int) -> list[Affine | None]:
        """So many pairs of (gamma, beta): a table plus what was made of the timestep, first beta, then gamma less 1."""
        if timestep is None:
            return [None] * count
        values = self._float32(table)
        rows = values + timestep.view_as(values)
        return [(1.0 + rows[2 * pair + 1], rows[2 * pair].clone()) for pair in range(count)]

    def _pair(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias in float32, on the device: folding is quick there."""
        return self._float32(f"{name}.conv.weight"), self._float32(f"{name}.conv.bias")

    def _float32(self, name: str) -> torch.Tensor:
        self.read.add(name)
        return self._state[name].to(self._device).float()

    def _channels_last(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.to(self._dtype).contiguous(memory_format=torch.channels_last)


def _largest_input(weight: torch.Tensor, affine: Affine | None) -> float:
    """A bound on the length of a normalised pixel; SiLU makes nothing larger.

    Raises:
        ValueError: it is too large for float16, sums of frames considered; NaN is.
    """
    largest = float(weight.shape[1] ** 0.5)
    if affine is not None:
        gamma, beta = affine
        largest = largest * gamma.abs().max().item() + beta.norm().item()
    if not largest < LARGEST_INPUT:
        raise ValueError(f"the weights allow activations of {largest:.3g}, too large for float16")
    return largest
