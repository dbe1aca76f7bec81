"""A worker on a GPU: the pixels of a decode here, with little memory too; with too little, it is for a larger card."""

import asyncio
import dataclasses

import pytest
import torch
from async_frame_pipeline.farm.blobs import Scratch
from async_frame_pipeline.farm.broker import Broker
from async_frame_pipeline.farm.client import blobs_of, scratch_parent
from async_frame_pipeline.farm.decode import Decoder
from async_frame_pipeline.farm.roles import WORKER, token_of
from async_frame_pipeline.farm.settings import Settings
from async_frame_pipeline.farm.supervisor import workers_for
from async_frame_pipeline.farm.worker import Worker

from ..farm.conftest import in_a_loop, make_ground  # noqa: F401
from ..farm.ground import SECRET, until
from ..farm.test_decode import VAE, bunny, pictures, saved, work_of
from ..farm.test_kills import in_state
from .holder import taken

# Large enough for a decoder as narrow as the bundled one to need a gigabyte.
LARGE = (1, 16, 2, 270, 480)


@pytest.fixture
def decoder(device):
    return Decoder("cuda")


def large():
    return torch.randn(LARGE, generator=torch.Generator().manual_seed(1))


@in_a_loop
async def test_a_worker_gives_the_pixels_of_a_decode_here(make_ground, decoder, tmp_path):  # noqa: F811
    ground = make_ground(settings=Settings())  # kernels are compiled
    await ground.prepare()
    latent = saved(tmp_path / "bunny.latent", bunny(frames=5))
    of_workers = dataclasses.replace(ground.address, token=token_of(SECRET, WORKER))
    [worker] = workers_for([str(torch.cuda.current_device())], of_workers, [])
    worker.start()
    try:
        async with ground.client() as client:
            job = await client.submit(latent, VAE)
            await client.fetch(job.id, tmp_path / "there.mp4")
            record = await client.broker.record(job.id)
    finally:
        worker.process.kill()
        worker.process.wait()
    (tmp_path / "here").mkdir()
    here = work_of(tmp_path / "here", bunny(frames=5))
    decoder(here)
    expected = pictures(here.target)
    assert expected.std() > 20 and (record.result.frames, record.attempt) == (17, 1)
    assert (pictures(tmp_path / "there.mp4") == expected).all()


def test_little_memory_is_planned_for(decoder, tmp_path):
    """In bands, from the first kernel on: the frames are those of a decode with all the memory there is."""
    plans = []
    plan = decoder._plan
    decoder._plan = lambda *args: plans.append(plan(*args)) or plans[-1]
    work = work_of(tmp_path, large(), format="mkv (ffv1)", output_type="mkv")
    decoder(work)
    expected = pictures(work.target)
    decoder._make_room()
    with taken(but_gb=6):
        decoder(work)
    whole, in_bands = plans
    assert not whole.bands and in_bands.bands and in_bands.needed < whole.needed
    off_by = abs(pictures(work.target).astype(int) - expected)
    assert off_by.max() <= 3 and off_by.mean() < 0.05


@in_a_loop
async def test_what_does_not_fit_is_for_larger_cards(make_ground, decoder, tmp_path):  # noqa: F811
    """Memory runs out, then in smaller bands too: one class larger each time. The process goes on with the next job."""
    ground = make_ground(settings=Settings())
    await ground.prepare()
    decoder(work_of(tmp_path, bunny()))  # its weights are there
    large_latent, small = saved(tmp_path / "large.latent", large()), saved(tmp_path / "small.latent", bunny())
    async with Broker.connect(ground.address, name="worker") as broker, ground.client() as client:
        blobs, scratch = blobs_of(ground.settings, broker), Scratch(scratch_parent(ground.settings))
        worker = Worker(broker, ground.settings, blobs, scratch, "gpu", decoder)
        _, all_bytes = torch.cuda.mem_get_info()
        decoder._make_room()
        # The driver still says that the whole card is free.
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 100e6) / all_bytes)
        running = asyncio.ensure_future(worker.run())
        try:
            too_large = await client.submit(large_latent, VAE)
            await until(lambda: in_state(client, too_large.id, "failed"))
            record = await client.broker.record(too_large.id)
            # From each class to the next, and in the largest until it is enough.
            assert (record.attempt, record.memory_class) == (6, "xl") and "OutOfMemory" in record.reason
            after = await client.submit(small, VAE)
            await client.fetch(after.id, tmp_path / "after.mp4")
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
            worker.stop()
            await running
    assert pictures(tmp_path / "after.mp4").std() > 20
