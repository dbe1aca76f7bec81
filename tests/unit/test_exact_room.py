"""What the exact decode does with the GPU memory that there is, and what it says of it."""

import types

import pytest
import torch

from . import in_comfyui  # noqa: F401

from async_frame_pipeline.nodes.comfyui import memory
from async_frame_pipeline.nodes.families import ways
from async_frame_pipeline.pipeline.decoders.families import recipe, wan
from async_frame_pipeline.pipeline.decoders.fast.plan import NoRoom, Room

FRAMES, HEIGHT, WIDTH = 33, 720, 1280
PIXELS = HEIGHT * WIDTH
LITTLE = wan.EXACT_21.little
ALL = (LITTLE.working + LITTLE.staying) * recipe.GAPS_WITHOUT_PAUSES
AWAY = LITTLE.working * recipe.GAPS_WITHOUT_PAUSES
PAUSED = LITTLE.working * recipe.GAPS


@pytest.fixture
def make_room(monkeypatch):
    """`_make_room` with so many bytes for each pixel on the GPU, and in main memory."""

    def make_room(there, main=LITTLE.histories):
        room = Room(0, int(there * PIXELS), int(main * PIXELS))
        monkeypatch.setattr(memory, "room", lambda vae, model: room)
        monkeypatch.setattr(memory, "load_for_decoding", lambda vae, latent, needed: None)
        monkeypatch.setattr(memory, "give_pieces_back", lambda: None)
        vae = types.SimpleNamespace(
            device=torch.device("cuda"), vae_dtype=torch.bfloat16, patcher=None, first_stage_model=None
        )
        job = types.SimpleNamespace(vae=vae, latent=None, size=(FRAMES, HEIGHT, WIDTH))
        fitted = EXACT._make_room(job, keep=True)
        return fitted.keeps, bool(fitted.pauses), [str(text) for text in fitted.said]

    return make_room


_LITTLE = recipe.Little(LITTLE.histories, LITTLE.working, LITTLE.staying, lambda model: [torch.nn.Identity()])
EXACT = ways.Exact(recipe.Hooked(lambda model: None, frames_per_slot=2, little=_LITTLE))


def test_the_more_there_is_the_less_is_done(make_room):
    assert make_room(ALL + 1) == (True, False, []), "all on the GPU"
    assert make_room(ALL - 1) == (False, False, []), "histories away"
    assert make_room(AWAY - 1) == (False, True, []), "and pauses"


def test_it_is_said_where_cudnn_may_take_other_kernels(make_room):
    assert make_room(PAUSED + 1)[2] == []
    [said] = make_room(PAUSED - 1)[2]
    assert "other kernels" in said


def test_main_memory_that_does_not_suffice_is_an_error_before_anything_is_loaded(make_room):
    with pytest.raises(NoRoom, match="GiB more of main memory"):
        make_room(AWAY, main=LITTLE.histories - 1)
