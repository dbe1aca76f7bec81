"""The fast decoder in the nodes. On a CPU it is never chosen, so there the tests allow it (pack/fast.py)."""

import dataclasses

import pytest
from graph import Graph, assert_clean, run
from test_failures import wait_for

KINDS = {"wan 2.1": 16, "wan 2.2": 48}
# RMS of these random VAEs' frames in [0, 1] from the stock ones: float16 and another order of sums on one side, on a
# GPU bfloat16 on the other.
CLOSE = 0.01


@pytest.fixture(scope="module", autouse=True)
def taken_back(server):
    """These tests change how the server's decoders behave."""
    yield
    case_ = case(0, "wan 2.1", offered=False)
    case_.decoded()
    run(server, case_.graph)


@dataclasses.dataclass
class Case:
    graph: Graph
    samples: object
    vae: object
    stock: object

    def decoded(self, **inputs):
        """Decode by our node; a probe of how it compares with the stock node."""
        ours = self.graph("AsyncVAEDecodeVideo", samples=self.samples, vae=self.vae, **inputs)
        return self.graph("AFPTestCompareImages", a=ours, b=self.stock)

    def saved(self, **inputs):
        video = self.graph("AsyncVAEDecodeToVideo", samples=self.samples, vae=self.vae, fps=16.0, **inputs)
        return self.graph(
            "SaveVideoStreaming", video=video, filename_prefix="fast/video", format="mp4 (h264)", quality="high"
        )


def case(seed, kind, **fast):
    graph = Graph()
    samples = graph("AFPTestLatent", batch=1, channels=KINDS[kind], latent_frames=6, height=4, width=6, seed=seed)
    vae = graph("AFPTestFastDecoder", vae=graph("AFPTestVAE", kind=kind, seed=seed), seed=seed, **fast)
    return Case(graph, samples, vae, graph("VAEDecode", samples=samples, vae=vae))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("decoder", ["auto", "fast"])
def test_its_frames_are_close_to_the_stock_ones(server, seed, kind, decoder):
    case_ = case(seed, kind)
    compared = case_.decoded(decoder=decoder)
    outcome = run(server, case_.graph)
    seen = outcome.comparison(compared)
    assert seen["shapes"][0] == seen["shapes"][1] and not seen["has_nan"]
    assert 0 < seen["rms_difference"] < CLOSE, "not equal, or it was not the fast decoder; but close"
    assert any(line.startswith(f"fast {kind.title()} decode") for line in outcome.our_log), outcome.our_log


def test_exact_stays_exact(server, seed):
    case_ = case(seed, "wan 2.1")
    compared = case_.decoded(decoder="exact")
    outcome = run(server, case_.graph)
    assert outcome.comparison(compared)["equal"] and outcome.exact_decodes


@pytest.mark.parametrize("oom_at", [1, 3, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_out_of_memory_falls_back_to_exact(server, seed, kind, oom_at):
    case_ = case(seed, kind, oom_at=oom_at)
    compared, saved = case_.decoded(), case_.saved()
    outcome = run(server, case_.graph)
    assert outcome.comparison(compared)["equal"]
    assert len([line for line in outcome.exact_decodes if "(not fast: out of memory)" in line]) == 2, outcome.our_log
    # The file was begun anew: each frame is in it once.
    assert outcome.report(saved)["frames"] == 21
    assert_clean(server)


def test_interrupt_in_mid_decode(server, seed):
    case_ = case(seed, "wan 2.1", hold_at=4)
    case_.saved()
    prompt_id = server.submit(case_.graph.prompt)
    wait_for(server.base / "hold-fast.reached")
    server.interrupt()
    (server.base / "hold-fast.go").touch()
    events = [event for event, _ in server.wait(prompt_id)["status"]["messages"]]
    assert "execution_interrupted" in events and "execution_error" not in events
    assert_clean(server)
    compared = case_.decoded(decoder="exact")
    assert run(server, case_.graph).comparison(compared)["equal"], "the next prompt is not affected"


def test_a_decoder_that_differs_is_not_used(server, seed):
    case_ = case(seed, "wan 2.1", wrong=True)
    first, second = case_.decoded(), case_.decoded(decoder="auto")
    outcome = run(server, case_.graph)
    for compared in (first, second):
        assert outcome.comparison(compared)["equal"]
    assert all("its frames differ from the stock decoder's" in line for line in outcome.exact_decodes), outcome.our_log


def test_asked_for_in_vain_it_says_so(server, seed):
    """A VAE that runs in float32, as every VAE does on a CPU."""
    case_ = case(seed, "wan 2.1", offered=False)
    compared = case_.decoded(decoder="fast")
    outcome = run(server, case_.graph)
    if "cuda" in outcome.log:
        pytest.skip("on this GPU it can be used")
    assert outcome.comparison(compared)["equal"]
    assert "the fast decoder cannot be used: there is no NVIDIA GPU" in outcome.our_log
