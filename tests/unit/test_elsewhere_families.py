"""Decode elsewhere by a VAE's own modules: of every family, the frames that `exact` makes here."""

import dataclasses
import functools
import json
import types
from fractions import Fraction
from unittest import mock

import numpy as np
import pytest
import safetensors
import torch
from async_frame_pipeline.farm import exact
from async_frame_pipeline.farm.blobs import sha256_of
from async_frame_pipeline.farm.decode import stored_in
from async_frame_pipeline.farm.exact import ExactDecoder
from async_frame_pipeline.farm.messages import Blob, InvalidJob, Job, Params, Vae
from async_frame_pipeline.farm.roles import WORKER, token_of
from async_frame_pipeline.farm.settings import Settings
from async_frame_pipeline.farm.supervisor import workers_for
from async_frame_pipeline.farm.work import OutOfMemory, Work
from async_frame_pipeline.pipeline import engine
from async_frame_pipeline.pipeline.decoders import families
from async_frame_pipeline.pipeline.decoders.histories import Histories
from async_frame_pipeline.pipeline.sinks.formats import FORMATS, Choice
from async_frame_pipeline.pipeline.sinks.video_file import VideoFileSink, VideoOptions

from . import in_comfyui, stock_wan  # noqa: F401
from ..farm.conftest import in_a_loop, make_ground  # noqa: F401
from ..farm.ground import SECRET
from ..farm.test_decode import pictures, saved
from ..server.pack import vaes as tiny

import comfy.sd
import folder_paths
from async_frame_pipeline.nodes import decoding, elsewhere_files

LOSSLESS = {"format": "mkv (ffv1)", "output_type": "mkv"}


def taehv_in_half(seed: int):
    """For HunyuanVideo, and not for Wan: ComfyUI tells it by its weights' dtype."""
    weights = tiny.taehv(seed).first_stage_model.state_dict()
    return comfy.sd.VAE(sd={name: each.half() for name, each in weights.items()})


# Of these ComfyUI reads from the weights, or from what is said beside them, how large their models are.
OF_ANY_SIZE = {
    "wan 2.1": tiny.wan_21,
    "ltx": tiny.ltx,
    "ltx with noise": functools.partial(tiny.ltx, version="0.9.1"),
    "taehv": tiny.taehv,
    "taehv in half": taehv_in_half,
    "taehv of 48": functools.partial(tiny.taehv, channels=48),
}
ALL = OF_ANY_SIZE | {
    kind: tiny.KINDS[kind]
    for kind in ("wan 2.2", "hunyuan 1.0", "hunyuan 1.5", "minimax h3", "cogvideox", "seedvr2", "mochi", "cosmos")
}


@pytest.fixture(scope="module")
def decoder():
    return ExactDecoder("cpu", stock_wan.ROOT)


@pytest.fixture
def sent(tmp_path, monkeypatch):
    """A job as the nodes make it of a VAE and a latent."""
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))

    def sent(vae, latent):
        samples = {"samples": latent}
        assert elsewhere_files.why_not(vae, samples) is None
        path, file = elsewhere_files.write_vae(vae), saved(tmp_path / "a.latent", latent)
        job = Job(
            id="0" * 32,
            vae=Vae(sha256_of(path), path.stat().st_size, families.of(vae).name),
            latent=Blob(sha256_of(file), file.stat().st_size),
            params=Params(tuple(latent.shape), **LOSSLESS, decoder=elsewhere_files.decoder(vae)),
            need_mb=elsewhere_files.need_mb(vae, samples),
        )
        return Work(job, file, lambda: path, None, tmp_path / "a.mkv", lambda: None, lambda frames, total: None)

    return sent


@torch.inference_mode()  # as ComfyUI runs nodes
def decoded_here(path, vae, latent):
    """By the nodes."""
    torch.manual_seed(3)
    sink = VideoFileSink(path, VideoOptions(Fraction(16), Choice(FORMATS["mkv (ffv1)"], "high")))
    decoding.decode_into(vae, {"samples": latent}, [sink], decoder="exact")
    return pictures(path)


def noise(vae, frames=3, height=2, width=3):
    generator = torch.Generator().manual_seed(frames)
    return torch.randn(1, vae.latent_channels, frames, height, width, generator=generator)


@pytest.mark.parametrize("kind", ALL)
def test_the_frames_of_a_decode_here(tmp_path, monkeypatch, decoder, sent, kind):
    vae = ALL[kind](1)
    latent = noise(vae)
    work = sent(vae, latent)
    if kind not in OF_ANY_SIZE:  # made as small there
        own = comfy.sd.VAE

        def small(sd, metadata):
            weights = mock.patch.object(tiny, "random_state_dict", lambda module, seed: sd)
            with weights, mock.patch.object(comfy.sd, "VAE", own):
                return ALL[kind](1)

        monkeypatch.setattr(comfy.sd, "VAE", small)
    decoder._model(work.job, lambda: stored_in(work.vae()))
    torch.manual_seed(3)  # some draw from them while they decode
    decoder(work)
    there, here = pictures(work.target), decoded_here(tmp_path / "here.mkv", vae, latent)
    assert np.array_equal(there, here) and here.std() > 10


def test_how_much_noise_a_node_has_set_is_sent(decoder, sent):
    vae = tiny.ltx(1, version="0.9.1")
    vae.first_stage_model.decode_timestep, vae.first_stage_model.decode_noise_scale = 0.1, 0.5
    work = sent(vae, noise(vae))
    there = decoder._model(work.job, lambda: stored_in(work.vae())).vae.first_stage_model
    assert (there.decode_timestep, there.decode_noise_scale) == (0.1, 0.5)
    vae.first_stage_model.decode_noise_scale = 0.2
    assert sha256_of(elsewhere_files.write_vae(vae)) != work.job.vae.sha256


def test_every_family_is_tested():
    known = {family.name for family in (*families.FAMILIES, *families.late.FAMILIES)}
    assert known == {families.of(make(1)).name for make in ALL.values()}


@in_a_loop
async def test_a_worker_with_a_comfyui_decodes_ltx_and_others_leave_it_alone(make_ground, tmp_path, sent):  # noqa: F811
    vae = tiny.ltx(1)
    latent = noise(vae)
    job = sent(vae, latent).job
    assert (job.vae.family, job.params.decoder) == ("LTX", "exact")
    ground = make_ground(settings=Settings())
    await ground.prepare()
    of_workers = dataclasses.replace(ground.address, token=token_of(SECRET, WORKER))
    [worker] = workers_for(["cpu"], of_workers, ["--comfyui", str(stock_wan.ROOT)])
    async with ground.client() as client:
        ground.worker("fast")
        # As a script may leave it out.
        params = LOSSLESS | {"decoder": "auto"}
        queued = await client.submit(tmp_path / "a.latent", elsewhere_files.write_vae(vae), family="LTX", params=params)
        await ground.whole(client, (await ground.submit(client)).id)  # what is behind it comes
        worker.start()
        try:
            await client.fetch(queued.id, tmp_path / "there.mkv")
        finally:
            worker.process.kill()
            worker.process.wait()
        record = await client.broker.record(queued.id)
    assert (record.worker, record.attempt, record.result.frames) == (worker.name, 1, 17)
    assert np.array_equal(pictures(tmp_path / "there.mkv"), decoded_here(tmp_path / "here.mkv", vae, latent))


# -- what goes wrong ----------------------------------------------------------------------------------


def with_file(work, path, change):
    """The same job, of whose VAE's tensors and config something else is made."""
    with safetensors.safe_open(work.vae(), "pt") as file:
        config = file.metadata()["config"]
    tensors = safetensors.torch.load_file(work.vae())
    safetensors.torch.save_file(tensors, path, {"config": change(tensors, config) or config})
    vae = dataclasses.replace(work.job.vae, sha256=sha256_of(path))
    return dataclasses.replace(work, job=dataclasses.replace(work.job, vae=vae), vae=lambda: path)


def test_of_another_family_than_the_job_says(decoder, sent):
    vae = tiny.ltx(1)
    work = sent(vae, noise(vae))
    decoder(work)
    for sha256 in (work.job.vae.sha256, sha256_of(work.latent)):  # one that is warm, and one that is not
        said = dataclasses.replace(work.job.vae, sha256=sha256, family="TAEHV")
        with pytest.raises(InvalidJob, match="is of LTX, and the job says 'TAEHV'"):
            decoder(dataclasses.replace(work, job=dataclasses.replace(work.job, vae=said)))


def thin(tensors, config):
    """A Wan VAE as wide as memory is not, of which only that is there that ComfyUI reads its width from."""
    tensors.clear()
    width = 1 << 15
    tensors["decoder.middle.0.residual.0.gamma"] = torch.zeros(4 * width, 1, 1, 1)
    tensors["decoder.head.0.gamma"] = torch.zeros(width, 1, 1, 1)
    tensors["encoder.conv1.weight"] = torch.zeros(width, 3, 3, 3, 3)
    tensors["decoder.head.2.weight"] = torch.zeros(3, width, 3, 3, 3)
    return "{}"


def half(tensors, config):
    for name in [*tensors][::2]:
        del tensors[name]


def as_config(**changes):
    return lambda tensors, config: json.dumps(json.loads(config) | changes)


def wide(tensors, config):
    said = json.loads(config)
    return json.dumps({**said, "vae": said["vae"] | {"decoder_base_channels": 1 << 20}})


BROKEN = {
    "tensors are missing": half,
    "of another shape": lambda tensors, config: tensors.update({name: each[:1] for name, each in tensors.items()}),
    "another model": as_config(vae_class="comfy.ldm.wan.vae.WanVAE"),
    "no JSON": lambda tensors, config: "{",
    "nested": lambda tensors, config: "[" * 60_000,
    "of another kind": as_config(vae=3),
    "no object": lambda tensors, config: "3",
    "more than may be": lambda tensors, config: '"' + "x" * 1_100_000 + '"',
    "a model that nothing is sent of": thin,
    "a model that is absurd": wide,
    "layers without end": lambda tensors, config: config.replace('"num_layers": 1', '"num_layers": 1000000000'),
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_a_vae_that_is_broken_is_the_jobs_fault(tmp_path, decoder, sent, change):
    vae = tiny.ltx(1)
    with pytest.raises(InvalidJob, match="VAE"):
        decoder(with_file(sent(vae, noise(vae)), tmp_path / "broken.safetensors", change))


def test_a_latent_that_the_vae_cannot_decode_is_the_jobs_fault_and_the_next_one_is_decoded(decoder, sent):
    """LTX's own reflects at the edges of its latents, which takes two."""
    vae = tiny.ltx(1, version="0.9")
    with pytest.raises(InvalidJob, match="LTX cannot decode a latent"):
        decoder(sent(vae, noise(vae, width=1)))
    assert decoder(sent(vae, noise(vae))).frames == 17


def test_a_frame_that_is_absurd_is_refused_before_memory_is_taken(decoder, sent):
    vae = tiny.ltx(1)
    work = sent(vae, noise(vae))
    decoder(work)
    latent = torch.zeros(1).expand(1, 128, 1, 512, 512)
    with pytest.raises(InvalidJob, match="16384x16384 are larger"):
        decoder._warm[work.job.vae.sha256].spec(latent, torch.device("cpu"))


def test_normalised_latents_are_known_of_wan_alone(decoder, sent):
    vae = tiny.ltx(1)
    work = sent(vae, noise(vae))
    params = dataclasses.replace(work.job.params, do_scaling=True)
    with pytest.raises(InvalidJob, match="normalised"):
        decoder(dataclasses.replace(work, job=dataclasses.replace(work.job, params=params)))


@pytest.mark.parametrize(("kind", "times"), [("ltx", 1), ("ltx", 2), ("wan 2.1", 1)])
def test_out_of_memory_it_is_tried_with_less_and_then_left_to_a_larger_card(
    tmp_path, monkeypatch, decoder, sent, kind, times
):
    vae, tries, away = ALL[kind](1), [], []
    latent = noise(vae)
    work, run = sent(vae, latent), engine.run

    def runs(decode, *args, slots, frames_per_slot, **more):
        tries.append((slots, frames_per_slot))

        def fails(submit):
            def full(frames_cthw):
                raise torch.OutOfMemoryError("no memory")

            decode(full)

        how = {"slots": slots, "frames_per_slot": frames_per_slot}
        return run(fails if len(tries) <= times else decode, *args, **how, **more)

    monkeypatch.setattr(engine, "run", runs)
    monkeypatch.setattr(exact, "Histories", lambda there: away.append(there) or Histories(there))
    if times == 1:
        decoder(work)
        monkeypatch.undo()
        assert np.array_equal(pictures(work.target), decoded_here(tmp_path / "here.mkv", vae, latent))
    else:
        with pytest.raises(OutOfMemory):
            decoder(work)
    assert tries == [(4, families.of(vae).recipe.frames_per_slot), (2, 1)]
    assert len(away) == (kind == "wan 2.1")


def test_a_vae_that_waits_on_the_gpu_is_not_in_the_way_of_the_next(monkeypatch):
    """Its memory counts as free, once; for a decode with itself, too."""

    class Patcher:
        def __init__(self, loaded, size):
            self.loaded_size, self.model_size = lambda: loaded << 20, lambda: size << 20

    decoder = ExactDecoder("cpu", stock_wan.ROOT)
    decoder.device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5000 << 20, 12_000 << 20))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
    for name, patcher in {"one": Patcher(2000, 2000), "other": Patcher(1000, 3000)}.items():
        vae = types.SimpleNamespace(patcher=patcher)
        decoder._warm[name] = types.SimpleNamespace(vae=vae)
    assert decoder.memory_mb() == (8000, 12_000)
    room = decoder._room(decoder._warm["other"])
    # Of the other 2000 MB are still to be loaded.
    assert (room.free >> 20, room.emptied >> 20) == (3000, 5000)
