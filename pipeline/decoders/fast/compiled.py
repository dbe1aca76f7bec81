"""Kernels of CUDA C++, compiled by NVRTC, which comes with torch on Linux and on Windows.

That takes 0.05 to 0.6 s a kernel, so they are compiled at the same time, each in a thread, and kept on disk for the
next process.

What is private to torch is used here and nowhere else.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch


class Kernel:
    """A compiled kernel, launched through the driver: torch's own call looks the driver up anew each time, which takes
    longer than many kernels do.

    Args:
        loaded: torch's.
        driver: CUDA's, or AMD's with the same names.
    """

    def __init__(self, loaded: Any, driver: Any):
        self._loaded = loaded  # holds the module
        self._driver = driver

    def __call__(self, blocks: int, threads: int, args: Sequence[torch.Tensor | int], device_index: int) -> None:
        """Launch blocks of threads on the current stream of the current device, which is this one.

        Args:
            args: tensors are handed over as pointers, numbers as ints.
        Raises:
            RuntimeError: the driver refuses.
        """
        given = [arg.data_ptr() if isinstance(arg, torch.Tensor) else arg for arg in args]
        # The driver copies from here what each parameter takes: 8 bytes, or of an int the lower 4.
        values = (ctypes.c_int64 * len(given))(*given)
        first = ctypes.addressof(values)
        places = (ctypes.c_void_p * len(given))(*range(first, first + ctypes.sizeof(values), 8))
        stream = ctypes.c_void_p(torch._C._cuda_getCurrentRawStream(device_index))
        torch.cuda._utils._check_cuda(
            self._driver.cuLaunchKernel(self._loaded.func, blocks, 1, 1, threads, 1, 1, 0, stream, places, None)
        )


def begun(source: str, name: str) -> Future[bytes]:
    """The `extern "C"` kernel of this name, being compiled for the current device in a thread of its own.

    Returns:
        What `loaded` takes; or RuntimeError: it cannot be compiled.
    """
    # AMD's GPUs of one capability take different kernels.
    is_amd = torch.version.hip is not None
    gpu = torch.cuda.get_device_properties().gcnArchName if is_amd else torch.cuda.get_device_capability()
    thread = ThreadPoolExecutor(1)
    binary = thread.submit(_binary, source, name, gpu)
    thread.shutdown(wait=False)
    return binary


def loaded(binary: bytes, name: str) -> Kernel:
    """What `begun` gave for the current device."""
    function = torch.cuda._utils._cuda_load_module(binary, [name])[name]
    return Kernel(function, torch.cuda._utils._get_gpu_runtime_library())


def _binary(source: str, name: str, gpu: str | tuple[int, int]) -> bytes:
    """As kept, or compiled."""
    # Another torch brings another compiler.
    of = (torch.__version__, torch.version.cuda, gpu, name, source)
    file_name = hashlib.sha256(repr(of).encode()).hexdigest()
    binary = _kept(file_name)
    if binary is None:
        binary = compiled(source, gpu)
        _keep(file_name, binary)
    return binary


def compiled(source: str, gpu: str | tuple[int, int]) -> bytes:
    """What the driver loads. Several threads may compile at a time: but for the first 10 ms of each they do not wait
    for one another (NVRTC 12.6, 12.8 and 13.0).

    Torch's own function has the headers of CUDA's toolkit looked up, which hardly anybody has, and raises without; that
    takes a fifth of a second and needs setuptools. The kernels include nothing.

    Args:
        gpu: its compute capability, or AMD's name for it.
    Raises:
        RuntimeError: the compiler refuses.
    """
    if isinstance(gpu, str):
        prefix, binary, option = "hiprtc", "Code", f"--offload-arch={gpu}"
    else:
        prefix, binary, option = "nvrtc", "CUBIN", f"--gpu-architecture=sm_{gpu[0]}{gpu[1]}"
    compiler = torch.cuda._utils._get_gpu_rtc_library()

    def call(function: str, *args: Any) -> None:
        if error := getattr(compiler, prefix + function)(*args):
            raise RuntimeError(f"{prefix}{function}: error {error}")

    def got(what: str) -> bytes:
        size = ctypes.c_size_t()
        call(f"Get{what}Size", program, ctypes.byref(size))
        result = ctypes.create_string_buffer(size.value)
        call(f"Get{what}", program, result)
        return result.raw

    program = ctypes.c_void_p()
    call("CreateProgram", ctypes.byref(program), source.encode(), None, 0, None, None)
    try:
        call("CompileProgram", program, 1, (ctypes.c_char_p * 1)(option.encode()))
        return got(binary)
    except RuntimeError as error:
        raise RuntimeError(f"{error}: {got('ProgramLog').decode(errors='replace').rstrip(chr(0))}") from None
    finally:
        call("DestroyProgram", ctypes.byref(program))


def _folder() -> Path:
    """In the user's caches; it may be deleted at any time.

    Raises:
        OSError: the user has none.
    """
    caches = Path(
        os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
        or os.path.expanduser("~/.cache")
    )
    if not caches.is_absolute():  # without a home, "~" would be a folder where ComfyUI was started
        raise FileNotFoundError(caches)
    return caches / "async-frame-pipeline" / "kernels"


def _kept(file_name: str) -> bytes | None:
    """What `_keep` wrote there; None if there is nothing, or not all of it."""
    with contextlib.suppress(OSError):
        data = (_folder() / file_name).read_bytes()
        digest, binary = data[:32], data[32:]
        if hashlib.sha256(binary).digest() == digest:
            return binary
    return None


def _keep(file_name: str, binary: bytes) -> None:
    """For the next process, if it can be written; `_kept` sees what is not whole: where the disk was full, or while
    another process writes the same.
    """
    with contextlib.suppress(OSError):
        folder = _folder()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file_name).write_bytes(hashlib.sha256(binary).digest() + binary)
