"""From a failed prompt's message back to the pixels, as a user does it."""

from __future__ import annotations

import re
from pathlib import Path

import safetensors
import torch
from graph import Graph, Link, run

NAME = re.compile(r"'(rescued_[^']+\.latent)' in the input folder")


def rescued_name(message: str) -> str:
    """The file that an error's message names."""
    [name] = NAME.findall(message)
    return name


def assert_rescued(path: Path, samples: dict) -> None:
    """The file holds, bit by bit, what AFPTestLatent makes of these inputs, as LoadLatent reads it."""
    shape = [samples[name] for name in ("batch", "channels", "latent_frames", "height", "width")]
    expected = torch.randn(shape, generator=torch.Generator().manual_seed(samples["seed"]))
    with safetensors.safe_open(path, "pt") as file:
        assert set(file.keys()) == {"latent_tensor", "latent_format_version_0"}
        rescued = file.get_tensor("latent_tensor")
    assert rescued.dtype == expected.dtype and torch.equal(rescued, expected)


def assert_resumes(server, name: str, samples: dict, seed: int, frames: int, kind: str = "wan 2.1") -> None:
    """The file, loaded by the stock LoadLatent, gives the pixels that the stock nodes make of the original; and a file.

    Args:
        name: of the .latent in the input folder.
        samples: inputs of the AFPTestLatent that was lost.
        seed, kind: of the VAE.
        frames: that the video has.
    """
    graph = Graph()
    vae = graph("AFPTestVAE", kind=kind, seed=seed, name="resume")
    loaded = disarmed(graph, graph("LoadLatent", latent=name))
    stock = graph("VAEDecode", samples=graph("AFPTestLatent", **samples), vae=vae)
    ours = graph("AsyncVAEDecodeVideo", samples=loaded, vae=vae, decoder="exact")
    compared = graph("AFPTestCompareImages", a=ours, b=stock)
    video = graph("AsyncVAEDecodeToVideo", samples=loaded, vae=vae, fps=16)
    saver = graph("SaveVideoStreaming", video=video, filename_prefix="resumed", format="mp4 (h264)", quality="high")
    outcome = run(server, graph)
    comparison = outcome.comparison(compared)
    assert comparison["equal"] and comparison["distinct_values"] > 100
    assert outcome.report(saver)["frames"] == frames
    [file] = outcome.ui(saver)["images"]
    (server.output_dir / file["subfolder"] / file["filename"]).unlink()


def disarmed(graph: Graph, samples: Link) -> Link:
    return graph("AFPTestFault", samples=samples, lane="none", at=1, fault="slow")


def disarm(server) -> None:
    """Take back all faults, for the tests that come after on the same server."""
    graph = Graph()
    latent = graph("AFPTestLatent", batch=1, channels=16, latent_frames=1, height=1, width=1, seed=0)
    graph("PreviewAny", source=disarmed(graph, latent))
    run(server, graph)
