"""Note [The barriers of what is away] without a GPU: the tests of tests/cuda/test_away.py on a simulated one."""

from types import SimpleNamespace

import pytest
from async_frame_pipeline.pipeline.decoders import away as away_module
from async_frame_pipeline.pipeline.decoders.away import Away

from ..cuda import test_away as on_a_gpu
from . import simulated_cuda

WITHOUT = sorted(name for name in vars(on_a_gpu) if name.startswith("test_without_"))


@pytest.fixture(params=[5e-6, 100e-6])
def device(request, monkeypatch):
    """With a quick host and a slow one."""
    gpu = simulated_cuda.Gpu(host_seconds=request.param)

    def room(away, key, tensors, growth):
        return away._host.get(key) or [simulated_cuda.Tensor(gpu, simulated_cuda.Memory()) for _ in tensors]

    monkeypatch.setattr(Away, "_room", room)
    for module in (away_module, on_a_gpu):
        monkeypatch.setattr(module, "torch", gpu)
    return SimpleNamespace(type="cuda")


@pytest.fixture(params=[1, 3])
def leaving(request, monkeypatch):
    monkeypatch.setattr(away_module, "LEAVING", request.param)
    return request.param


@pytest.mark.parametrize("slow", [(), ("decoder",), ("out",), ("back",), ("decoder", "out", "back")])
@pytest.mark.parametrize("groups", [1, 2, 4, 6])
def test_whatever_is_slow(device, leaving, slow, groups):
    on_a_gpu.test_whatever_is_slow(device, leaving, slow, groups)


@pytest.mark.parametrize("name", WITHOUT)
def test_without_one_of_them_something_is_wrong(device, leaving, name, monkeypatch):
    getattr(on_a_gpu, name)(device, leaving, monkeypatch)


def test_what_comes_in_vain_lands_on_nothing_else(device):
    on_a_gpu.test_what_comes_in_vain_lands_on_nothing_else(device)


def test_each_barrier_is_taken_away_once():
    barriers = {name for name in vars(Away) if name.startswith("fence_") or name == "free"}
    assert {f"test_without_{name.removeprefix('fence_')}" for name in barriers} == {
        "_".join(name.split("_")[:3]) for name in WITHOUT
    }
