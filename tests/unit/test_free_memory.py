"""How much memory a decode may take: of what is free, and of what other models hold."""

import types

import psutil
import pytest
import torch

from . import in_comfyui  # noqa: F401

import comfy.model_management as model_management
from async_frame_pipeline.nodes.comfyui import memory

GPU, OTHER_GPU = torch.device("cuda", 0), torch.device("cuda", 1)
GIB = 1024**3
FREE, RESERVED = 20 * GIB, GIB // 2


class Patcher:
    """As far as `room` looks at a ModelPatcher. `gib` of weights, of which `there` are on the GPU."""

    parent = None

    def __init__(self, gib, there, module=None, load_device=GPU, offload_device=torch.device("cpu")):  # noqa: B008
        self.offload_device = offload_device
        self.model = torch.nn.Module() if module is None else module
        self.load_device = load_device
        self._gib, self._there = gib, there

    def model_size(self):
        return int(self._gib * GIB)

    def loaded_size(self):
        return int(self._there * GIB)


@pytest.fixture
def room(monkeypatch):
    """`memory.room` for a model of 1 GiB of which half is loaded, with these patchers of others loaded."""

    def room(*others, model=None, gone=()):
        loaded = [*map(model_management.LoadedModel, others), *gone]
        monkeypatch.setattr(model_management, "current_loaded_models", loaded)
        monkeypatch.setattr(model_management, "get_free_memory", lambda device: {GPU: FREE}[device])
        monkeypatch.setattr(model_management, "extra_reserved_memory", lambda: RESERVED)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=10 * GIB))
        return memory.room(types.SimpleNamespace(device=GPU), model or Patcher(1, 0.5))

    return room


def test_of_what_is_free_the_model_and_what_is_reserved_take_their_part(room):
    there = room(model=Patcher(2, 2))
    assert there.free == FREE - RESERVED, "all of the model is there already"
    there = room(model=Patcher(2, 0.5))
    assert there.free == pytest.approx(FREE - RESERVED - 1.1 * 1.5 * GIB, abs=1), "a tenth more than its weights"
    assert there.emptied == there.free


def test_of_main_memory_not_all_is_taken(room):
    assert room().main == 8 * GIB


def test_other_models_can_make_room_by_what_of_them_is_on_the_gpu(room):
    alone = room()
    there = room(Patcher(14, 10), Patcher(3, 0), Patcher(1, 1))
    assert there.free == alone.free, "they would have to leave first"
    assert there.emptied == alone.free + 11 * GIB


def test_its_own_model_makes_no_room(room):
    model = Patcher(1, 0.5)
    clone = Patcher(1, 0.5, module=model.model)  # as LoRAs and the like make, over the same weights
    there = room(model, clone, model=model)
    assert there.emptied == there.free


def test_what_another_gpu_holds_makes_no_room(room):
    there = room(Patcher(14, 14, load_device=OTHER_GPU))
    assert there.emptied == there.free


def test_a_model_that_is_gone_makes_no_room(room):
    """ComfyUI keeps weak references: a patcher can be gone while something still holds its module."""
    gone = model_management.LoadedModel(Patcher(14, 14))
    assert gone.model is None
    there = room(Patcher(2, 2), gone=[gone])
    assert there.emptied == there.free + 2 * GIB


def test_a_model_that_stays_on_the_gpu_when_it_is_unloaded_makes_no_room(room):
    """As with --highvram."""
    assert room(Patcher(4, 4, offload_device=GPU)) == room()
