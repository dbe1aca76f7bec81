"""Every way to stream, where it fails for good: the user sees the error in the saver, nothing of the file is left, and
the latents are in a file from which the stock pixels come.

What else can happen to each of them is in tests/unit/test_family_faults.py, and in every lane in test_faults.py.
"""

import host
import pytest
from graph import Graph, assert_clean
from resume import assert_rescued, assert_resumes, disarm, rescued_name

# Kind, channels, latent frames, frames: by a hook, by a loop of our own, into a buffer, late.
WAYS = [("hunyuan 1.5", 32, 3, 9), ("minimax h3", 24, 8, 26), ("ltx", 128, 2, 9), ("cosmos", 16, 2, 9)]


@pytest.fixture(autouse=True)
def disarmed(server):
    yield
    disarm(server)


@pytest.mark.parametrize("fault", ["exception in the decoder", "full disk"])
@pytest.mark.parametrize(("kind", "channels", "latent_frames", "frames"), WAYS, ids=[way[0] for way in WAYS])
def test_the_latents_are_rescued(server, seed, kind, channels, latent_frames, frames, fault):
    shape = {"batch": 1, "channels": channels, "latent_frames": latent_frames, "height": 2, "width": 2, "seed": seed}
    graph, name = Graph(), f"family_{seed}"
    samples = graph("AFPTestLatent", **shape)
    fails = {"fail_at": 1} if fault == "exception in the decoder" else {}
    if not fails:
        samples = graph("AFPTestFault", samples=samples, lane="mux", at=2, fault="disk full", seed=seed)
    vae = graph("AFPTestVAE", kind=kind, seed=seed, name=name, **fails)
    video = graph("AsyncVAEDecodeToVideo", samples=samples, vae=vae, fps=16, decoder="exact")
    saver = graph("SaveVideoStreaming", video=video, filename_prefix=name, format="mp4 (h264)", quality="high")
    with pytest.raises(host.PromptFailed) as failed:
        server.run(graph.prompt)
    error = failed.value.error
    message = error["exception_message"]
    assert error["node_id"] == saver.node
    assert ("injected by the test" if fails else "No space left on device") in message
    assert_clean(server)
    assert list(server.output_dir.rglob(f"*{name}*")) == []
    rescued = rescued_name(message)
    assert_rescued(server.base / "input" / rescued, shape)
    assert_resumes(server, rescued, shape, seed, frames, kind)
    assert_clean(server)
