"""The server tests of ComfyUI's own switches, and of VAEs that something changed, in servers that run on the GPU.

Here they mean what they mean to users: weights that are not on the GPU, VAEs on the CPU, no page-locked memory.
"""

import sys
from pathlib import Path

import pytest
import torch

SERVER_TESTS = Path(__file__).resolve().parent.parent / "server"
sys.path[:0] = [str(SERVER_TESTS), str(SERVER_TESTS.parent.parent / "scripts")]

import host  # noqa: E402
from test_changed_vae import test_a_selected_device, test_the_same_pixels_as_the_stock_nodes  # noqa: E402, F401
from test_flags import COMBINATIONS, test_the_same_as_stock_under_the_same_flags  # noqa: E402, F401

ON_A_GPU = COMBINATIONS | {
    "low": ["--lowvram", "--cache-none"],
    "none": ["--novram", "--disable-pinned-memory"],
    "high": ["--highvram"],
    "gpu only": ["--gpu-only", "--fp16-intermediates"],
    "no dynamic vram": ["--disable-dynamic-vram"],
    "deterministic": ["--deterministic"],
}
_seeds = iter(range(1, 10**6))


@pytest.fixture
def seed():
    return next(_seeds)


@pytest.fixture(scope="module", params=ON_A_GPU)
def flagged(request, tmp_path_factory):
    """A server on the GPU with some of the flags."""
    if not torch.cuda.is_available():
        yield None  # `device` skips or fails the test
        return
    base = tmp_path_factory.mktemp("server")
    with host.Server(*ON_A_GPU[request.param], base=base, packs=[SERVER_TESTS / "pack"], cpu=False) as server:
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server on the GPU, as a user starts it."""
    if not torch.cuda.is_available():
        yield None
        return
    base = tmp_path_factory.mktemp("server")
    with host.Server(base=base, packs=[SERVER_TESTS / "pack"], cpu=False) as server:
        yield server
