"""Another program takes the GPU's memory in the middle of a decode: a whole video, or a clear error and the latents."""

import re
import sys
import time
from pathlib import Path

import pytest
import torch

REPO = Path(__file__).resolve().parent.parent.parent
SERVER_TESTS = REPO / "tests" / "server"
sys.path[:0] = [str(SERVER_TESTS), str(REPO / "scripts")]

import host  # noqa: E402
from graph import Graph, assert_clean, run  # noqa: E402
from resume import assert_rescued, disarm, rescued_name  # noqa: E402

from .holder import taken  # noqa: E402

# Large enough for a decoder as narrow as the tests' to need a gigabyte.
SAMPLES = {"batch": 1, "channels": 16, "latent_frames": 4, "height": 270, "width": 480, "seed": 1}
FRAMES = 13


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server on the GPU, as a user starts it."""
    if not torch.cuda.is_available():
        yield None  # `device` skips or fails the test
        return
    base = tmp_path_factory.mktemp("server")
    with host.Server(base=base, packs=[SERVER_TESTS / "pack"], cpu=False) as server:
        yield server


def saving(decoder: str, seed: int, lane: str):
    graph = Graph()
    samples = graph("AFPTestLatent", **SAMPLES)
    samples = graph("AFPTestFault", samples=samples, lane=lane, at=2, fault="hold", seed=seed)
    vae = graph("AFPTestVAE", kind="wan 2.1", seed=1, name="taken")
    video = graph("AsyncVAEDecodeToVideo", samples=samples, vae=vae, fps=16, decoder=decoder)
    how = {"format": "mp4 (h264)", "quality": "low"}
    return graph, graph("SaveVideoStreaming", video=video, filename_prefix=f"taken_{seed}", **how)


@pytest.mark.parametrize("decoder", ["fast", "exact"])
@pytest.mark.parametrize("but_gb", [0.6, 0.02])
def test_memory_taken_in_the_middle(server, decoder, but_gb):
    seed = hash((decoder, but_gb)) % 10**6
    run(server, saving(decoder, seed, "none")[0])  # compared, loaded, page-locked
    (server.base / "hold-fault.go").unlink(missing_ok=True)
    (server.base / "hold-fault.reached").unlink(missing_ok=True)
    before = len(server.log_text())
    graph, saver = saving(decoder, seed, "convert")
    prompt_id = server.submit(graph.prompt)
    deadline = time.monotonic() + 120
    while not (server.base / "hold-fault.reached").exists():
        assert time.monotonic() < deadline, "the decode never got there"
        time.sleep(0.02)
    with taken(but_gb):
        (server.base / "hold-fault.go").touch()
        try:
            entry = server.result(prompt_id)
        except host.PromptFailed as failed:
            message = failed.error["exception_message"]
            assert re.search("out of memory|not enough memory|more of main memory", message, re.I), message
            assert_rescued(server.base / "input" / rescued_name(message), SAMPLES)
        else:
            [file] = entry["outputs"][saver.node]["images"]
            assert (server.output_dir / file["subfolder"] / file["filename"]).stat().st_size > 0
    log = server.log_text()[before:]
    print(log)
    assert "out of memory" in log.lower() or but_gb > 0.5, "there was room enough"
    disarm(server)
    assert_clean(server)
    graph, saver = saving(decoder, seed + 1, "none")
    assert run(server, graph).report(saver)["frames"] == FRAMES
