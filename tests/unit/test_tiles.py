"""VAE Decode (Tiled)'s pixels bit for bit, streamed: in stretches of time, and tiles side by side."""

import pytest
import torch

from . import in_comfyui

from async_frame_pipeline.nodes import decoding
from async_frame_pipeline.nodes.comfyui import tiling
from async_frame_pipeline.nodes.comfyui.tiling import Tiling
from async_frame_pipeline.nodes.families import tiled

STREAMED = "tiled, streamed"


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture
def no_stock_way(monkeypatch):
    """Where the stock way would be an error; gives it."""
    stock = tiling.stock_decode
    monkeypatch.setattr(tiled, "_stock", None)
    return stock


def latent_for(vae, frames: int, height: int, width: int, batch: int = 1) -> dict:
    generator = torch.Generator().manual_seed(frames + 100 * height)
    return {"samples": torch.randn(batch, vae.latent_channels, frames, height, width, generator=generator)}


def scaled(vae, tile: int, overlap: int, frames: int, frames_overlap: int) -> Tiling:
    """In latents, what the node is told in pixels and frames."""
    across, in_time = vae.spacial_compression_decode(), vae.temporal_compression_decode()
    return Tiling(tile * across, overlap * across, frames * in_time, frames_overlap * in_time)


# A tile's size and overlap across and in time, in latents; 999: all of the video.
SETTINGS = {
    "lockstep": (4, 1, 999, 1),
    "lockstep, feathered in time": (4, 1, 999, 8),
    "rows": (4, 1, 3, 1),
    "rows of two": (5, 0, 2, 1),
    "rows that overlap by half": (4, 1, 4, 2),
    "time only": (99, 1, 3, 1),
    "one tile": (99, 1, 999, 1),
}
KINDS = ["ltx", "wan 2.1", "wan 2.2", "hunyuan 1.0", "hunyuan 1.5", "cogvideox", "taehv"]


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def vae(kind):
    return in_comfyui.vae(kind)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_bits_of_the_stock_node(kind, vae, settings, no_stock_way):
    for frames, height, width in ((1, 3, 5), (5, 5, 6)):
        samples, asked = latent_for(vae, frames, height, width), scaled(vae, *settings)
        stock = no_stock_way(vae, samples, asked)
        image, report = decoding.decode_image_with_report(vae, samples, tiling=asked)
        assert report.decoded.decoder == STREAMED
        assert image.shape == stock.shape and image.dtype == stock.dtype and torch.equal(image, stock), frames
