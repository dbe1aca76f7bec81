"""The fast decoder in the nodes, and faults in it (pack/fast.py)."""

import dataclasses

import pytest
from graph import Graph, assert_clean, run
from test_failures import wait_for

KINDS = {"wan 2.1": 16, "wan 2.2": 48}
# RMS of these random VAEs' frames in [0, 1] from the stock ones. On a GPU float16 and another order of sums are on one
# side, bfloat16 on the other. On the CPU both are float32, and only the order of sums differs: it leaves 1e-5 at most,
# half of what tests/unit/test_fast_decoder.py allows in [-1, 1].
CLOSE = {"cuda": 0.01, "cpu": 1e-5}


@pytest.fixture(scope="module", autouse=True)
def taken_back(server):
    """These tests change how the server's decoders behave."""
    yield
    case_ = case(0, "wan 2.1")
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


def case(seed, kind, wrapped=False, **fast):
    graph = Graph()
    samples = graph("AFPTestLatent", batch=1, channels=KINDS[kind], latent_frames=6, height=4, width=6, seed=seed)
    vae = graph("AFPTestVAE", kind=kind, seed=seed, wrapped=wrapped)
    vae = graph("AFPTestFastDecoder", vae=vae, seed=seed, **fast)
    return Case(graph, samples, vae, graph("VAEDecode", samples=samples, vae=vae))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("decoder", ["auto", "fast"])
def test_its_frames_are_close_to_the_stock_ones(server, seed, kind, decoder):
    """On any device: the CPU has it too."""
    case_ = case(seed, kind)
    compared, saved = case_.decoded(decoder=decoder), case_.saved(decoder=decoder)
    outcome = run(server, case_.graph)
    seen, report = outcome.comparison(compared), outcome.report(saved)
    assert seen["shapes"][0] == seen["shapes"][1] and not seen["has_nan"]
    assert 0 < seen["rms_difference"] < CLOSE[report["device"]], "not equal, or it was not the fast decoder; but close"
    fast = [line for line in outcome.our_log if line.startswith(f"fast {kind.title()} decode, ")]
    assert len(fast) == 2, outcome.our_log
    assert (report["decoder"], report["why_not_fast"], report["notes"]) == ("fast", "", [])
    assert report["texts"]["reason"] is None
    assert report["frames"] == 21


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


@pytest.mark.parametrize("node", ["AsyncVAEDecodeVideo", "SaveVideoStreaming"])
def test_interrupt_in_mid_decode(server, seed, node):
    case_ = case(seed, "wan 2.1", hold_at=4)
    case_.saved() if node == "SaveVideoStreaming" else case_.decoded()
    prompt_id = server.submit(case_.graph.prompt)
    wait_for(server.base / "hold-fast.reached")
    server.interrupt()
    (server.base / "hold-fast.go").touch()
    events = [event for event, _ in server.wait(prompt_id)["status"]["messages"]]
    assert "execution_interrupted" in events and "execution_error" not in events
    for name in ("reached", "go"):
        (server.base / f"hold-fast.{name}").unlink()
    assert_clean(server)
    case_ = case(seed, "wan 2.1")
    compared = case_.decoded(decoder="exact")
    assert run(server, case_.graph).comparison(compared)["equal"], "the next prompt is not affected"


def test_a_decoder_that_differs_is_not_used(server, seed):
    case_ = case(seed, "wan 2.1", wrong=True)
    first, second = case_.decoded(), case_.decoded(decoder="auto")
    outcome = run(server, case_.graph)
    for compared in (first, second):
        assert outcome.comparison(compared)["equal"]
    assert all("its frames differ from the stock decoder's" in line for line in outcome.exact_decodes), outcome.our_log


@pytest.mark.parametrize("decoder", ["auto", "fast"])
def test_where_it_cannot_be_used_it_says_why(server, seed, decoder):
    """As with a pack that compiles or caches models; asked for in vain, it is a warning."""
    case_ = case(seed, "wan 2.1", wrapped=True)
    compared, saved = case_.decoded(decoder=decoder), case_.saved(decoder=decoder)
    outcome = run(server, case_.graph)
    assert outcome.comparison(compared)["equal"]
    why = "another node or pack replaced the VAE's decoder"
    report = outcome.report(saved)
    assert (report["decoder"], report["why_not_fast"]) == ("exact", why)
    warning = f"the fast decoder cannot be used: {why}"
    if decoder == "fast":
        assert warning in outcome.our_log and report["notes"] == [warning]
    else:
        assert report["texts"]["reason"]["text"] == why and report["notes"] == []
        assert len([line for line in outcome.exact_decodes if f"(not fast: {why})" in line]) == 2
