"""What a decode will take, counted without data: what its steps take with data, and less with every plan.

That it is what a GPU is asked for is in tests/cuda/test_memory.py.
"""

from collections import deque

import pytest
import torch
from async_frame_pipeline.pipeline.decoders import away as away_module
from async_frame_pipeline.pipeline.decoders.away import Away
from async_frame_pipeline.pipeline.decoders.fast import cuda, kernels, network, room, weights
from async_frame_pipeline.pipeline.decoders.fast.network import Bands, WanDecoder
from async_frame_pipeline.pipeline.decoders.fast.plan import PLANS

from . import stock_wan

VERSIONS = pytest.mark.parametrize("version", ["2.1", "2.2"])
PUBLISHED_WIDTH = {"2.1": 96, "2.2": 256}


def taken(state, height, width, bands, monkeypatch):
    """As `room.measured`, of steps with real tensors on the CPU; the kernels, which take no memory, are left out."""
    with room._Counter() as counter:

        class LikeOnAGpu(Away):
            """What leaves is held until the next leaves, and main memory is another memory."""

            def __init__(self):
                super().__init__(torch.device("cpu"))
                self.held = deque(maxlen=away_module.LEAVING)

            def put(self, key, tensors):
                self.held.append(tensors.copy())
                super().put(key, tensors)

        def touched(nbytes):
            block = torch.empty(nbytes, dtype=torch.uint8)
            counter.held -= block.nbytes
            [mark] = [mark for mark, (_, held) in counter._live.items() if mark == block.untyped_storage()._cdata]
            counter._live[mark] = counter._live[mark][0], 0
            return block

        monkeypatch.setattr(away_module, "_touched", touched)
        away = LikeOnAGpu()
        decoder = WanDecoder(state, bands, away)
        latent = torch.zeros(1, state.latent[0].shape[1], height, width)
        counter.peak = counter.held = 0
        frames = None
        for _ in range(3):
            frames = decoder.step(latent)
        assert frames is not None
        return room.Measured(counter.peak, away.nbytes)


@pytest.fixture
def no_kernels(monkeypatch):
    monkeypatch.setattr(kernels, "_on", lambda tensor: cuda)
    monkeypatch.setattr(cuda, "_launch", lambda name, threads, args, **made_for: None)
    bmm, mm = torch.bmm, torch.mm  # float32 in this file
    monkeypatch.setattr(torch, "bmm", lambda a, b, out_dtype: bmm(a, b))
    monkeypatch.setattr(torch, "mm", lambda a, b, out_dtype=None: mm(a.to(b.dtype), b))


@VERSIONS
@pytest.mark.parametrize("bands", [*PLANS, (Bands(3, 1), Bands(7, 2)), (Bands(5),)], ids=str)
def test_it_is_what_steps_with_data_take(version, bands, no_kernels, monkeypatch):
    state = weights.load(stock_wan.module(version, 8).state_dict(), torch.device("cpu"), torch.float32, in_rows=False)
    counted, real = room.measured(state, 6, 4, bands), taken(state, 6, 4, bands, monkeypatch)
    assert real.peak == pytest.approx(counted.peak, rel=0.01)
    assert real.away == pytest.approx(counted.away, rel=0.01)  # but for where tensors begin


@pytest.fixture(scope="module", params=PUBLISHED_WIDTH)
def published(request):
    """Weights of the published size, without data."""
    version = request.param
    with pytest.MonkeyPatch.context() as patch, torch.device("meta"):
        # What these find in the data.
        patch.setattr(weights, "_largest_input", lambda gamma: 1.0)
        patch.setattr(weights, "fit", lambda weight, longest: (weight, 1.0))
        patch.setattr(weights, "weight_points", lambda weight, frames, longest: ([weight[:, :, 0]] * (frames + 2), 1.0))
        state = stock_wan.empty(version, PUBLISHED_WIDTH[version]).state_dict()
        return version, weights.load(state, torch.device("meta"), torch.float16)


def test_every_plan_takes_less_than_the_one_before_and_moves_more(published):
    version, state = published
    width, height = (pixels // stock_wan.SCALE[version] for pixels in (1280, 704))
    all_measured = [room.measured(state, height, width, bands) for bands in PLANS]
    peaks, away = [each.peak for each in all_measured], [each.away for each in all_measured]
    assert peaks == sorted(peaks, reverse=True) and len(set(peaks)) == len(peaks)
    assert away == sorted(away)


def test_it_grows_with_the_frame(published):
    version, state = published
    small, large = (room.measured(state, 32, width, PLANS[1]).peak for width in (32, 64))
    assert 1.8 * small < large < 2.2 * small


@pytest.mark.parametrize("published", ["2.2"], indirect=True)
def test_the_products_of_the_head_count(published, monkeypatch):
    """Of small frames, and 12 channels, they are the most there is at a time."""
    version, state = published
    height, width = 192 // stock_wan.SCALE[version], 320 // stock_wan.SCALE[version]
    with_products = room.measured(state, height, width).peak

    def without_products(carried, frames, weight, bias):
        return torch.empty(len(bias), len(frames), *frames.shape[1:3]), torch.empty_like(carried)

    monkeypatch.setattr(network, "head", without_products)
    assert with_products > 1.03 * room.measured(state, height, width).peak
