"""Families streamed by the models' own loops, at every length: the stock bits, what follows a fault in the middle, and
a ComfyUI whose models are not those that are known.
"""

import inspect
import logging
import textwrap

import pytest
import torch
from . import in_comfyui
from ..server.pack import vaes as tiny
from .streams import Kept, another_error, out_of_memory

import comfy.model_management as model_management
from async_frame_pipeline.nodes import decoding, families
from async_frame_pipeline.nodes.comfyui import vaes
from async_frame_pipeline.nodes.families import ways

KINDS = ["hunyuan 1.0", "hunyuan 1.5", "minimax h3", "cogvideox", "seedvr2"]
# MiniMax H3's pieces are of five latent frames and seven: one, two and three of them, whole and not.
LENGTHS = {kind: range(1, 10) for kind in KINDS} | {"minimax h3": (1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 14, 17)}
MOST = {"minimax h3": 17}
# Of what is caught in these models, and of MiniMax H3's own loop, it is called once for each piece.
PIECES = {"minimax h3": lambda model: model.decoder}
UNKNOWN = "exact failed: this ComfyUI decodes in a way this version of the pack does not know"


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def vae(kind):
    return in_comfyui.vae(kind)


def latent_for(vae, frames: int, height: int = 2, width: int = 2) -> dict:
    generator = torch.Generator().manual_seed(frames)
    return {"samples": torch.randn(1, vae.latent_channels, frames, height, width, generator=generator)}


def streamed(vae, samples: dict, monkeypatch) -> torch.Tensor:
    """What comes out where the stock way would be an error."""
    with monkeypatch.context() as without:
        without.setattr(ways.vaes, "stock_decode", None)
        return decoding.decode_image(vae, samples, "exact")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_every_length_has_the_stock_bits(kind, vae, dtype, monkeypatch):
    if dtype is not torch.float32:
        vae = tiny.KINDS[kind](1, dtype=dtype)
    assert vae.vae_dtype == dtype
    for frames in LENGTHS[kind] if dtype is torch.float32 else (2, 5, 9):
        samples = latent_for(vae, frames)
        stock, ours = vaes.stock_decode(vae, samples), streamed(vae, samples, monkeypatch)
        assert ours.dtype == stock.dtype and torch.equal(ours, stock), frames
        assert families.size_of(vae, samples) == tuple(stock.shape[:3])
        assert len(torch.unique(stock)) > 100


def test_odd_sizes(kind, vae, monkeypatch):
    for height, width in ((3, 5), (7, 1)):
        samples = latent_for(vae, 3, height, width)
        assert torch.equal(streamed(vae, samples, monkeypatch), vaes.stock_decode(vae, samples)), (height, width)


# -- faults in the middle ---------------------------------------------------------------------------


@pytest.fixture
def happens(kind, vae):
    """Let something happen once in the second piece of each of the next decodes."""
    hooks = []

    def happens(*faults):
        samples = latent_for(vae, 3)
        decoding.decode_image(vae, samples, "exact")  # what the model does was compared by now
        layer = PIECES.get(kind, lambda model: model.decoder.conv_out)(vae.first_stage_model)
        pieces, rest = [], iter(faults)

        def before(module, args):
            pieces.append(module)
            if len(pieces) == 2:
                pieces.clear()
                next(rest, int)()

        hooks.append(layer.register_forward_pre_hook(before))

    yield happens
    for hook in hooks:
        hook.remove()


def decode(kind, vae):
    """Into a file's stand-in; gives it, the report, and how often it was begun."""
    sink = Kept()
    samples = latent_for(vae, MOST.get(kind, 5))
    report = decoding.decode_into(vae, samples, [sink], decoder="exact")
    assert len(sink.frames) == report.frames == families.size_of(vae, samples)[0], "each frame is in it once"
    calls = [call for call in sink.calls if call != "write"]
    assert calls == ["open", "abort"] * (calls.count("open") - 1) + ["open", "finish", "publish"]
    return sink, report, calls.count("open")


@pytest.fixture
def stock(kind, vae):
    return vaes.stock_decode(vae, latent_for(vae, MOST.get(kind, 5)))


def test_out_of_memory_begins_anew_with_room(kind, vae, stock, happens):
    happens(out_of_memory)
    sink, report, begun = decode(kind, vae)
    assert (report.decoded.decoder, begun) == ("exact", 2)
    assert torch.equal(sink.frames, stock)


def test_out_of_memory_twice_ends_in_the_stock_tiles(kind, vae, happens, monkeypatch):
    happens(out_of_memory, out_of_memory)
    if vae.handles_tiling:  # of its own, which this is not
        monkeypatch.setattr(vae, "decode_tiled_3d", None)
    sink, report, begun = decode(kind, vae)
    assert (report.decoded.decoder, begun) == ("tiled", 3)
    calls = []

    def runs_out(samples):
        calls.append(samples)
        monkeypatch.undo()
        out_of_memory()

    monkeypatch.setattr(type(vae.first_stage_model), "decode", lambda self, samples: runs_out(samples))
    stock = vaes.stock_decode(vae, latent_for(vae, MOST.get(kind, 5)))
    assert len(calls) == 1 and torch.equal(sink.frames, stock)


def test_another_error_goes_the_stock_way(kind, vae, stock, happens):
    happens(another_error)
    sink, report, begun = decode(kind, vae)
    assert (report.decoded.decoder, begun) == ("stock", 2)
    assert torch.equal(sink.frames, stock)


def test_a_cancel_leaves_nothing_behind(kind, vae, stock, happens, monkeypatch):
    happens(model_management.interrupt_current_processing)
    with pytest.raises(model_management.InterruptProcessingException):
        decode(kind, vae)
    samples = latent_for(vae, MOST.get(kind, 5))
    assert torch.equal(vaes.stock_decode(vae, samples), stock), "no hook is left"
    assert torch.equal(streamed(vae, samples, monkeypatch), stock)


# -- a ComfyUI that changed -------------------------------------------------------------------------


@pytest.fixture
def as_stock(caplog):
    """Decode with a VAE that was changed: the frames are the stock node's; gives the line that says why."""

    def as_stock(vae):
        caplog.set_level(logging.INFO, "async-frame-pipeline")
        samples = latent_for(vae, 3)
        assert torch.equal(decoding.decode_image(vae, samples, "exact"), vaes.stock_decode(vae, samples))
        said = [record.getMessage() for record in caplog.records]
        [why] = [line.partition("the stock way: ")[2] for line in said if "the stock way: " in line]
        return why

    return as_stock


@pytest.fixture
def rewritten(monkeypatch):
    """Replace words in the source of functions of a class, as a later ComfyUI would."""

    def rewritten(owner, changes, *names):
        for name in names:
            own = getattr(owner, name)
            source = textwrap.dedent(inspect.getsource(own))
            for old, new in changes.items():
                source = source.replace(old, new)
            made = {}
            exec(compile(source, own.__code__.co_filename, "exec"), own.__globals__, made)
            assert made[name].__code__ != own.__code__
            monkeypatch.setattr(owner, name, made[name])

    return rewritten


def test_frames_that_are_not_what_the_layer_gives(kind, as_stock, monkeypatch):
    """Something more is done to them."""
    vae = in_comfyui.vae(kind)
    model = vae.first_stage_model
    owner, name = {
        "minimax h3": (type(model), "decode_temporal"),
        "cogvideox": (type(model), "_decode_rolling"),
    }.get(kind, (type(model.decoder), "forward"))
    own = getattr(owner, name)

    def changed(*args, **kwargs):
        frames = own(*args, **kwargs)
        return None if frames is None else frames * 0.5

    monkeypatch.setattr(owner, name, changed)
    assert as_stock(vae) == UNKNOWN


def test_a_renamed_module(kind, as_stock, rewritten):
    vae = in_comfyui.vae(kind)
    model = vae.first_stage_model
    if kind == "minimax h3":
        size = {"tokens_chunk_size": "chunk_tokens"}
        model.chunk_tokens = model.tokens_chunk_size
        del model.tokens_chunk_size
        rewritten(type(model), size, "decode_temporal", "_decode_temporal_frame_plan", "_decode_temporal_pad_frames")
        assert as_stock(vae) == UNKNOWN.removeprefix("exact failed: ")
        return
    decoder = model.decoder
    decoder.last = decoder.conv_out
    del decoder.conv_out
    owner, name = (type(model), "_decode_rolling") if kind == "cogvideox" else (type(decoder), "forward")
    rewritten(owner, {"conv_out(": "last(", "self.conv_out": "self.last"}, name)
    assert as_stock(vae).startswith("exact failed: AttributeError")


def test_a_taehv_that_does_not_say_how_many_frames_it_makes(as_stock):
    vae = in_comfyui.vae("taehv")
    del vae.first_stage_model.t_upscale
    assert as_stock(vae) == UNKNOWN.removeprefix("exact failed: ")


@pytest.mark.parametrize("name", ["_adaptive_decode", "_decode_temporal_frame_plan", "blend"])
def test_one_more_argument(as_stock, rewritten, name):
    """Of the methods that the loop of our own calls."""
    vae = in_comfyui.vae("minimax h3")
    changes = {f"self.{name}(": f"self.{name}(None, ", f"def {name}(self": f"def {name}(self, more"}
    names = {name, "decode", "decode_temporal"} - ({"decode"} if name != "_adaptive_decode" else set())
    rewritten(type(vae.first_stage_model), changes, *names)
    why = as_stock(vae)
    assert why == UNKNOWN.removeprefix("exact failed: ") or why.startswith("exact failed: TypeError")
