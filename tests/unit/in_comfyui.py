"""This pack's nodes inside the ComfyUI under test, in this process and on the CPU: for tests that need no server.

Import this module before any of `async_frame_pipeline.nodes`.
"""

import sys

from . import stock_wan  # noqa: F401  (ComfyUI on the path, and on the CPU)

# Pytest calls the tests' package by the clone's folder: one named "nodes" would stand in the place of ComfyUI's.
_clone = sys.modules.pop("nodes", None)

import async_frame_pipeline.nodes  # noqa: E402, F401

from ..server.pack import vaes  # noqa: E402

if _clone is not None:
    sys.modules["nodes"] = _clone


def vae(kind: str, seed: int = 1):
    """A tiny `comfy.sd.VAE` with random weights: "wan 2.1", "wan 2.2", "ltx", "taehv" or "image"."""
    return vaes.KINDS[kind](seed)
