"""Random weights, and files of them. Runs on the host's Python."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch


def random_weights(module: torch.nn.Module, seed: int, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """Weights for a module on "meta", such that activations keep their size from layer to layer."""
    # Drawn once and repeated: Wan 2.2's VAE holds 700 M numbers.
    noise = torch.randn(1 << 20, generator=torch.Generator().manual_seed(seed)).to(dtype)
    weights = {}
    for name, parameter in module.state_dict().items():
        repeats = -(-parameter.numel() // noise.numel())
        values = noise.repeat(repeats)[: parameter.numel()].view(parameter.shape)
        is_gain = name.endswith("gamma") or (name.endswith("weight") and parameter.ndim == 1) or "std" in name
        if is_gain:
            weights[name] = 1 + 0.1 * values
        elif parameter.ndim <= 1:
            weights[name] = 0.02 * values
        else:
            weights[name] = values * 0.7 / parameter[0].numel() ** 0.5
    return weights


def save(weights: dict[str, torch.Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    safetensors.torch.save_file({name: weight.contiguous() for name, weight in weights.items()}, path, metadata)
