"""The families that are streamed by the models' own loops, and those decoded late, on a GPU in bfloat16."""

import pytest
import torch

from ..unit import in_comfyui

from async_frame_pipeline.nodes import decoding
from async_frame_pipeline.nodes.comfyui import vaes
from async_frame_pipeline.nodes.families import ways
from ..server.pack import vaes as tiny

STREAMED = ["hunyuan 1.0", "hunyuan 1.5", "minimax h3", "cogvideox", "seedvr2"]
FRAMES = {"minimax h3": (1, 7, 12, 17)}


def stock_of(vae, samples: dict) -> torch.Tensor:
    """By the stock node, the second time: a process's first convolutions may be done by other kernels."""
    vaes.stock_decode(vae, samples)
    return vaes.stock_decode(vae, samples)


@pytest.mark.parametrize("kind", STREAMED)
@torch.inference_mode()
def test_the_bits_of_the_stock_node(device, kind, monkeypatch):
    """That they are streamed too: a short piece must come out alike both ways before."""
    vae = tiny.KINDS[kind](1, dtype=torch.bfloat16)
    for frames in FRAMES.get(kind, (1, 2, 5, 9)):
        samples = {"samples": torch.randn(1, vae.latent_channels, frames, 12, 20)}
        stock = stock_of(vae, samples)
        with monkeypatch.context() as without:
            without.setattr(ways.vaes, "stock_decode", None)
            assert torch.equal(decoding.decode_image(vae, samples, "exact"), stock), frames


@pytest.mark.parametrize(
    "kind, shape", [("mochi", (1, 12, 3, 12, 20)), ("svd", (14, 4, 32, 32)), ("image", (9, 4, 32, 32))]
)
@torch.inference_mode()
def test_late_has_the_bits_of_the_stock_node(device, kind, shape):
    vae, samples = in_comfyui.vae(kind), {"samples": torch.randn(shape)}
    stock = stock_of(vae, samples)
    image, report = decoding.decode_image_with_report(vae, samples, "exact")
    assert report.decoded.decoder == "late" and torch.equal(image, stock)
