"""A ComfyUI that decodes otherwise than is known, as each new one may: whatever changed, the frames are those of its
own VAE Decode, and where they are not streamed any more, one line says why.
"""

import inspect
import logging
import re
import textwrap

import pytest
import torch

from . import in_comfyui

import comfy.sd
from async_frame_pipeline.nodes import decoding
from async_frame_pipeline.nodes.comfyui import vaes

LATENT_FRAMES = 5
UNKNOWN = "this ComfyUI decodes in a way this version of the pack does not know"
# Said of a short video that was decoded both ways first.
UNFIT = f"exact failed: {UNKNOWN}"

HOOKED = ["wan 2.1", "wan 2.2", "hunyuan 1.0", "hunyuan 1.5", "cogvideox", "seedvr2", "taehv"]
KINDS = [*HOOKED, "minimax h3", "ltx"]


def caught(kind, model):
    """The layer whose outputs are taken."""
    if kind == "taehv":
        return model.decoder[-1]
    return model.decoder.head[-1] if kind.startswith("wan") else model.decoder.conv_out


def changed(kinds):
    return pytest.mark.parametrize("kind", kinds)


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture
def vae(kind):
    return in_comfyui.vae(kind)


@pytest.fixture
def rewrite(vae, monkeypatch):
    """Change words in the source of a function: of the VAE's model, its decoder, or of `comfy.sd.VAE`."""

    def rewrite(owner, name, changes):
        model = vae.first_stage_model
        owner = {"model": type(model), "decoder": type(model.decoder), "VAE": comfy.sd.VAE}[owner]
        own = getattr(owner, name)
        before = source = textwrap.dedent(inspect.getsource(own))
        for old, new in changes.items():
            source = re.sub(old, new, source, flags=re.MULTILINE)
        assert source != before
        source = source.replace("super()", f"super({owner.__name__}, self)")
        made = {}
        exec(compile(source, own.__code__.co_filename, "exec"), own.__globals__, made)
        monkeypatch.setattr(owner, name, made[name])

    return rewrite


@pytest.fixture
def decoded(vae, caplog):
    """Decode by `exact`: the frames are the stock node's. Gives the way that was taken, and why if it was `stock`."""

    def decoded():
        caplog.set_level(logging.INFO, "async-frame-pipeline")
        shape = (1, vae.latent_channels, LATENT_FRAMES, 2, 3)
        samples = {"samples": torch.randn(shape, generator=torch.Generator().manual_seed(0))}
        stock = vaes.stock_decode(vae, samples)
        image, report = decoding.decode_image_with_report(vae, samples, "exact")
        assert torch.equal(image, stock) and len(torch.unique(stock)) > 100
        said = [record.getMessage() for record in caplog.records]
        why = [line.partition("the stock way: ")[2] for line in said if "the stock way: " in line]
        assert len(why) == (report.decoded.decoder == "stock"), "one line"
        return report.decoded.decoder, "".join(why)

    return decoded


HALVED = {
    "wan 2.1": ("model", "decode", {r"return (torch.cat\(out, 2\))": r"return \1 * 0.5"}),
    "wan 2.2": ("model", "decode", {r"return out\b": "return out * 0.5"}),
    "hunyuan 1.0": ("decoder", "forward", {r"out.append\(h1\)": "out.append(h1 * 0.5)"}),
    "hunyuan 1.5": ("decoder", "forward", {r"out.append\(x1\)": "out.append(x1 * 0.5)"}),
    "cogvideox": ("model", "_decode_rolling", {r"x_chunk.cpu\(\)": "x_chunk.cpu() * 0.5"}),
    "seedvr2": ("model", "slicing_decode", {r"(torch.cat\(decoded_slices, dim=2\))": r"\1 * 0.5"}),
    "taehv": ("model", "decode", {r"return x\[(.*)$": r"return 0.5 * x[\1"}),
    "minimax h3": ("model", "decode_temporal", {r"(part_frames = part.shape\[2\])": r"part = part * 0.5; \1"}),
    "ltx": ("model", "decode", {r"(output_buffer=output_buffer\))": r"\1.mul_(0.5)"}),
}


@changed(KINDS)
def test_something_more_is_done_to_the_frames(kind, rewrite, decoded):
    rewrite(*HALVED[kind])
    way, why = decoded()
    assert way == "stock"
    assert why.startswith("exact failed: AttributeError") if kind == "ltx" else why == UNFIT


@changed(HOOKED)
def test_some_pieces_never_pass_the_layer(kind, vae, decoded):
    """Its `forward` is called in some other way, so no hook sees them."""
    layer, calls = caught(kind, vae.first_stage_model), []

    def call(self, *args, **kwargs):
        calls.append(args)
        return (self.forward if len(calls) % 2 else super(later, self).__call__)(*args, **kwargs)

    later = layer.__class__ = type("Later", (type(layer),), {"__call__": call})
    way, why = decoded()
    assert way == "stock" and why.startswith("exact failed: ")


# -- a renamed module -------------------------------------------------------------------------------

RENAMED = {
    "wan 2.1": ("decoder", "head", ("decoder", "run_up")),
    "wan 2.2": ("decoder", "head", ("decoder", "forward")),
    "hunyuan 1.0": ("decoder", "conv_out", ("decoder", "forward")),
    "hunyuan 1.5": ("decoder", "conv_out", ("decoder", "forward")),
    "cogvideox": ("decoder", "conv_out", ("model", "_decode_rolling")),
    "seedvr2": ("decoder", "conv_out", ("decoder", "forward")),
    "taehv": ("model", "decoder", ("model", "decode")),
    "minimax h3": ("model", "decoder", ("model", "_decode_pixels")),
}


@changed(RENAMED)
def test_a_renamed_module(kind, vae, rewrite, decoded):
    where, name, called_by = RENAMED[kind]
    rewrite(*called_by, {rf"\b(self|decoder)\.{name}\b": r"\1.later"})
    model = vae.first_stage_model
    owner = model if where == "model" else model.decoder
    owner.later = getattr(owner, name)
    delattr(owner, name)
    way, why = decoded()
    if kind == "minimax h3":  # whose loop names none
        assert way == "exact"
    else:
        assert way == "stock" and (why == UNKNOWN or why.startswith("exact failed: AttributeError"))


@changed(["minimax h3"])
def test_a_renamed_setting_of_a_loop_of_our_own(vae, rewrite, decoded):
    model = vae.first_stage_model
    model.chunk_tokens = model.tokens_chunk_size
    del model.tokens_chunk_size
    for name in ("decode_temporal", "_decode_temporal_frame_plan", "_decode_temporal_pad_frames"):
        rewrite("model", name, {"tokens_chunk_size": "chunk_tokens"})
    assert decoded() == ("stock", UNKNOWN)


@changed(["ltx"])
def test_a_buffer_whose_size_has_another_name(vae, rewrite, decoded, monkeypatch):
    rewrite("VAE", "decode", {"decode_output_shape": "size_of_output"})
    model = type(vae.first_stage_model)
    monkeypatch.setattr(model, "size_of_output", model.decode_output_shape, raising=False)
    monkeypatch.delattr(model, "decode_output_shape")
    assert decoded() == ("stock", UNKNOWN)


@changed(["taehv"])
def test_a_model_that_does_not_say_how_many_frames_it_makes(vae, decoded):
    del vae.first_stage_model.t_upscale
    assert decoded() == ("stock", UNKNOWN)


# -- one more argument ------------------------------------------------------------------------------


@changed(KINDS)
def test_one_more_argument(rewrite, decoded):
    """That `VAE.decode` gives the model."""
    rewrite("model", "decode", {r"def decode\(self, (\w+)": r"def decode(self, \1, more"})
    rewrite("VAE", "decode", {r"(first_stage_model.decode\(samples)": r"\1, 1"})
    assert decoded() == ("stock", UNKNOWN)


@changed(["minimax h3"])
@pytest.mark.parametrize("name", ["_adaptive_decode", "_decode_temporal_frame_plan", "blend"])
def test_one_more_argument_within_a_loop_of_our_own(rewrite, decoded, name):
    rewrite("model", name, {rf"def {name}\(self": f"def {name}(self, more"})
    for caller in ["decode_temporal"] + ["decode"] * (name == "_adaptive_decode"):
        rewrite("model", caller, {rf"self.{name}\(": f"self.{name}(None, "})
    way, why = decoded()
    assert way == "stock" and (why == UNKNOWN or why.startswith("exact failed: TypeError"))


# -- another loop -----------------------------------------------------------------------------------

WAN_21 = r"1 \+ z.shape\[2\] // 2", r"1 \+ 2 \* \(i - 1\):1 \+ 2 \* i"
LOOPS = [
    ("wan 2.1", "by one", "model", "decode", dict(zip(WAN_21, ("z.shape[2]", "i:i + 1")))),
    (
        *("wan 2.1", "by four", "model", "decode"),
        dict(zip(WAN_21, ("1 + (z.shape[2] + 2) // 4", "1 + 4 * (i - 1):1 + 4 * i"))),
    ),
    (
        *("wan 2.2", "by two", "model", "decode"),
        {r"iter_ = z.shape\[2\]": "iter_ = 1 + z.shape[2] // 2", r"i:i \+ 1": "max(0, 2 * i - 1):2 * i + 1"},
    ),
    ("hunyuan 1.0", "by one", "decoder", "forward", {r"split\(h, 2": "split(h, 1"}),
    ("hunyuan 1.0", "by three", "decoder", "forward", {r"split\(h, 2": "split(h, 3"}),
    ("hunyuan 1.5", "by one", "decoder", "forward", {r"split\(x, 2": "split(x, 1"}),
    ("hunyuan 1.5", "by three", "decoder", "forward", {r"split\(x, 2": "split(x, 3"}),
    ("cogvideox", "by two", "model", "_decode_rolling", {"chunk_size = 4": "chunk_size = 2"}),
    ("cogvideox", "by eight", "model", "_decode_rolling", {"chunk_size = 4": "chunk_size = 8"}),
    ("seedvr2", "by two", "model", "slicing_decode", {"self.slicing_latent_min_size": "2"}),
    ("seedvr2", "at once", "model", "slicing_decode", {"self.use_slicing": "False"}),
    ("taehv", "at once", "model", "decode", {"self.parallel": "True"}),
    ("minimax h3", "not faded", "model", "decode_temporal", {"clip_dec_chunk = self.blend": "self.blend"}),
    ("ltx", "in small pieces", "decoder", "forward_orig", {r"get_max_chunk_size\(.*?\)": "1"}),
]


@pytest.mark.parametrize(
    ("kind", "loop"), [pytest.param(kind, loop, id=f"{kind} {name}") for kind, name, *loop in LOOPS]
)
def test_another_loop(kind, rewrite, decoded, loop):
    """Of more pieces, or fewer."""
    rewrite(*loop)
    way, why = decoded()
    assert (way, why) == (("stock", UNFIT) if kind == "minimax h3" else ("exact", ""))
