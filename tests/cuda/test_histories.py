"""Stock's Wan modules with their histories in main memory: the same bits, in bfloat16 on the GPU."""

import pytest
import torch
from async_frame_pipeline.pipeline.decoders import exact
from async_frame_pipeline.pipeline.decoders.away import Away
from async_frame_pipeline.pipeline.decoders.histories import Histories

from ..unit import in_comfyui, stock_wan  # noqa: F401

from async_frame_pipeline.pipeline.decoders.families import wan


@pytest.mark.parametrize("version", ["2.1", "2.2"])
@pytest.mark.parametrize("length", [1, 2, 5, 8])
@pytest.mark.parametrize("pinned", [True, False])
@torch.inference_mode()
def test_the_bits_are_the_same(device, version, length, pinned):
    vae = stock_wan.module(version, 32).to(device, torch.bfloat16)
    latents = stock_wan.latents(version, length, 9, 14).to(device, torch.bfloat16)
    way = {"2.1": wan.EXACT_21, "2.2": wan.EXACT_22}[version]
    vae.decode(latents)  # a process's first convolutions may be done by other kernels than later ones
    wanted = vae.decode(latents)[0]
    assert torch.equal(vae.decode(latents)[0], wanted), "stock differs from itself"
    seen = []
    away = Away(device) if pinned else Away(device, lambda host: False)
    exact.decode(
        vae,
        latents,
        lambda frames_cthw: seen.append(frames_cthw.clone()),
        way.layer(vae),
        lambda output: way.to_frames(vae, output),
        histories=Histories(away),
    )
    assert torch.equal(torch.cat(seen, dim=1), wanted)
    away.close()
