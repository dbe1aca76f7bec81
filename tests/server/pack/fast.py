"""Faults in the fast decoder."""

import sys
from pathlib import Path

import folder_paths
import torch

import nodes

from .watch import hold


def _pack_module(name):
    """A module of the pack under test, as ComfyUI loaded it."""
    package = nodes.NODE_CLASS_MAPPINGS["AsyncVAEDecodeVideo"].__module__.rpartition(".")[0]
    return sys.modules[f"{package}.{name}"]


_originals = {}


class FastDecoder:
    """Sets how the fast decoder of this server behaves from now on.

    `oom_at` names the step (from 1, those of the check before the first use not counted) that runs out of memory, and
    `hold_at` the one that makes `<base>/hold-fast.reached` and waits for `<base>/hold-fast.go`; 0 for none. `wrong`
    makes its frames differ from the stock decoder's. Without any of them all is taken back.
    """

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"vae": ("VAE",), "seed": ("INT", {"default": 0})},
            "optional": {
                "oom_at": ("INT", {"default": 0}),
                "hold_at": ("INT", {"default": 0}),
                "wrong": ("BOOLEAN", {"default": False}),
            },
        }

    RETURN_TYPES = ("VAE",)
    FUNCTION = "set"
    CATEGORY = "_tests"

    def set(self, vae, seed, oom_at=0, hold_at=0, wrong=False):
        wan = _pack_module("families.wan")
        own_steps = _originals.setdefault("steps", wan.steps)

        def steps(decoder, latent):
            is_check = latent.shape[2] <= wan.trust.CHECKED["cpu"][0]
            for number, frames in enumerate(own_steps(decoder, latent), 1):
                if number == oom_at and not is_check:
                    raise torch.OutOfMemoryError("a test's out of memory")
                if number == hold_at and not is_check:
                    base = Path(folder_paths.base_path)
                    hold(base / "hold-fast.reached", base / "hold-fast.go")
                yield frames + 0.5 if wrong else frames

        wan.steps = steps
        return (vae,)
