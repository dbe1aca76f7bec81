"""The last sections of the fast decoder in bands, in float32 on the CPU: however many, the frames are the same."""

import functools

import pytest
import torch
from async_frame_pipeline.pipeline.decoders.away import Away
from async_frame_pipeline.pipeline.decoders.fast import network, weights
from async_frame_pipeline.pipeline.decoders.fast.network import Bands, WanDecoder
from async_frame_pipeline.pipeline.decoders.fast.plan import PLANS

from . import stock_wan

CPU = torch.device("cpu")
# Rounding of convolutions over other heights leaves about 2e-6 of outputs near 3; a row too few 7e-4 and more.
TOLERANCE = 1e-5
# As laid out for a GPU, and for a CPU.
VERSIONS = pytest.mark.parametrize("version", ["2.1", "2.2", "2.1 in rows", "2.2 in rows"])
FRAMES, HEIGHT, WIDTH = 4, 7, 2


@functools.cache
def loaded(version):
    version, _, in_rows = version.partition(" ")
    return weights.load(stock_wan.module(version, 4).state_dict(), CPU, torch.float32, bool(in_rows))


def decode(decoder, latents_bcthw):
    return torch.cat([decoder.step(latents_bcthw[:, :, t]) for t in range(latents_bcthw.shape[2])], dim=1)


@functools.cache
def latents(version, height=HEIGHT):
    return stock_wan.latents(version.partition(" ")[0], FRAMES, height, WIDTH)


@functools.cache
def whole(version, height=HEIGHT):
    return decode(WanDecoder(loaded(version)), latents(version, height))


def error(version, bands, height=HEIGHT):
    frames = decode(WanDecoder(loaded(version), bands, Away(CPU)), latents(version, height))
    assert frames.shape == whole(version, height).shape
    return (frames - whole(version, height)).abs().max().item()


@VERSIONS
@pytest.mark.parametrize("count", [2, 3, 5, 13, 1000])
@pytest.mark.parametrize("away", [0, 2, 1000])
def test_however_many_bands_of_the_last_section(version, count, away):
    assert error(version, (Bands(count, min(count, away)),)) < TOLERANCE


@VERSIONS
@pytest.mark.parametrize("bands", PLANS, ids=str)
def test_every_plan(version, bands):
    assert error(version, bands) < TOLERANCE


@VERSIONS
def test_rows_that_are_fewer_than_bands_and_halo(version):
    for height in (1, 2):
        assert error(version, PLANS[-1], height) < TOLERANCE


@VERSIONS
@pytest.mark.parametrize("bands", [(Bands(5),), (Bands(5), Bands()), (Bands(5), Bands(), Bands())], ids=str)
def test_with_one_row_less_to_see_it_is_wrong(version, bands, monkeypatch):
    """In every section that can be in bands. Those at the edges see more than they must."""
    assert error(version, bands, height=15) < TOLERANCE
    monkeypatch.setattr(network, "HALO", network.HALO - 1)
    assert error(version, bands, height=15) > 30 * TOLERANCE


@VERSIONS
@pytest.mark.parametrize("bands", [PLANS[1], PLANS[-1]], ids=str)
def test_a_video_leaves_nothing_for_the_next(version, bands):
    away = Away(CPU)
    decoder = WanDecoder(loaded(version), bands, away)
    first = decode(decoder, latents(version))
    assert (away.nbytes > 0) == any(section.away for section in bands)
    decoder.reset()
    assert away.nbytes == 0
    decoder.step(latents(version, 5)[:, :, 0])  # of another size, and broken off
    decoder.reset()
    assert torch.equal(decode(decoder, latents(version)), first)


@VERSIONS
@pytest.mark.parametrize("puts", [1, 5, 40])
def test_broken_off_in_the_middle_of_a_step_it_begins_anew(version, puts):
    """In any band of any section, while histories are away and on their way."""

    class Failing(Away):
        def put(self, key, tensors):
            nonlocal puts
            puts -= 1
            if not puts:
                raise RuntimeError("not enough memory")
            super().put(key, tensors)

    away = Failing(CPU)
    decoder = WanDecoder(loaded(version), PLANS[-1], away)
    with pytest.raises(RuntimeError, match="not enough memory"):
        decode(decoder, latents(version))
    decoder.reset()
    assert away.nbytes == 0
    frames = decode(decoder, latents(version))
    torch.testing.assert_close(frames, whole(version), atol=TOLERANCE, rtol=0)


@VERSIONS
def test_main_memory_does_not_grow_with_length(version):
    away = Away(CPU)
    decoder = WanDecoder(loaded(version), PLANS[-1], away)
    held = [decoder.step(latents(version)[:, :, t % FRAMES]) is not None and away.nbytes for t in range(8)]
    assert held[2:] == held[2:3] * 6 and held[2] > 0


@VERSIONS
def test_after_the_last_frame_nothing_leaves(version):
    away, latent = Away(CPU), latents(version)
    decoder, put = WanDecoder(loaded(version), PLANS[-1], away), []
    away.put = lambda key, tensors: put.append(key) or Away.put(away, key, tensors)
    frames = [decoder.step(latent[:, :, t], last=t == FRAMES - 1) for t in range(FRAMES)]
    torch.testing.assert_close(torch.cat(frames, dim=1), whole(version), atol=TOLERANCE, rtol=0)
    assert len(put) == (FRAMES - 1) * len(set(put)) > 0
