"""Out of memory: the next smaller way gives the same pixels, and the log says what it cost.

From `exact` down, whose pixels are the stock node's; test_fast_decoder.py has the ways before it.
"""

import re

import pytest
from graph import Graph, assert_clean, run
from resume import disarm

AGAIN = (
    r"out of memory after \d+\.\d s, starting again with as little in memory as can be, "
    r"and other models unloaded"
)


def both(server, seed: int, kind: str = "wan 2.1", lane: str | None = None, at: int = 1, **in_decoder: int):
    """Decode with ours, out of memory once, and with the stock node; returns the comparison and the log."""
    graph = Graph()
    channels, size = (16, 4) if kind == "wan 2.1" else (48, 2)
    shape = {"batch": 1, "channels": channels, "latent_frames": 5, "height": size, "width": size, "seed": seed}
    samples = graph("AFPTestLatent", **shape)
    stock = graph("VAEDecode", samples=samples, vae=graph("AFPTestVAE", kind=kind, seed=seed, name="sound"))
    vae = graph("AFPTestVAE", kind=kind, seed=seed, name="small", **in_decoder)
    if lane is not None:
        samples = graph("AFPTestFault", samples=samples, lane=lane, at=at, fault="out of memory", seed=seed)
    ours = graph("AsyncVAEDecodeVideo", samples=samples, vae=vae, decoder="exact")
    compared = graph("AFPTestCompareImages", a=ours, b=stock)
    outcome = run(server, graph)
    disarm(server)
    assert_clean(server)
    return outcome.comparison(compared), outcome


@pytest.mark.parametrize("kind", ["wan 2.1", "wan 2.2"])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_once_in_the_decoder(server, seed, kind, at):
    comparison, outcome = both(server, seed, kind, oom_at=at)
    assert comparison["equal"] and comparison["distinct_values"] > 100
    assert [line for line in outcome.our_log if re.fullmatch(AGAIN, line)]
    assert len(outcome.exact_decodes) == 1 and outcome.stock_decodes == []


@pytest.mark.parametrize("lane, at", [("allocate", 1), ("allocate", 4), ("convert", 1), ("convert", 5), ("convert", 9)])
def test_once_in_the_lanes(server, seed, lane, at):
    comparison, outcome = both(server, seed, lane=lane, at=at)
    assert comparison["equal"] and comparison["distinct_values"] > 100
    assert [line for line in outcome.our_log if re.fullmatch(AGAIN, line)]


def test_twice_and_then_in_tiles(server, seed):
    """As test_bit_equality.py has it, and with what the user reads."""
    comparison, outcome = both(server, seed, oom_at=2, oom_times=2)
    [first] = [i for i, line in enumerate(outcome.our_log) if re.fullmatch(AGAIN, line)]
    [tiles] = [i for i, line in enumerate(outcome.our_log) if "in tiles" in line]
    assert first < tiles
