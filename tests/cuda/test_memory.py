"""What is counted before a decode is what it then takes, so that what fits by count fits the GPU."""

import functools
import math

import pytest
import torch
from async_frame_pipeline.pipeline.decoders import exact
from async_frame_pipeline.pipeline.decoders.away import Away
from async_frame_pipeline.pipeline.decoders.fast import plan, weights
from async_frame_pipeline.pipeline.decoders.fast.network import Bands, WanDecoder
from async_frame_pipeline.pipeline.decoders.histories import Histories

from ..unit import in_comfyui, stock_wan  # noqa: F401

from async_frame_pipeline.nodes.comfyui import memory
from async_frame_pipeline.pipeline.decoders.families import wan

PUBLISHED_WIDTH = {"2.1": 96, "2.2": 256}
SIZES = {
    "2.1": [(320, 192), (832, 480), (1280, 720), (1920, 1088)],
    "2.2": [(320, 192), (832, 480), (1280, 704), (1920, 1088)],
}
# Nothing; in bands; with the last section's histories away; with both sections'.
SOME_PLANS = [(), (Bands(1), Bands(4)), (Bands(1), Bands(8, 8)), (Bands(6, 6), Bands(16, 16))]
CASES = [
    *((version, size, bands) for version, sizes in SIZES.items() for size in sizes for bands in SOME_PLANS),
    *((version, (832, 480), plan.PLANS[-1]) for version in SIZES),
]
OFF_BY = 0.1
# Whatever the frame's size: workspaces of cuDNN and cuBLAS, and up to a megabyte at the end of each tensor's memory.
SLACK = 64 * 1024**2
FRAMES = 3  # from the third on, all steps are the same


@pytest.fixture(autouse=True, scope="module")
def loaded_for_these():
    yield
    loaded.cache_clear()


@pytest.fixture(autouse=True)
def all_cores():
    """Fill main memory as users do: tests have one thread else."""
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    yield
    torch.set_num_threads(before)


def random_module(version, device):
    """Stock's, of the published size; made on the GPU, where that is quick."""
    with device:
        vae = stock_wan.empty(version, PUBLISHED_WIDTH[version])
    for name, weight in vae.named_parameters():
        if name.endswith("gamma"):
            weight.data.fill_(1.0)
        else:
            weight.data.normal_().mul_(weight[0].numel() ** -0.5)
    return vae.requires_grad_(False)


@functools.cache
def loaded(version, device):
    """The fast decoder's weights, used once: what that takes is taken for good."""
    state = weights.load(random_module(version, device).state_dict(), device, torch.float16)
    decode(WanDecoder(state), stock_wan.latents(version, FRAMES, 4, 4).to(device, torch.float16))
    return state


def decode(decoder, latents):
    for t in range(latents.shape[2]):
        frames = decoder.step(latents[:, :, t])  # held during the next step, as whoever writes them holds them
    return frames.shape


@pytest.mark.parametrize(("version", "size", "bands"), CASES, ids=str)
def test_a_decode_takes_what_was_counted(device, version, size, bands):
    assert bands in plan.PLANS
    state = loaded(version, device)
    width, height = (pixels // stock_wan.SCALE[version] for pixels in size)
    counted = plan.room.measured(state, height, width, bands)
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    if counted.peak * 1.2 > torch.cuda.mem_get_info(device)[0]:
        pytest.skip(f"the GPU has too little memory for {counted.peak / 1e9:.1f} GB")
    latents = stock_wan.latents(version, FRAMES, height, width).to(device, torch.float16)
    away = Away(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    try:
        decode(WanDecoder(state, bands, away), latents)
        peak = torch.cuda.max_memory_allocated(device) - before
        assert away.nbytes == counted.away
    finally:
        away.close()
    numbers = f"{peak / 1024**2:.0f} MiB were taken, {counted.peak / 1024**2:.0f} counted"
    assert abs(peak - counted.peak) <= OFF_BY * peak + SLACK, numbers
    needed = plan.of(state, height, width, bands, memory.allocator_joins()).needed
    assert peak <= needed, f"{numbers}, {needed / 1024**2:.0f} asked for"


@pytest.mark.parametrize("version", ["2.1", "2.2"])
@torch.inference_mode()
def test_exact_takes_what_is_said_of_it(device, version):
    """By the pixel, with nothing that it remembers on the GPU, and with all."""
    way = {"2.1": wan.EXACT_21, "2.2": wan.EXACT_22}[version]
    vae = random_module(version, device).to(torch.bfloat16)
    size = 832, 480
    working, staying = (math.prod(size) * each for each in (way.little.working, way.little.staying))
    width, height = (pixels // stock_wan.SCALE[version] for pixels in size)
    latents = stock_wan.latents(version, 5, height, width).to(device, torch.bfloat16)
    for said, leave in ((working, True), (working + staying, False)):
        away = Away(device)
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        try:
            exact.decode(
                vae,
                latents,
                lambda frames_cthw: None,
                way.layer(vae),
                lambda output: way.to_frames(vae, output),
                histories=Histories(away) if leave else None,
            )
            torch.cuda.synchronize(device)
        finally:
            away.close()
        peak = torch.cuda.max_memory_allocated(device) - before
        assert abs(peak - said) <= OFF_BY * peak + SLACK, f"{peak / 1024**2:.0f} MiB of {said / 1024**2:.0f}"
