"""The fast decoder of LTX in float32 on the CPU, by its kernels' references, against ComfyUI's own module."""

import pytest
import torch
from async_frame_pipeline.pipeline.decoders.fast import ltx, ltx_weights
from async_frame_pipeline.pipeline.decoders.fast.ltx import LtxDecoder

from . import stock_ltx

CPU = torch.device("cpu")
TOLERANCE = 5e-5


def fast_decoder(vae) -> LtxDecoder:
    return LtxDecoder(ltx_weights.load(vae.state_dict(), vae.config, CPU, torch.float32))


def decode(decoder, latents):
    return torch.cat(list(decoder.push(latents, last=True)), dim=1)


@pytest.mark.parametrize("version", stock_ltx.VERSIONS)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 8, 9, 17])
def test_every_length_is_the_stock_decode(version, layers, frames):
    vae, latents = stock_ltx.module(version, 8, layers), stock_ltx.latents(frames, 2, 3)
    wanted = vae.decode(latents)[0]
    got = decode(fast_decoder(vae), latents)
    assert got.shape == wanted.shape
    torch.testing.assert_close(got, wanted, atol=TOLERANCE, rtol=0)
