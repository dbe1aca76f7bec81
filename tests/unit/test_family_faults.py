"""Every way to stream, with every fault in its decoder at any piece, and in every lane: what comes out, and that
nothing is left.

What the engine itself makes of them is in test_engine_faults.py; Wan's ways are in test_out_of_memory.py; the message
that the user sees, and the file to resume from, in tests/server/test_family_rescue.py.
"""

import errno
import time

import pytest
import torch
from async_frame_pipeline.pipeline.ring import Slot

from . import in_comfyui
from .streams import Kept, another_error, out_of_memory
from .test_engine import lane_threads

import comfy.ldm.lightricks.vae.causal_video_autoencoder as stock_ltx
import comfy.model_management as model_management
from async_frame_pipeline.nodes import decoding, families
from async_frame_pipeline.nodes.comfyui import vaes

CONV_OUT = [lambda model: model.decoder.conv_out]
# Of each: what is called once for each piece, and the shape of a latent of some pieces without its channels.
KINDS = {
    **dict.fromkeys(["hunyuan 1.0", "hunyuan 1.5", "cogvideox", "seedvr2"], (*CONV_OUT, (1, 5, 2, 2))),
    "taehv": (lambda model: model.decoder[-1], (1, 2, 2, 2)),
    "minimax h3": (lambda model: model.decoder, (1, 17, 2, 2)),
    "ltx": (*CONV_OUT, (1, 2, 2, 2)),
    "mochi": (lambda model: model.decoder, (1, 3, 2, 2)),
    "svd": (lambda model: model.decoder, (3, 2, 2)),
}
LATE = ["mochi", "svd"]
# One for each way: by a hook, by a loop of our own, into a buffer, late. In the lanes all of a way are the same.
WAYS = ["hunyuan 1.5", "minimax h3", "ltx", "svd"]
LANES = {"convert": "fill", "copy": "start_copy", "wait": "wait_copied"}


def disk_full():
    raise OSError(errno.ENOSPC, "No space left on device")


FAULTS = {
    "out of memory": out_of_memory,
    "exception": another_error,
    "cancel": model_management.interrupt_current_processing,  # as the user's button does it
    "slow": lambda: time.sleep(0.02),
    "disk full": disk_full,
}
GPU_FAULTS = ["out of memory", "exception", "cancel", "slow"]
ERRORS = {"exception": "a test's", "disk full": "[Errno 28] No space left on device"}


class Armed:
    """A fault at the n-th call, counted from where it was armed; 0 counts only."""

    def __init__(self):
        self.arm()

    def arm(self, fault: str = "slow", *at: int) -> None:
        self.calls, self._at, self._fault = 0, at, FAULTS[fault]

    def meet(self, *args) -> None:
        self.calls += 1
        if self.calls in self._at:
            self._fault()


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


@pytest.fixture(scope="module")
def samples(kind, vae):
    batch, *rest = KINDS[kind][1]
    return {"samples": torch.randn(batch, vae.latent_channels, *rest, generator=torch.Generator().manual_seed(1))}


@pytest.fixture(scope="module", autouse=True)
def in_pieces(vae):
    """LTX in its smallest ones; images one at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stock_ltx, "get_max_chunk_size", lambda device: 1)
        patch.setattr(vae.patcher, "get_free_memory", lambda device: 0)
        yield


@pytest.fixture(scope="module")
def stock(vae, samples, in_pieces):
    with torch.inference_mode():
        decoding.decode_image(vae, samples, "exact")  # what the model does is compared the first time
        return vaes.stock_decode(vae, samples)


@pytest.fixture(scope="module")
def tiles(vae, samples, in_pieces):
    with torch.inference_mode():
        return vaes.tiled_decode(vae, samples["samples"])


@pytest.fixture
def armed(kind, vae, lane, monkeypatch):
    """What meets the fault, put into this lane."""
    armed = Armed()
    if lane == "decode":
        hook = KINDS[kind][0](vae.first_stage_model).register_forward_pre_hook(armed.meet)
        yield armed
        hook.remove()
        return
    if lane in LANES:
        real = getattr(Slot, LANES[lane])
        monkeypatch.setattr(Slot, LANES[lane], lambda *args: armed.meet() or real(*args))
    else:
        real = Kept._called
        monkeypatch.setattr(Kept, "_called", lambda sink, name: real(sink, name) or (name == lane and armed.meet()))
    yield armed


@pytest.fixture
def decode(vae, samples, monkeypatch):
    """Decode into a file's stand-in; gives it, the report or the error, and how often it was begun."""
    slots, make = [], Slot.__init__
    monkeypatch.setattr(Slot, "__init__", lambda slot, *args: slots.append(slot) or make(slot, *args))

    def hooks() -> int:
        modules = vae.first_stage_model.modules()
        return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)

    def decode():
        sink, before, outcome = Kept(), hooks(), None
        try:
            outcome = decoding.decode_into(vae, samples, [sink], decoder="exact")
        except BaseException as error:
            outcome = error
            assert sink.calls[-1] == "abort"
        else:
            calls = [call for call in sink.calls if call != "write"]
            assert calls == ["open", "abort"] * (calls.count("open") - 1) + ["open", "finish", "publish"]
            assert len(sink.frames) == outcome.frames == families.size_of(vae, samples)[0], "each frame is in it once"
        assert hooks() == before and lane_threads() == [] and not any(slot.host or slot.device for slot in slots)
        return sink, outcome, sink.calls.count("open")

    return decode


def assert_as_before(decode, armed, stock):
    """The next video is whole: modules, hooks and the flag of a cancel are as they were."""
    armed.arm()
    sink, report, begun = decode()
    assert begun == 1 and report.decoded.decoder in ("exact", "late") and torch.equal(sink.frames, stock)


@pytest.mark.parametrize("lane", ["decode"])
@pytest.mark.parametrize("fault", GPU_FAULTS)
def test_the_decoder_at_any_piece(kind, decode, armed, stock, tiles, fault):
    way = "late" if kind in LATE else "exact"
    armed.arm()
    decode()
    pieces = armed.calls
    assert pieces >= (1 if kind == "mochi" else 3)
    for at in range(1, pieces + 1) if fault == "out of memory" else {1, (pieces + 1) // 2, pieces}:
        armed.arm(fault, at)
        sink, outcome, begun = decode()
        if fault == "cancel":
            assert isinstance(outcome, model_management.InterruptProcessingException) and begun <= 1
            assert armed.calls == at, "it went on to the end"
        elif fault == "slow":
            assert (outcome.decoded.decoder, begun) == (way, 1) and torch.equal(sink.frames, stock)
        elif fault == "exception":
            assert outcome.decoded.decoder == "stock" and torch.equal(sink.frames, stock)
            assert outcome.decoded.reason == f"{way} failed: RuntimeError: a test's"
        else:
            assert outcome.decoded.decoder == ("tiled" if kind in LATE else "exact")
            assert torch.equal(sink.frames, tiles if kind in LATE else stock)
    assert_as_before(decode, armed, stock)


@pytest.mark.parametrize("lane", ["decode"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in LATE], indirect=True)
def test_out_of_memory_twice_ends_in_the_stock_tiles(vae, decode, armed, stock, tiles, monkeypatch):
    if vae.handles_tiling:  # of its own, which this is not
        monkeypatch.setattr(vae, "decode_tiled_3d", None)
    armed.arm("out of memory", 2, 4)
    sink, report, begun = decode()
    assert (report.decoded.decoder, begun) == ("tiled", 3) and torch.equal(sink.frames, tiles)
    assert_as_before(decode, armed, stock)


@pytest.mark.parametrize("kind", WAYS, indirect=True)
@pytest.mark.parametrize(
    ("lane", "fault"),
    [(lane, fault) for lane in LANES for fault in GPU_FAULTS]
    # A file takes no memory of the GPU's, and what is being published can be cancelled no more.
    + [(call, fault) for call in ("open", "write", "finish") for fault in ("disk full", "cancel", "slow")]
    + [("publish", "disk full"), ("publish", "slow")],
)
def test_a_lane(kind, decode, armed, stock, lane, fault):
    armed.arm()
    decode()
    calls = armed.calls
    for at in {1, (calls + 1) // 2, calls}:
        armed.arm(fault, at)
        sink, outcome, begun = decode()
        if fault == "cancel":
            assert isinstance(outcome, model_management.InterruptProcessingException) and begun == 1
        elif fault in ("exception", "disk full"):
            assert str(outcome) == ERRORS[fault] and begun == 1, "no other way follows"
        elif fault == "slow":
            assert begun == 1 and torch.equal(sink.frames, stock)
        else:
            assert outcome.decoded.decoder == ("tiled" if kind in LATE else "exact") and begun == 2
    assert_as_before(decode, armed, stock)
