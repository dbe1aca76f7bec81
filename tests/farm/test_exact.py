"""A worker with a ComfyUI: the stock decoder's frames, bit for bit."""

import dataclasses
import re
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from ...farm.exact import ExactDecoder
from ...farm.messages import InvalidJob
from ...farm.roles import WORKER, token_of
from ...farm.settings import Settings
from ...farm.supervisor import workers_for
from ...farm.work import NoComfyUI
from ...pipeline import engine
from ...pipeline.decoders.fast import cuda
from ...pipeline.sinks.formats import FORMATS, Choice
from ...pipeline.sinks.video_file import VideoFileSink, VideoOptions
from ...pipeline.text import Text
from ...pipeline.video_spec import VideoSpec
from ..unit import stock_wan
from .conftest import in_a_loop
from .ground import SECRET
from .test_decode import VAE, bunny, pictures, saved, work_of

LOSSLESS = {"format": "mkv (ffv1)", "output_type": "mkv"}


@pytest.fixture(scope="module")
def decoder():
    return ExactDecoder("cpu", stock_wan.ROOT)


def test_the_frames_of_the_stock_decoder(tmp_path, decoder):
    work = work_of(tmp_path, bunny(), **LOSSLESS, decoder="exact")
    made = decoder(work)
    assert (made.frames, made.width, made.height) == (5, 128, 96) and decoder.warm == [work.job.vae.sha256]
    import comfy.sd

    vae = comfy.sd.VAE(sd=safetensors.torch.load_file(VAE))
    with torch.inference_mode():
        stock = vae.first_stage_model.decode(bunny().to(vae.device, vae.vae_dtype))
    options = VideoOptions(Fraction(16), Choice(FORMATS["mkv (ffv1)"], "high"))
    sink = VideoFileSink(tmp_path / "stock.mkv", options)
    engine.run(lambda submit: submit(stock[0]), VideoSpec(5, 96, 128, torch.device("cpu")), [sink])
    assert np.array_equal(pictures(work.target), pictures(tmp_path / "stock.mkv"))


@pytest.mark.parametrize("names", [["decoder.other.weight"], ["decoder.middle.0.residual.0.gamma"]])
def test_a_vae_of_another_kind(tmp_path, decoder, names):
    work = work_of(tmp_path, bunny())
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({name: torch.zeros(3) for name in names}, path)
    vae = dataclasses.replace(work.job.vae, sha256="0" * 64)
    job = dataclasses.replace(work.job, vae=vae)
    with pytest.raises(InvalidJob, match="VAE"):
        decoder(dataclasses.replace(work, job=job, vae=lambda: path))


@in_a_loop
async def test_a_job_that_asks_for_it_waits_for_a_worker_that_has_it(make_ground, tmp_path):
    ground = make_ground(settings=Settings())
    await ground.prepare()
    latent = saved(tmp_path / "a.latent", bunny())
    of_workers = dataclasses.replace(ground.address, token=token_of(SECRET, WORKER))
    async with ground.client() as client:
        ground.worker("fast")
        job = await client.submit(latent, VAE, params={**LOSSLESS, "decoder": "exact"})
        await ground.whole(client, (await ground.submit(client)).id)  # what is behind it comes
        [worker] = workers_for(["cpu"], of_workers, ["--comfyui", str(stock_wan.ROOT)])
        worker.start()
        try:
            await client.fetch(job.id, tmp_path / "there.mkv")
        finally:
            worker.process.kill()
            worker.process.wait()
        record = await client.broker.record(job.id)
        assert (record.worker, record.attempt, record.reason) == (worker.name, 1, "")
    assert pictures(tmp_path / "there.mkv").shape == (5, 96, 128, 3)


def test_where_there_is_no_comfyui(tmp_path):
    with pytest.raises(NoComfyUI, match="no ComfyUI"):
        ExactDecoder("cpu", tmp_path)


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        ("ModuleNotFoundError(\"No module named 'einops'\")", NoComfyUI),
        ("OSError('libtorchaudio.so: undefined symbol')", NoComfyUI),
        ("RuntimeError('operator torchvision::nms does not exist')", NoComfyUI),
        ("RuntimeError('PyTorch and torchvision were compiled with different CUDA major versions')", NoComfyUI),
        ("RuntimeError('CUDA error: all CUDA-capable devices are busy or unavailable')", RuntimeError),
        ("OSError(24, 'too many open files')", OSError),
        ("MemoryError()", MemoryError),
    ],
)
def test_a_comfyui_that_cannot_be_loaded_says_so_unless_it_may_pass(tmp_path, monkeypatch, raised, kind):
    (tmp_path / "comfy").mkdir()
    (tmp_path / "comfy" / "__init__.py").touch()
    (tmp_path / "comfy" / "sd.py").touch()
    (tmp_path / "comfy" / "cli_args.py").write_text(f"raise {raised}")
    for name in [name for name in sys.modules if name.partition(".")[0] == "comfy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if not (Path(path) / "comfy").is_dir()])
    with pytest.raises(kind) as error:
        ExactDecoder("cpu", tmp_path)
    assert type(error.value) is kind
    if kind is NoComfyUI:
        assert re.fullmatch(f"the ComfyUI in {tmp_path} cannot be loaded: .*; .* the Python .*", str(error.value))


def test_it_needs_no_kernels_of_the_fast_decoder(monkeypatch):
    """A GPU older than Turing decodes *exact*, where torch runs on it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", lambda *_, device: torch.zeros(1))
    monkeypatch.setattr(cuda, "why_not", lambda _: Text("the GPU is older than Turing (GTX 16, RTX 20)"))
    import comfy.cli_args

    monkeypatch.setattr(comfy.cli_args.args, "cpu", comfy.cli_args.args.cpu)
    assert ExactDecoder("cuda", stock_wan.ROOT).decoders == ("exact",)
