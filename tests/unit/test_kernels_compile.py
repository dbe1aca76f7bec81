"""kernels.cu, compiled for every kind of GPU on a machine that has none, as the decoder has it compiled."""

import contextlib
import functools
import gc
import re
import sys
import weakref
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch
from async_frame_pipeline.pipeline.decoders.fast import compiled as compiling
from async_frame_pipeline.pipeline.decoders.fast import cuda, kernels, ltx, ltx_weights, room, weights
from async_frame_pipeline.pipeline.decoders.fast.ltx import LtxDecoder
from async_frame_pipeline.pipeline.decoders.fast.network import WanDecoder

from ..conftest import ROOT
from . import stock_ltx, stock_wan

# Turing lacks most: there each width is tried. 12: the bundled VAE's; 9: vectors of one, two and four channels.
WIDTHS = {"2.1": (96, 12, 9), "2.2": (256,), "2": (128,), "2.3": (12,), "reflects": (12,), "causal": (8,)}
OLDEST, NEWER = "75", ("80", "86", "89", "90", "100", "120")
CASES = [(OLDEST, version, width) for version, widths in WIDTHS.items() for width in widths]
CASES += [(arch, "2.1", 96) for arch in NEWER]
# What only LTX's decoder launches.
LTX_KERNELS = {"norm_silu_groups", "spread_groups", "patches"}
LTX_VERSIONS = ("2", "2.3", "reflects", "causal")
RECORDED_WIDTH = 8
SIGNATURES = {
    name: [parameter.split() for parameter in parameters.split(",")]
    for name, parameters in re.findall(r"__global__ void (\w+)\(([^)]*)\)", cuda.SOURCE.read_text(encoding="utf-8"))
}


@pytest.fixture(autouse=True)
def compiler():
    """Torch's own, which comes with every torch for CUDA: with the one that these tests bring, it must be there."""
    ours = (ROOT / ".host").resolve() in Path(sys.prefix).resolve().parents
    if torch.version.cuda is None and not ours:
        pytest.skip("this torch is not for CUDA")


def compiled(source: str, arch: str) -> bytes:
    return compiling.compiled(source, (int(arch[:-1]), int(arch[-1])))


@functools.cache
def launches(version: str) -> list[tuple[str, tuple[tuple[str, int], ...], list]]:
    """What Wan's decoder launches in its first three steps, or LTX's for a video.

    Returns: (kernel, what it is made for, arguments) of each.
    """
    seen, bmm, mm = [], torch.bmm, torch.mm
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_on", lambda tensor: cuda)
        patch.setattr(cuda, "_launch", lambda name, threads, args, **made_for: seen.append((name, made_for, args)))
        # The CPU has no product of two float16 in float32.
        patch.setattr(torch, "bmm", lambda a, b, out_dtype: bmm(a.float(), b.float()).to(out_dtype))
        patch.setattr(torch, "mm", lambda a, b, out_dtype: mm(a.float(), b.float()).to(out_dtype))
        if version in LTX_VERSIONS:
            vae = stock_ltx.module(version, RECORDED_WIDTH)
            state = ltx_weights.load(vae.state_dict(), vae.config, torch.device("cpu"), torch.float16)
            list(LtxDecoder(state).push(stock_ltx.latents(9, 2, 2), last=True))
            return [(name, tuple(made_for.items()), args) for name, made_for, args in seen]
        state = stock_wan.module(version, RECORDED_WIDTH).state_dict()
        decoder = WanDecoder(weights.load(state, torch.device("cpu"), torch.float16))
        latents = stock_wan.latents(version, 3, 2, 2).half()
        for t in range(latents.shape[2]):
            decoder.step(latents[:, :, t])
    return [(name, tuple(made_for.items()), args) for name, made_for, args in seen]


def test_products_are_summed_up_in_float32_whatever_comfyui_allows(monkeypatch):
    """Under `--fast fp16_accumulation` torch refuses to put out float32, and all else would leave float16's range."""
    seen = []

    def watched(product):
        def multiply(a, b, *more, out_dtype=None):
            seen.append(torch.backends.cuda.matmul.allow_fp16_accumulation)
            return product(a.float(), b.float(), *(each.float() for each in more)).to(out_dtype or a.dtype)

        return multiply

    for owner, name in ((torch, "bmm"), (torch, "mm"), (torch.nn.functional, "linear")):
        monkeypatch.setattr(owner, name, watched(getattr(owner, name)))
    monkeypatch.setattr(kernels, "_on", lambda tensor: cuda)
    monkeypatch.setattr(cuda, "_launch", lambda *args, **made_for: None)
    state = stock_wan.module("2.1", RECORDED_WIDTH).state_dict()
    decoder = WanDecoder(weights.load(state, torch.device("cpu"), torch.float16))
    torch.backends.cuda.matmul.allow_fp16_accumulation = True
    try:
        decoder.step(stock_wan.latents("2.1", 1, 2, 2).half()[:, :, 0])
        assert torch.backends.cuda.matmul.allow_fp16_accumulation
    finally:
        torch.backends.cuda.matmul.allow_fp16_accumulation = False
    assert len(seen) > 5 and not any(seen)


def made_for(version: str, width: int) -> set[tuple[str, tuple[tuple[str, int], ...]]]:
    """Every kernel with what it is made for, of a decoder of another width."""

    def widened(macro, value):
        return macro, value // RECORDED_WIDTH * width if macro == "CHANNELS" else value

    return {(name, tuple(widened(*macro) for macro in macros)) for name, macros, _ in launches(version)}


@pytest.mark.parametrize("version", WIDTHS)
def test_what_is_launched_is_expected_once_memory_was_counted(version, monkeypatch):
    """What is not is compiled all the same, but alone, while the decoder waits."""
    monkeypatch.setattr(cuda, "_expected", set())
    if version in LTX_VERSIONS:
        vae = stock_ltx.module(version, RECORDED_WIDTH)
        ltx.needed(ltx_weights.load(vae.state_dict(), vae.config, torch.device("cpu"), torch.float16), 2, 2, joins=True)
    else:
        state = stock_wan.module(version, RECORDED_WIDTH).state_dict()
        room.measured(weights.load(state, torch.device("cpu"), torch.float16), 2, 2)
    assert cuda._expected == {(name, macros) for name, macros, _ in launches(version)}


def test_the_first_kernel_has_all_that_are_expected_compiled(monkeypatch):
    begun = {}

    def begin(source, name):
        begun[source] = Future()
        begun[source].set_result(source)
        return begun[source]

    expected = {("add_taps", (("OUTPUTS", outputs),)) for outputs in (3, 12)}
    monkeypatch.setattr(cuda, "_expected", expected)
    monkeypatch.setattr(torch.cuda, "device", lambda index: contextlib.nullcontext())
    monkeypatch.setattr(compiling, "begun", begin)
    monkeypatch.setattr(compiling, "loaded", lambda binary, name: (binary, name))
    source = cuda._source("exponentials", ())
    assert cuda._kernel.__wrapped__("exponentials", 77, ()) == (source, "exponentials")
    assert begun.keys() == {source, *(cuda._source(*each) for each in expected)}


def test_a_kernel_that_does_not_compile_holds_nobodys_memory_and_is_tried_again(monkeypatch):
    """An error that is kept would hold the decoder in whose frames it was raised."""
    tries = []

    def refuse(source, name):
        tries.append(name)
        refused = Future()
        refused.set_exception(RuntimeError("no such thing"))
        return refused

    class Decoder:
        def launch(self):
            cuda._kernel("exponentials", 78, ())

    monkeypatch.setattr(cuda, "_expected", set())
    monkeypatch.setattr(torch.cuda, "device", lambda index: contextlib.nullcontext())
    monkeypatch.setattr(compiling, "begun", refuse)
    held = []
    for _ in range(2):
        decoder = Decoder()
        held.append(weakref.ref(decoder))
        with contextlib.suppress(RuntimeError):
            decoder.launch()
        del decoder
    gc.collect()
    assert [reference() for reference in held] == [None, None] and len(tries) == 2


def test_beside_a_kernel_that_does_not_compile_the_others_are_compiled_once(monkeypatch):
    tries = []

    def begin(source, name):
        tries.append(name)
        begun = Future()
        if name == "patches":
            begun.set_exception(RuntimeError("no such thing"))
        else:
            begun.set_result(b"binary")
        return begun

    monkeypatch.setattr(cuda, "_expected", {("patches", ()), ("spread_groups", ())})
    monkeypatch.setattr(torch.cuda, "device", lambda index: contextlib.nullcontext())
    monkeypatch.setattr(compiling, "begun", begin)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no such thing"):
            cuda._kernel("patches", 80, ())
    assert sorted(tries) == ["patches", "patches", "spread_groups"]


def test_a_gpu_that_was_full_is_asked_again(monkeypatch):
    asked = []

    def kernel(*of):
        asked.append(of)
        if len(asked) == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(cuda, "_kernel", kernel)
    gpu = torch.device("cuda", 79)
    assert "out of memory" in str(cuda.why_not(gpu))
    assert [cuda.why_not(gpu), cuda.why_not(gpu)] == [None, None] and len(asked) == 2, "and not once it is known"


@pytest.mark.parametrize(("arch", "version", "width"), CASES)
def test_every_kernel_compiles(arch, version, width):
    wanted = made_for(version, width)
    assert {name for name, _ in wanted} == (LTX_KERNELS if version in LTX_VERSIONS else set(SIGNATURES) - LTX_KERNELS)
    for name, macros in wanted:
        assert compiled(cuda._source(name, macros), arch), (name, macros)


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ("int broken() { return undeclared; }", "undeclared"),
        # An instruction that came with Ampere.
        ('extern "C" __global__ void f(float *x) { asm("cvt.rna.tf32.f32 %0, %0;" : "+f"(*x)); }', "sm_80"),
    ],
)
def test_the_check_above_sees(broken, why):
    with pytest.raises(RuntimeError, match=why):
        compiled(f"{broken}\n{cuda._source('add_taps', (('OUTPUTS', 3),))}", OLDEST)


def test_what_the_compiler_says_is_in_the_first_line():
    """Logs and nodes may show no more."""
    with pytest.raises(RuntimeError) as refused:
        compiled(cuda._source("add_taps", (("OUTPUTS", 3),)), "10")
    assert "--gpu-architecture" in str(refused.value).splitlines()[0]


@pytest.mark.parametrize("version", WIDTHS)
def test_what_is_handed_over_is_what_the_kernels_take(version):
    """Nobody checks this at run time: pointers, and numbers of the kernel's own size."""
    kinds = {int: ["int"]}
    for name, _, args in launches(version):
        assert len(args) == len(SIGNATURES[name]), name
        for arg, parameter in zip(args, SIGNATURES[name]):
            if isinstance(arg, torch.Tensor):
                assert "*" in "".join(parameter) and arg.is_contiguous(), (name, parameter)
            else:
                assert kinds[type(arg)] == parameter[:-1], (name, parameter)


def test_both_sides_mean_the_same_by_a_flag():
    [flags] = re.findall(r"enum \{ (.*) \};", cuda.SOURCE.read_text(encoding="utf-8"))
    for flag in flags.split(", "):
        name, value = flag.split(" = ")
        assert getattr(cuda, name) == int(value)
