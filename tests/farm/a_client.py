"""A client that submits a latent and fetches the video, and is killed at a moment.

python a_client.py latent vae target job_id [--at upload|submit|download]
"""

import argparse
import asyncio
import os
import shutil
import signal
from pathlib import Path

from farm.__main__ import as_one_package

as_one_package()

from async_frame_pipeline.farm import blobs, client  # noqa: E402


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def half(source, target):
    """A copy that is never finished."""
    data = Path(source).read_bytes()
    with open(target, "wb") as file:
        file.write(data[: len(data) // 2])
        file.flush()
        die()


async def half_of_the_chunks(self, kind, info):
    yield b"half"
    die()


async def main(given):
    async with client.farm() as each:
        if given.at == "upload":
            shutil.copyfile, blobs._entry_subject = half, die  # in a folder, and in the broker
        elif given.at == "submit":
            each.broker.enqueue = die
        job = await each.submit(given.latent, given.vae, job_id=given.job_id)
        if given.at == "download":
            shutil.copyfile, blobs.Objects._chunks = half, half_of_the_chunks
        await each.fetch(job.id, given.target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("latent", "vae", "target"):
        parser.add_argument(name, type=Path)
    parser.add_argument("job_id")
    parser.add_argument("--at", default="")
    asyncio.run(main(parser.parse_args()))
