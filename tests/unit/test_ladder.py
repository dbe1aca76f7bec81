"""The ladder: which way is taken, what is said, and what of an error the user sees."""

import gc
import logging
import weakref

import pytest
import torch
from async_frame_pipeline.pipeline import engine

from . import in_comfyui

from async_frame_pipeline.nodes import families, ladder
from async_frame_pipeline.pipeline.decoders.fast.plan import NoRoom
from async_frame_pipeline.pipeline.report import Decoded
from async_frame_pipeline.pipeline.text import Text, parts
from async_frame_pipeline.nodes.families.family import Family, Job, Way
from comfy.model_management import InterruptProcessingException


class Step(Way):
    """Does what the test says: "why not", an error, or works."""

    def __init__(self, name, does=None, last=False, after_out_of_memory=False):
        self.name, self.last, self.after_out_of_memory = name, last, after_out_of_memory
        self._does = does

    def why_not(self, job):
        return self._does if isinstance(self._does, str) else None

    def decode(self, job):
        job.output.tried.append(self.name)
        if isinstance(self._does, BaseException):
            raise self._does


class Output:
    def __init__(self):
        self.tried = []
        self.report = self
        self.decoded = None

    def text(self):
        return "the report"


class Vae:
    device = torch.device("cpu")


@pytest.fixture
def climb(caplog):
    """Decode by these ways; returns the names of those tried, and what was said."""

    def climb(*ways, decoder="auto"):
        caplog.set_level(logging.INFO, "async-frame-pipeline")
        job = Job(Vae(), {}, decoder, Output(), Family("Test", lambda vae: True, ways))
        try:
            ladder.climb_down(job)
        finally:
            climb.tried = job.output.tried
            climb.said = [record.getMessage().partition(": ")[2] for record in caplog.records]
        return job

    return climb


def failed(error):
    made = engine.DecodeError(f"{type(error).__name__}: {error}")
    made.__cause__ = error
    return made


OOM = torch.OutOfMemoryError("no memory")


def test_the_first_that_can_is_taken_and_said(climb):
    job = climb(Step("fast", "no GPU"), Step("exact"), Step("stock", last=True))
    assert climb.tried == ["exact"]
    assert climb.said == ["exact Test decode (not fast: no GPU), the report"]
    decoded = job.output.decoded
    assert (decoded.decoder, decoded.reason, decoded.why_not_fast) == ("exact", "no GPU", "no GPU")


def test_what_was_asked_for_needs_no_reason(climb):
    job = climb(Step("fast", "exact was asked for"), Step("exact"), decoder="exact")
    assert (job.output.decoded.decoder, job.output.decoded.reason) == ("exact", "")
    job = climb(Step("fast"), Step("exact"), decoder="auto")
    assert job.output.decoded == Decoded("fast")


def test_what_fails_is_followed_by_the_next_which_knows_why(climb):
    job = climb(Step("exact", failed(ValueError("x"))), Step("stock", last=True))
    assert climb.tried == ["exact", "stock"]
    assert job.reason == "exact failed: ValueError: x"
    assert climb.said == [], "the last way says itself why it was taken"


def test_other_frames_than_promised_are_a_failure_of_the_way(climb):
    climb(Step("exact", engine.FrameCountError("the decoder delivered 3 frames")), Step("stock", last=True))
    assert climb.tried == ["exact", "stock"]


@pytest.mark.parametrize("error", [OOM, failed(OOM)], ids=["in a lane", "in the decoder"])
def test_out_of_memory_goes_by_the_ways_for_it(climb, error):
    climb(
        Step("fast", error),
        Step("exact", error),
        Step("again", error, after_out_of_memory=True),
        Step("tiled", last=True, after_out_of_memory=True),
        Step("stock", last=True),
    )
    assert climb.tried == ["fast", "exact", "again", "tiled"]


def test_other_failures_pass_those_by(climb):
    climb(Step("exact", failed(ValueError("x"))), Step("again", after_out_of_memory=True), Step("stock", last=True))
    assert climb.tried == ["exact", "stock"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_error_of_a_lane_is_the_users(climb, error):
    with pytest.raises(type(error)):
        climb(Step("exact", error), Step("stock", last=True))
    assert climb.tried == ["exact"]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, ValueError])
def test_what_failed_holds_no_memory_while_the_next_way_runs(climb, error):
    held = []

    class Fails(Step):
        def decode(self, job):
            activations = torch.zeros(8)
            held.append(weakref.ref(activations))
            try:
                raise error("x")
            except error as own:
                raise engine.DecodeError("x") from own

    class Looks(Step):
        def decode(self, job):
            assert held[0]() is None

    gc.collect()
    gc.disable()
    try:
        climb(Fails("exact"), Looks("again", after_out_of_memory=error is torch.OutOfMemoryError, last=True))
    finally:
        gc.enable()
    assert held


@pytest.mark.parametrize("error", [OOM, ValueError("x"), failed(ValueError("x"))])
def test_an_error_of_the_last_way_is_the_users(climb, error):
    with pytest.raises(type(error)):
        climb(
            Step("exact", failed(OOM)),
            Step("tiled", error, last=True, after_out_of_memory=True),
            Step("stock", last=True),
        )
    assert climb.tried == ["exact", "tiled"]


def test_a_cancel_that_came_as_an_error_of_the_decoder_is_one(climb):
    """As older ComfyUIs' operations raise it."""
    cancel = InterruptProcessingException()
    with pytest.raises(InterruptProcessingException):
        climb(Step("exact", failed(cancel)), Step("stock", last=True))


def test_what_does_not_fit_says_so_and_counts_as_out_of_memory(climb):
    why = Text("the least it takes are %needed% GiB", needed="2.3")
    job = climb(
        Step("fast", failed(NoRoom(why))),
        Step("again", "nothing smaller", after_out_of_memory=True),
        Step("tiled", last=True, after_out_of_memory=True),
    )
    assert climb.tried == ["fast", "tiled"]
    assert job.reasons["fast"] is why


def test_fast_in_vain_is_a_warning(climb):
    job = climb(Step("fast", "no GPU"), Step("exact"), decoder="fast")
    assert climb.said[0] == "the fast decoder cannot be used: no GPU"
    decoded = job.output.decoded
    assert decoded.notes == ["the fast decoder cannot be used: no GPU"]
    assert (decoded.reason, decoded.why_not_fast) == ("", "no GPU"), "said once"


def test_why_a_way_failed_can_be_said_in_other_languages(climb):
    reason = Text("the GPU is older than %name%", name="Ampere")
    job = climb(Step("fast", failed(ValueError(reason))), Step("exact"))
    assert job.output.decoded.why_not_fast == "fast failed: the GPU is older than Ampere"
    assert parts(job.output.decoded.why_not_fast)["values"]["error"] == parts(reason)


def test_fast_where_a_family_has_none_is_a_warning(climb):
    job = climb(Step("exact"), decoder="fast")
    assert climb.said[0] == "the fast decoder cannot be used: there is no fast decoder for Test"
    assert job.output.decoded.why_not_fast == "there is no fast decoder for Test"


def test_a_vae_of_strangers_may_name_its_device_in_words(climb, monkeypatch):
    """Theirs goes the stock way, whatever else it is."""
    monkeypatch.setattr(Vae, "device", "cuda")
    climb(Step("stock", last=True))
    assert climb.tried == ["stock"]


def test_an_unknown_vae_is_not_streamed():
    vae = in_comfyui.vae("image")
    job = families.job(vae, {"samples": torch.zeros(1, 4, 2, 2)}, "auto", Output())
    assert [way.name for way in job.family.ways] == ["late", "tiled", "stock"]
    known = ", ".join(family.name for family in families.FAMILIES)
    assert job.reason == f"{type(vae.first_stage_model).__name__} is not a VAE of {known}"
