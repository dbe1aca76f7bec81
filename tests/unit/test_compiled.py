"""What is compiled once is kept, and how a kernel is launched; without a GPU, and without a compiler."""

import ctypes
import sys
import threading
from types import SimpleNamespace

import pytest
import torch
from async_frame_pipeline.pipeline.decoders.fast import compiled


def test_the_driver_is_given_pointers_and_numbers_of_32_bits(monkeypatch):
    launched = []

    class Driver:
        def cuLaunchKernel(self, function, *how):
            *grid, stream, places, extra = how
            pointer, *numbers = places
            numbers = [ctypes.c_int.from_address(number).value for number in numbers]
            launched.append((function, grid, stream.value, ctypes.c_int64.from_address(pointer).value, numbers, extra))
            return 0

    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda device: 11 + device, raising=False)
    frames = torch.zeros(3)
    compiled.Kernel(SimpleNamespace(func="a function"), Driver())(7, 128, [frames, 5, -3, 0xBF000000], 1)
    bits = ctypes.c_int(0xBF000000).value
    assert launched == [("a function", [7, 1, 1, 128, 1, 1, 0], 12, frames.data_ptr(), [5, -3, bits], None)]


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    """Counts what is compiled, and for which GPU."""
    seen = SimpleNamespace(compiled=[], capability=(9, 0))

    def compile_(source, gpu):
        seen.compiled.append(source)
        return f"{source} for {gpu}".encode()

    monkeypatch.setenv("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: seen.capability)
    monkeypatch.setattr(compiled, "compiled", compile_)
    monkeypatch.setattr(torch.cuda._utils, "_cuda_load_module", lambda binary, names: {names[0]: binary})
    monkeypatch.setattr(torch.cuda._utils, "_get_gpu_runtime_library", lambda: seen)
    return seen


def kernel(source):
    return compiled.loaded(compiled.begun(source, "f").result(), "f")


def kept(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_what_is_compiled_is_there_for_the_next_process(compiler, tmp_path):
    for _ in range(2):
        assert kernel("one")._loaded == b"one for (9, 0)"
    assert compiler.compiled == ["one"] and len(kept(tmp_path)) == 1


def test_another_source_and_another_gpu_are_compiled_anew(compiler, monkeypatch):
    kernel("one")
    assert kernel("two")._loaded == b"two for (9, 0)"
    compiler.capability = (12, 0)
    assert kernel("one")._loaded == b"one for (12, 0)"
    monkeypatch.setattr(torch, "__version__", "another")
    kernel("one")
    assert len(compiler.compiled) == 4


@pytest.mark.parametrize("length", [0, 31, 32, 40])
def test_what_was_cut_off_is_compiled_anew(compiler, tmp_path, length):
    kernel("one")
    [path] = kept(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:length])
    assert kernel("one")._loaded == b"one for (9, 0)"
    assert len(compiler.compiled) == 2 and path.read_bytes() == whole and kept(tmp_path) == [path]


def test_where_nothing_can_be_kept_it_works_as_well(compiler, tmp_path):
    (tmp_path / "caches").write_text("in the way")
    for _ in range(2):
        assert kernel("one")._loaded == b"one for (9, 0)"
    assert len(compiler.compiled) == 2


@pytest.mark.parametrize("caches", ["", "caches"])
def test_who_has_no_folder_for_caches_gets_none_where_comfyui_was_started(compiler, monkeypatch, tmp_path, caches):
    monkeypatch.setenv("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME", caches)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as it does where nobody knows of a home
    monkeypatch.chdir(tmp_path)
    assert kernel("one")._loaded == b"one for (9, 0)"
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such limit")
def test_a_full_disk_is_not_filled_further(compiler, tmp_path):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        for _ in range(3):
            assert kernel("one")._loaded == b"one for (9, 0)"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(kept(tmp_path)) <= 1 and len(compiler.compiled) == 3
    kernel("one")
    kernel("one")
    assert len(compiler.compiled) == 4, "and once there is room it is kept"


def test_amd_has_a_driver_of_its_own_and_its_gpus_of_one_capability_take_other_kernels(compiler, monkeypatch):
    gpu = SimpleNamespace(gcnArchName="gfx1100")
    monkeypatch.setattr(torch.version, "hip", "7.1")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: gpu)
    assert kernel("one")._driver is compiler
    gpu.gcnArchName = "gfx1101"
    kernel("one")
    assert len(compiler.compiled) == 2


def test_a_kernel_is_compiled_while_others_are(compiler, monkeypatch):
    """Each waits until all are at it."""
    all_of_them = threading.Barrier(3)
    monkeypatch.setattr(compiled, "compiled", lambda source, gpu: b"%d" % all_of_them.wait(timeout=60))
    begun = [compiled.begun(source, "f") for source in ("one", "two", "three")]
    assert {binary.result() for binary in begun} == {b"0", b"1", b"2"}


def test_what_cannot_be_compiled_is_not_kept(compiler, monkeypatch, tmp_path):
    def refuse(source, gpu):
        raise RuntimeError("no such thing")

    monkeypatch.setattr(compiled, "compiled", refuse)
    with pytest.raises(RuntimeError, match="no such thing"):
        kernel("one")
    assert not kept(tmp_path)
