"""A worker with a ComfyUI on a GPU: the pixels of `exact` here, of LTX, and of Wan with what it remembers away."""

import dataclasses

import numpy as np
import pytest
from async_frame_pipeline.farm import exact
from async_frame_pipeline.farm.decode import stored_in
from async_frame_pipeline.farm.exact import ExactDecoder
from async_frame_pipeline.farm.roles import WORKER, token_of
from async_frame_pipeline.farm.settings import Settings
from async_frame_pipeline.farm.supervisor import workers_for
from async_frame_pipeline.pipeline.decoders.fast.plan import Room
from async_frame_pipeline.pipeline.decoders.histories import Histories

from ..unit import in_comfyui, stock_wan  # noqa: F401
from ..farm.conftest import in_a_loop, make_ground  # noqa: F401
from ..farm.ground import SECRET
from ..farm.test_decode import pictures
from ..server.pack import vaes as tiny
from ..unit.test_elsewhere_families import LOSSLESS, decoded_here, noise, sent  # noqa: F401

from async_frame_pipeline.nodes import elsewhere_files


@pytest.fixture
def decoder(device):
    return ExactDecoder("cuda", stock_wan.ROOT)


@in_a_loop
async def test_a_worker_gives_the_pixels_of_ltx_here(make_ground, device, tmp_path, sent):  # noqa: F811
    vae = tiny.ltx(1)
    latent = noise(vae, frames=9, height=8, width=12)
    job = sent(vae, latent).job
    ground = make_ground(settings=Settings())
    await ground.prepare()
    of_workers = dataclasses.replace(ground.address, token=token_of(SECRET, WORKER))
    [worker] = workers_for([str(device.index)], of_workers, ["--comfyui", str(stock_wan.ROOT)])
    worker.start()
    try:
        async with ground.client() as client:
            # Twice, as here: a process's first convolutions may be done by other kernels than later ones.
            for number in range(2):
                params = LOSSLESS | {"decoder": "exact"}
                vae_file = elsewhere_files.write_vae(vae)
                there = await client.submit(
                    tmp_path / "a.latent", vae_file, family="LTX", need_mb=job.need_mb, params=params
                )
                await client.fetch(there.id, tmp_path / f"{number}.mkv")
                record = await client.broker.record(there.id)
                assert (record.attempt, record.result.frames, record.result.width) == (1, 65, 384)
    finally:
        worker.process.kill()
        worker.process.wait()
    decoded_here(tmp_path / "warm.mkv", vae, latent)
    here = decoded_here(tmp_path / "here.mkv", vae, latent)
    assert here.std() > 10 and np.array_equal(pictures(tmp_path / "1.mkv"), here)


def test_with_little_memory_what_wan_remembers_is_away(monkeypatch, decoder, sent):  # noqa: F811
    vae, away, seen = tiny.wan_21(1), [], []
    latent = noise(vae, frames=5, height=30, width=52)
    work = sent(vae, latent)
    model = decoder._model(work.job, lambda: stored_in(work.vae()))
    least = model.family.recipe.least_for(model.vae, latent, model.family.size(model.vae, latent))
    monkeypatch.setattr(exact, "Histories", lambda there: away.append(there) or Histories(there))
    for emptied in (1 << 40, 1 << 40, least):  # the first for kernels
        monkeypatch.setattr(decoder, "_room", lambda model, emptied=emptied: Room(emptied, emptied, 1 << 40))
        decoder(work)
        seen.append((len(away), pictures(work.target)))
    (_, _), (none, whole), (one, little) = seen
    assert (none, one) == (0, 1) and np.array_equal(little, whole) and whole.std() > 10
