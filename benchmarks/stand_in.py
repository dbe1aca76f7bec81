"""`farm work NAME` with a stand-in for the decoder, which needs no torch.

It does what the job's name_prefix says: "endless", until it is told to stop; else it writes a file of so many
megabytes, which begins with the time at which it was called.
"""

import os
import struct
import sys
import time
import types
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from farm.__main__ import as_one_package

as_one_package()
from async_frame_pipeline.farm import commands  # noqa: E402
from async_frame_pipeline.farm.work import Made, Work  # noqa: E402


class StandIn:
    name, decoders, patience = "stand-in", ("fast",), 1.0

    def __init__(self, device: str):
        self.warm: list[str] = []

    def memory_mb(self) -> tuple[int, int]:
        return 40_000, 40_000

    def prepare(self, *_) -> None:
        """There is nothing to get ready."""

    def __call__(self, work: Work) -> Made:
        called = struct.pack("<d", time.time())
        if work.job.vae.sha256 not in self.warm:
            self.warm.append(work.job.vae.sha256)
            work.vae()
        while work.job.name_prefix == "endless":
            work.check()
            work.progress(1, 2)
            time.sleep(0.05)
        block = os.urandom(1_000_000)
        with open(work.target, "wb") as file:
            file.write(called)
            for _ in range(int(work.job.name_prefix)):
                file.write(block)
        return Made(1, 8, 8, 0.0, "")


def called(video: Path) -> float:
    """When the stand-in was, that wrote it; seconds since 1970."""
    return struct.unpack("<d", video.read_bytes()[:8])[0]


if __name__ == "__main__":
    module = types.ModuleType(f"{commands.__package__}.decode")
    module.Decoder = StandIn
    sys.modules[module.__name__] = module
    sys.exit(commands.main(["work", *sys.argv[1:]]))
