"""The real decoder, with the bundled VAE: what it makes of good latents, and of bad ones."""

import dataclasses
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import safetensors.torch
import torch

from ...farm.blobs import sha256_of
from ...farm.decode import Decoder
from ...farm.messages import Blob, InvalidJob, Job, Params, Vae
from ...farm.work import NoDevice, Work
from ...pipeline import engine
from ...pipeline.decoders.fast import cuda, network, weights
from ...pipeline.sinks.formats import FORMATS, Choice
from ...pipeline.sinks.video_file import VideoFileSink, VideoOptions
from ...pipeline.text import Text
from ...pipeline.video_spec import VideoSpec
from ..conftest import ROOT

SAMPLE = ROOT / "workflows" / "sample"
VAE = SAMPLE / "tiny_wan_vae.safetensors"


def bunny(frames=2, height=12, width=16):
    latent = safetensors.torch.load_file(SAMPLE / "bunny_33f.latent")["latent_tensor"]
    return latent[:, :, :frames, 4 : 4 + height, 10 : 10 + width].float().contiguous()


def saved(path, latent):
    safetensors.torch.save_file({"latent_tensor": latent, "latent_format_version_0": torch.tensor([])}, path)
    return path


def work_of(tmp_path, latent, **params):
    path = saved(tmp_path / "a.latent", latent)
    job = Job(
        id="0" * 32,
        vae=Vae(sha256_of(VAE), VAE.stat().st_size, "Wan 2.1"),
        latent=Blob(sha256_of(path), path.stat().st_size),
        params=Params(tuple(latent.shape), **params),
    )
    return Work(job, path, lambda: VAE, None, tmp_path / "a.mp4", lambda: None, lambda frames, total: None)


def sound(path, seconds=0.25):
    """A tone in a FLAC."""
    samples = (0.5 * np.sin(np.arange(int(48000 * seconds)) / 10) * 32767).astype(np.int16)[None]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def pictures(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def decoded_here(path, latent):
    """The file that the engine makes in this process, by itself."""
    device = torch.device("cpu")
    decoder = network.WanDecoder(weights.load(safetensors.torch.load_file(VAE), device, torch.float32))
    _, _, frames, height, width = latent.shape

    def decode(submit):
        for t in range(frames):
            submit(decoder.step(latent[:, :, t]))

    options = VideoOptions(Fraction(16), Choice(FORMATS["mp4 (h264)"], "high"))
    engine.run(decode, VideoSpec(4 * frames - 3, 8 * height, 8 * width, device), [VideoFileSink(path, options)])
    return path


@pytest.fixture(scope="module")
def decoder():
    return Decoder("cpu")


def test_the_pixels_of_the_same_decoder_here(tmp_path, decoder):
    work = work_of(tmp_path, bunny())
    made = decoder(work)
    assert (made.frames, made.width, made.height) == (5, 128, 96)
    expected = pictures(decoded_here(tmp_path / "here.mp4", bunny()))
    assert np.array_equal(pictures(work.target), expected) and expected.std() > 20
    assert decoder.warm == [work.job.vae.sha256]


def test_the_plan_is_made_when_the_slots_are_there(tmp_path, monkeypatch):
    """What they take of the GPU's memory is not free for it: four of 4K take 0.4 GB."""
    order, decoder = [], Decoder("cpu")
    plan, slots = decoder._plan, engine.Ring
    monkeypatch.setattr(decoder, "_plan", lambda *args: order.append("plan") or plan(*args))
    monkeypatch.setattr(engine, "Ring", lambda *args, **more: order.append("slots") or slots(*args, **more))
    decoder(work_of(tmp_path, bunny()))
    assert order == ["slots", "plan"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number(tmp_path, decoder, value):
    latent = bunny()
    latent[0, 3, 1, 2, 3] = value
    with pytest.raises(InvalidJob, match="NaN"):
        decoder(work_of(tmp_path, latent))


def test_truncated(tmp_path, decoder):
    work = work_of(tmp_path, bunny())
    work.latent.write_bytes(work.latent.read_bytes()[:-100])
    with pytest.raises(InvalidJob, match="cannot be read"):
        decoder(work)


def test_another_shape_than_the_job_says(tmp_path, decoder):
    work = work_of(tmp_path, bunny())
    saved(work.latent, bunny(height=13))
    with pytest.raises(InvalidJob, match="the job says"):
        decoder(work)


def test_a_header_that_lies(tmp_path, decoder):
    """It promises 60 GB."""
    work = work_of(tmp_path, bunny())
    header = b'{"latent_tensor":{"dtype":"F32","shape":[1,16,9999,999,99],"data_offsets":[0,63289670400]}}'
    work.latent.write_bytes(struct.pack("<Q", len(header)) + header + bytes(1000))
    with pytest.raises(InvalidJob, match="cannot be read"):
        decoder(work)


def test_other_channels_than_the_vae_has(tmp_path, decoder):
    with pytest.raises(InvalidJob, match="channels"):
        decoder(work_of(tmp_path, bunny().repeat(1, 3, 1, 1, 1)))


def test_a_vae_that_is_none(tmp_path):
    work = work_of(tmp_path, bunny())
    other = saved(tmp_path / "vae.safetensors", bunny())
    job = Job(work.job.id, Vae("0" * 64, 1, "Wan 2.1"), work.job.latent, work.job.params)
    with pytest.raises(InvalidJob, match="Wan"):
        Decoder("cpu")(Work(job, work.latent, lambda: other, None, work.target, work.check, work.progress))


def test_a_gpu_in_a_bad_state_says_nothing_of_the_vae(tmp_path, monkeypatch):
    def load(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(weights, "load", load)
    with pytest.raises(RuntimeError, match="illegal") as raised:
        Decoder("cpu")(work_of(tmp_path, bunny()))
    assert not isinstance(raised.value, InvalidJob)


@pytest.mark.parametrize(
    "params",
    [{"format": "mp4 (none)"}, {"quality": "lossless", "bit_depth": 16}],
    ids=["format", "depth"],
)
def test_what_cannot_be_written(tmp_path, decoder, params):
    with pytest.raises(InvalidJob):
        decoder(work_of(tmp_path, bunny(), **params))


def test_a_stop_leaves_no_file(tmp_path, decoder):
    work = work_of(tmp_path, bunny())

    class Enough(RuntimeError):
        pass

    def check():
        raise Enough

    with pytest.raises(Enough):
        decoder(Work(work.job, work.latent, work.vae, None, work.target, check, work.progress))
    assert {path.name for path in tmp_path.iterdir()} == {"a.latent"}


def test_sound_is_in_the_file(tmp_path, decoder):
    work = work_of(tmp_path, bunny())
    decoder(dataclasses.replace(work, audio=sound(tmp_path / "a.flac")))
    with av.open(str(work.target)) as container:
        heard = np.concatenate([frame.to_ndarray().ravel() for frame in container.decode(audio=0)])
    assert 0.3 < np.abs(heard).max() < 0.7
    assert len(pictures(work.target)) == 5


@pytest.mark.parametrize("data", [b"fLaC" + bytes(range(256)), b"", b"#EXTM3U\nfile:///etc/passwd\n", b"RIFF" * 50])
def test_what_is_no_sound(tmp_path, decoder, data):
    (tmp_path / "a.flac").write_bytes(data)
    with pytest.raises(InvalidJob, match="sound"):
        decoder(dataclasses.replace(work_of(tmp_path, bunny()), audio=tmp_path / "a.flac"))


@pytest.fixture
def a_gpu(monkeypatch):
    """As torch would find one; nothing runs there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", lambda *_, device: torch.zeros(1))


OLD = Text("the GPU is older than Turing (GTX 16, RTX 20)")
COMPILER = "RuntimeError: error 5: nvrtc: error: invalid value for --gpu-architecture (-arch)"
FULL = Text("its kernels cannot be compiled here: %error%", error="RuntimeError: CUDA error: out of memory")


@pytest.mark.parametrize("reason", [OLD, Text("its kernels cannot be compiled here: %error%", error=f"{COMPILER}\nx")])
def test_a_gpu_without_the_fast_decoder_is_as_none(a_gpu, monkeypatch, reason):
    monkeypatch.setattr(cuda, "why_not", lambda _: reason)
    with pytest.raises(NoDevice, match="fast decoder cannot run there.*--comfyui") as refused:
        Decoder("cuda")
    assert reason.splitlines()[0] in str(refused.value) and "\n" not in str(refused.value)


def test_a_gpu_whose_memory_is_full_may_be_there_later(a_gpu, monkeypatch):
    monkeypatch.setattr(cuda, "why_not", lambda _: FULL)
    with pytest.raises(RuntimeError, match="out of memory") as refused:
        Decoder("cuda")
    assert not isinstance(refused.value, NoDevice)


@pytest.mark.parametrize(
    ("said", "is_none"),
    [
        ("CUDA error: no kernel image is available for execution on the device", True),
        ("CUDA error: invalid device function", True),
        ("CUDA error: out of memory", False),
        ("CUDA error: all CUDA-capable devices are busy or unavailable", False),
    ],
)
def test_a_gpu_that_this_torch_was_not_built_for_is_as_none(a_gpu, monkeypatch, said, is_none):
    """Without a job: each would fail there."""

    def ones(*_, device):
        raise RuntimeError(f"{said}\nCUDA kernel errors might be reported at another call")

    monkeypatch.setattr(torch, "ones", ones)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_120"])
    with pytest.raises(RuntimeError, match="is built for sm_75, sm_120" if is_none else said) as refused:
        Decoder("cuda", needs_kernels=False)
    assert isinstance(refused.value, NoDevice) == is_none
