"""Memory runs out in the middle of a Wan decode: what follows, what the file gets, and what is given back.

On the CPU. Nothing is in bands or in main memory unless a test says so.
"""

import pytest
import torch
from async_frame_pipeline.pipeline.decoders.fast.network import Bands
from async_frame_pipeline.pipeline.decoders.fast.plan import NoRoom, Plan
from async_frame_pipeline.pipeline.text import Text

from . import in_comfyui
from .streams import Kept, another_error, out_of_memory

import comfy.model_management as model_management
from async_frame_pipeline.nodes import decoding
from async_frame_pipeline.nodes.comfyui import memory, vaes
from async_frame_pipeline.nodes.families import wan

FRAMES = 13  # of four latent ones
IN_BANDS = Plan((Bands(2, 1), Bands(3, 2)), 1000, 1)
# Of frames in [0, 1]: half of what test_fast_decoder.py allows in [-1, 1].
ROUNDING = 1e-5


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture(autouse=True)
def whole(monkeypatch):
    """For videos as small as these there is nothing less."""
    monkeypatch.setattr(wan, "planned", lambda *args: Plan((), 1000, 0))


@pytest.fixture(params=["wan 2.1", "wan 2.2"])
def vae(request):
    vae = in_comfyui.vae(request.param)
    wan.loaded(vae)  # both compared before a test counts
    decoding.decode_image(vae, {"samples": torch.zeros(1, vae.latent_channels, 1, 1, 1)}, "exact")
    return vae


@pytest.fixture
def samples(vae):
    generator = torch.Generator().manual_seed(0)
    return {"samples": torch.randn(1, vae.latent_channels, 4, 4, 3, generator=generator)}


cancel = model_management.interrupt_current_processing  # as the user's button does it


@pytest.fixture
def happens(vae, monkeypatch):
    """Let something happen: at these steps of the first, second, ... fast decode, and at these calls of the VAE's own
    decoder, counted over all decodes.
    """

    def happens(*fast, own=None):
        decodes, calls = iter(fast), []
        first_layer = vae.first_stage_model.decoder.conv1
        own_steps, own_forward = wan.steps, first_layer.forward

        def steps(decoder, latent):
            at = next(decodes, {})
            for number, frames in enumerate(own_steps(decoder, latent), 1):
                at.get(number, int)()
                yield frames

        def forward(*args, **kwargs):
            calls.append(args)
            (own or {}).get(len(calls), int)()
            return own_forward(*args, **kwargs)

        monkeypatch.setattr(wan, "steps", steps)
        monkeypatch.setattr(first_layer, "forward", forward)

    return happens


@pytest.fixture
def decode(vae, samples):
    """Decode into a file's stand-in; gives it and the report."""

    def decode(decoder="auto"):
        sink = decode.sink = Kept()
        report = decoding.decode_into(vae, samples, [sink], decoder=decoder)
        assert sink.frames.shape[0] == report.frames == FRAMES, "each frame is in it once"
        return sink, report

    return decode


def attempts(sink) -> int:
    """How often the file was begun; all but the last beginnings were given up."""
    calls = [call for call in sink.calls if call != "write"]
    assert calls == ["open", "abort"] * (calls.count("open") - 1) + ["open", "finish", "publish"]
    return calls.count("open")


# How the report says what was done.
LESS, ROOM, TILES = "in smaller bands", "as little in memory as can be", "decoding in tiles as the stock node does"


def done(report) -> list[str]:
    return [mark for note in report.decoded.notes for mark in (LESS, ROOM, TILES) if mark in note.template]


def test_fast_with_less_follows_fast(vae, samples, happens, decode):
    happens({3: out_of_memory})
    sink, report = decode()
    assert attempts(sink) == 2
    assert (report.decoded.decoder, report.decoded.reason, done(report)) == ("fast", "out of memory", [LESS])
    torch.testing.assert_close(sink.frames, vaes.stock_decode(vae, samples), atol=ROUNDING, rtol=0)


def test_exact_follows_that(vae, samples, happens, decode):
    happens({3: out_of_memory}, {1: out_of_memory})
    sink, report = decode()
    assert attempts(sink) == 3
    assert (report.decoded.decoder, report.decoded.why_not_fast, done(report)) == ("exact", "out of memory", [LESS])
    assert torch.equal(sink.frames, vaes.stock_decode(vae, samples))


def test_exact_with_room_follows_that(vae, samples, happens, decode):
    happens({4: out_of_memory}, {4: out_of_memory}, own={2: out_of_memory})
    sink, report = decode()
    assert attempts(sink) == 4
    assert (report.decoded.decoder, report.decoded.why_not_fast, done(report)) == (
        "exact",
        "out of memory",
        [LESS, ROOM],
    )
    assert report.slots == 2
    assert torch.equal(sink.frames, vaes.stock_decode(vae, samples))


def test_tiles_come_last(vae, samples, happens, decode):
    happens({4: out_of_memory}, {4: out_of_memory}, own={2: out_of_memory, 4: out_of_memory})
    sink, report = decode()
    assert attempts(sink) == 5
    assert (report.decoded.decoder, report.decoded.why_not_fast, done(report)) == (
        "tiled",
        "out of memory",
        [LESS, ROOM, TILES],
    )
    assert torch.equal(sink.frames, vaes.tiled_decode(vae, samples["samples"]))


def test_exact_asked_for_passes_by_fast_whatever_fails(happens, decode):
    happens({1: out_of_memory}, own={2: out_of_memory})
    sink, report = decode("exact")
    assert attempts(sink) == 2
    assert (report.decoded.decoder, report.decoded.why_not_fast, done(report)) == (
        "exact",
        "exact was asked for",
        [ROOM],
    )


def test_another_error_does_not_make_it_try_fast_again(vae, samples, happens, decode):
    happens({3: another_error})
    sink, report = decode()
    assert attempts(sink) == 2
    assert report.decoded.why_not_fast == "fast failed: RuntimeError: a test's"
    assert report.decoded.decoder == "exact" and done(report) == []
    assert torch.equal(sink.frames, vaes.stock_decode(vae, samples))


# -- what was planned -----------------------------------------------------------------------------


def test_less_is_less_than_what_was_tried(happens, decode, monkeypatch):
    asked = []

    def planned(model, latent, there, below=None):
        asked.append(below)
        return Plan((), 1000, 0) if below is None else IN_BANDS

    monkeypatch.setattr(wan, "planned", planned)
    happens({2: out_of_memory})
    _, report = decode()
    assert asked == [None, 750]
    assert report.decoded.decoder == "fast"
    assert any("decoded in 3 bands" in said for said in report.verdict())


def test_where_no_plan_fits_it_is_not_tried_with_less(decode, monkeypatch):
    asked = []

    def planned(model, latent, there, below=None):
        asked.append(below)
        raise NoRoom(Text("the least it takes are %needed% GiB", needed="2.3"))

    monkeypatch.setattr(wan, "planned", planned)
    sink, report = decode()
    assert asked == [None]
    assert (report.decoded.decoder, done(report)) == ("exact", [])
    assert report.decoded.reason == report.decoded.why_not_fast == "the least it takes are 2.3 GiB"


# -- main memory ----------------------------------------------------------------------------------


@pytest.fixture
def held(monkeypatch):
    """Of each `Away` of a test, how much it held at most, when it is asked, and what it holds then."""

    class Watched(memory.Away):
        def __init__(self, *args):
            super().__init__(*args)
            self.most = 0
            there.append(self)

        def put(self, *args, **kwargs):
            super().put(*args, **kwargs)
            self.most = max(self.most, self.nbytes)

    there = []
    monkeypatch.setattr(memory, "Away", Watched)
    return lambda: [(away.most > 0, away.nbytes) for away in there]


def in_bands(monkeypatch):
    monkeypatch.setattr(wan, "planned", lambda *args: IN_BANDS)


def test_main_memory_is_given_back_after_a_video(decode, held, monkeypatch):
    in_bands(monkeypatch)
    _, report = decode()
    assert held() == [(True, 0)]
    assert any("kept in main memory" in said for said in report.verdict())


def test_main_memory_is_given_back_when_memory_runs_out(happens, decode, held, monkeypatch):
    """By each of the ways, before the next one begins."""
    in_bands(monkeypatch)
    happens({3: out_of_memory}, {4: out_of_memory}, own={2: out_of_memory})
    _, report = decode()
    assert done(report) == [LESS, ROOM]
    assert held() == [(True, 0), (True, 0), (False, 0), (True, 0)], "fast, fast with less, exact, exact with room"


def test_main_memory_is_given_back_after_an_error(happens, decode, held, monkeypatch):
    in_bands(monkeypatch)
    happens({3: another_error})
    decode()
    assert held() == [(True, 0), (False, 0)]


@pytest.mark.parametrize(
    "fast, own",
    [
        pytest.param([{3: cancel}], {}, id="fast"),
        pytest.param([{3: out_of_memory}, {2: cancel}], {}, id="fast with less"),
        pytest.param([{3: out_of_memory}] * 2, {2: out_of_memory, 4: cancel}, id="exact with room"),
    ],
)
def test_a_cancel_ends_it_and_gives_main_memory_back(happens, decode, held, monkeypatch, fast, own):
    in_bands(monkeypatch)
    happens(*fast, own=own)
    with pytest.raises(model_management.InterruptProcessingException):
        decode()
    assert held()[-1] == (True, 0)
    assert {nbytes for _, nbytes in held()} == {0}
    assert len(held()) == sum(map(len, fast)) + len(own), "no other way follows"
    assert decode.sink.calls[-1] == "abort" and "publish" not in decode.sink.calls
    assert sum(map(len, decode.sink.chunks)) < FRAMES, "it went on to the end"
