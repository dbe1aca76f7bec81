"""Which plan is chosen for the memory there is: the one that moves the fewest bytes."""

import re
from pathlib import Path

import pytest
import torch
from async_frame_pipeline.pipeline.decoders.fast import plan as plans
from async_frame_pipeline.pipeline.decoders.fast.plan import NoRoom, Plan, Room

from . import in_comfyui  # noqa: F401

from async_frame_pipeline.nodes.comfyui import server
from async_frame_pipeline.nodes.families import wan

REPO = Path(__file__).resolve().parents[2]
MIB = 1024**2
GIB = 1024**3
STEPS = 9
PLENTY = 64 * GIB
# What each of PLANS takes: less and less of the GPU's memory, the last ones at main memory's cost, as `plan.of` counts.
NEEDED = [int(gib * GIB) for gib in (8, 5, 4, 3.8, 3.6, 3.4, 3, 2.5, 2, 1.5, 1)]
AWAY = [0, 0, *(n * 100 * MIB for n in range(1, 10))]
ALL = [Plan(bands, needed, away) for bands, needed, away in zip(plans.PLANS, NEEDED, AWAY, strict=True)]


def plan_of(bands):
    return ALL[plans.PLANS.index(bands)]


def chosen(free, emptied=None, main=PLENTY, steps=STEPS, below=None):
    """The number of the plan that is chosen for so many GiB."""
    free = int(free * GIB)
    there = Room(free, free if emptied is None else int(emptied * GIB), main)
    return ALL.index(plans.choose(plan_of, there, steps, below))


def test_where_all_fits_nothing_is_done():
    asked = []

    def counted(bands):
        asked.append(bands)
        return plan_of(bands)

    assert plans.choose(counted, Room(8 * GIB, 8 * GIB, 0), STEPS) == ALL[0]
    assert asked == [plans.PLANS[0]], "the others need not even be counted"


@pytest.mark.parametrize("number", range(len(ALL)))
def test_the_fastest_that_fits_is_taken(number):
    assert chosen(NEEDED[number] / GIB) == number


@pytest.mark.parametrize("number", range(1, len(ALL)))
def test_a_byte_too_few_is_too_few(number):
    free = NEEDED[number - 1] - 1
    assert plans.choose(plan_of, Room(free, free, PLENTY), STEPS) == ALL[number]


def test_a_plan_that_moves_nothing_beats_unloading_a_model():
    assert chosen(free=5, emptied=24) == 1


def test_little_away_beats_unloading_much():
    """100 MiB in each of 9 steps, against 0.8 GiB of a model, twice since it must be loaded again."""
    assert chosen(free=4.2, emptied=24) == 2


def test_unloading_a_little_beats_much_away():
    """A model's 100 MiB once, against 100 in each step of a long video."""
    assert chosen(free=4.9, emptied=24, steps=200) == 1


def test_a_short_video_sends_away_what_a_long_one_makes_room_for():
    assert [chosen(free=4.2, emptied=24, steps=steps) for steps in (9, 1000)] == [2, 1]


def test_what_main_memory_cannot_hold_does_not_count():
    assert chosen(free=4.1, emptied=24, main=0) == 1
    assert chosen(free=4.1, main=99 * MIB) == 1, "the least that main memory allows is tried"


def test_after_memory_ran_out_less_is_taken_whatever_is_said_to_be_free():
    assert chosen(free=24, below=NEEDED[0]) == 1
    assert chosen(free=24, below=int(NEEDED[0] * wan.LESS)) == 1
    assert chosen(free=24, below=NEEDED[1]) == 2
    with pytest.raises(NoRoom):
        chosen(free=24, below=NEEDED[-1])


def test_the_least_is_tried_where_nothing_fits():
    assert chosen(free=0.5, emptied=0.9) == len(ALL) - 1
    assert chosen(free=-2) == len(ALL) - 1


def test_where_nothing_is_below_it_says_what_it_would_take():
    with pytest.raises(NoRoom) as raised:
        plans.choose(plan_of, Room(5 * GIB, 5 * GIB, 3 * GIB), STEPS, below=NEEDED[-1])
    assert str(raised.value) == (
        "it needs at least 1.0 GiB of GPU memory and 0.9 of main memory, there are 1.0 and 3.0"
    )
    assert isinstance(raised.value, torch.OutOfMemoryError), "so that the ways for that follow"


class Model:
    """As far as `planned` looks at a `FastWan`."""

    runs_on = torch.device("cuda")

    def plan(self, height, width, bands):
        assert (height, width) == (90, 160)
        return plan_of(bands)


@pytest.fixture
def planned(monkeypatch):
    """The number of the plan for so many GiB, with this setting."""

    def planned(wish, free, emptied):
        asked = []
        monkeypatch.setattr(server, "setting", lambda name: asked.append(name) or wish)
        latent = torch.empty((1, 16, STEPS, 90, 160), device="meta")
        plan = wan.planned(Model(), latent, Room(int(free * GIB), int(emptied * GIB), PLENTY))
        assert asked == ["AsyncFramePipeline.OtherModels"]
        return ALL.index(plan)

    return planned


def test_the_frontend_stores_it_under_that_name():
    frontend = (REPO / "web" / "js" / "lanes.js").read_text(encoding="utf-8")
    [stored] = re.findall(rf"id: '{wan.OTHER_MODELS}',.*?options: \[(.*?)\]", frontend, re.DOTALL)
    assert re.findall(r"value: '(\w+)'", stored) == ["auto", "keep", "unload"]


@pytest.mark.parametrize("wish", [None, "auto", "whatever", 7, ["keep"], {"unload": True}])
def test_without_a_wish_time_decides(planned, wish):
    """Nothing stored, what stands for it, and what a settings file can hold besides."""
    assert planned(wish, free=4.1, emptied=24) == 2
    assert planned(wish, free=7.9, emptied=24) == 1


@pytest.mark.parametrize("free", [NEEDED[-1] / GIB, 2, 4.1, 7.9])
def test_keep_takes_what_fits_beside_the_other_models(planned, free):
    fits = [number for number, needed in enumerate(NEEDED) if needed <= free * GIB]
    assert planned("keep", free, emptied=24) == fits[0]


def test_keep_makes_room_where_nothing_fits_beside_them(planned):
    assert planned("keep", free=0.9, emptied=24) == planned("auto", free=0.9, emptied=24)


def test_unload_takes_the_fastest_that_fits_without_them(planned):
    assert planned("unload", free=2, emptied=24) == 0
    assert planned("unload", free=2, emptied=5.5) == 1


@pytest.fixture
def on_cpu(monkeypatch):
    monkeypatch.setattr(Model, "runs_on", torch.device("cpu"))
    latent = torch.empty((1, 16, STEPS, 90, 160), device="meta")
    return lambda free, below=None: ALL.index(
        wan.planned(Model(), latent, Room(int(free * GIB), PLENTY, PLENTY), below)
    )


def test_on_the_cpu_nothing_is_away_and_nobody_makes_room(on_cpu):
    assert [on_cpu(8), on_cpu(7.9), on_cpu(8, below=NEEDED[0])] == [0, 1, 1]
    for free, below in ((4.9, None), (64, NEEDED[1])):
        with pytest.raises(NoRoom, match="^out of memory$"):
            on_cpu(free, below)


def test_where_nothing_fits_the_least_is_tried_whatever_the_wish(planned):
    assert [planned(wish, free=0.5, emptied=0.9) for wish in ("auto", "keep", "unload")] == [len(ALL) - 1] * 3
