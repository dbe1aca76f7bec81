"""Building API-format prompts and reading what became of them, in the tests' own words."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import host
import numpy as np
import pytest

LOG_PREFIX = re.compile(r"async-frame-pipeline( [\d.]+)?: ")  # the engine's lines have no version

# Of AFPTestPatches: which colour the patch at the top left has tells which frame it is.
COLOURS = np.array(json.loads((Path(__file__).parent / "pack" / "colours.json").read_text()))


@dataclasses.dataclass(frozen=True, slots=True)
class Link:
    """Output `index` of node `node`, to be given as another node's input."""

    node: str
    index: int = 0

    def __getitem__(self, index: int) -> Link:
        return Link(self.node, index)


class Graph:
    """A prompt under construction: `link = graph("VAEDecode", samples=latent, vae=vae)`."""

    def __init__(self):
        self.prompt: dict[str, dict] = {}

    def __call__(self, class_type: str, /, **inputs: object) -> Link:
        node = str(len(self.prompt) + 1)
        inputs = {
            name: [value.node, value.index] if isinstance(value, Link) else value for name, value in inputs.items()
        }
        self.prompt[node] = {"class_type": class_type, "inputs": inputs}
        return Link(node)


def linked(graph: Graph, value: object) -> Link:
    """A value that another node gives, of which ComfyUI checks nothing."""
    return graph("AFPTestAny", value=json.dumps(value))


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """A prompt that succeeded: its history entry, and what the server logged meanwhile."""

    entry: dict
    log: str

    def ui(self, link: Link) -> dict:
        """What a node reported to the user interface."""
        return self.entry["outputs"][link.node]

    def report(self, link: Link) -> dict:
        """What one of our nodes tells of its run."""
        [report] = self.ui(link)["async_frame_pipeline"]
        return json.loads(report)

    def comparison(self, link: Link) -> dict:
        """What one of the comparing probes saw."""
        return self.ui(link)["comparison"][0]

    @property
    def our_log(self) -> list[str]:
        """The lines that this pack logged."""
        return [line[found.end() :].strip() for line in self.log.splitlines() if (found := LOG_PREFIX.search(line))]

    @property
    def exact_decodes(self) -> list[str]:
        """The lines about decodes that took the exact path."""
        return [line for line in self.our_log if re.search(r"\bexact [\w. ]+ decode\b", line)]

    @property
    def late_decodes(self) -> list[str]:
        """The lines about decodes whose frames went through the lanes once all were decoded."""
        return [line for line in self.our_log if line.startswith("late other decode")]

    @property
    def stock_decodes(self) -> list[str]:
        """The reasons of the decodes that went the stock way."""
        return [
            line.partition("decoding the stock way:")[2].strip()
            for line in self.our_log
            if "decoding the stock way:" in line
        ]


def run(server: host.Server, graph: Graph, extra_data: dict | None = None) -> Outcome:
    """Run a prompt that must succeed."""
    before = len(server.log_text())
    entry = server.run(graph.prompt, extra_data)
    return Outcome(entry, server.log_text()[before:])


def refusal(server: host.Server, graph: Graph) -> str:
    """Run a prompt that must not succeed, and return the message that the user sees."""
    try:
        server.run(graph.prompt)
    except host.PromptRejected as rejected:
        return str(rejected)
    except host.PromptFailed as failed:
        return failed.error["exception_message"]
    raise AssertionError("the prompt succeeded")


def state(server: host.Server, **wanted: bool) -> dict:
    """Threads of the server's process; decoder calls and hooks of each watched VAE;
    what is `wanted` beside (pack/probes.py).
    """
    graph = Graph()
    probe = graph("AFPTestState", **wanted)
    return run(server, graph).ui(probe)["state"][0]


def assert_clean(server: host.Server) -> None:
    """No thread or hook of ours is left, no byte of a slot, no open file, nor a file that is not a finished one."""
    now = state(server, lanes=True)
    assert now["slot_bytes"] == 0
    assert now["open_files"] == [], now["open_files"]
    assert [name for name in now["threads"] if name.startswith("async-frame-pipeline")] == []
    assert {name: vae["hooks"] for name, vae in now["vaes"].items() if vae["hooks"]} == {}
    files = [path for path in server.output_dir.rglob("*") if path.is_file()]
    assert [path.name for path in files if path.name.startswith(".") or path.stat().st_size == 0] == []
    assert list((server.base / "input").glob(".*")) == []


def skip_if_missing(server, node: str, output: int = 0) -> None:
    """Skip where this ComfyUI is too old to have a stock node, or this output of it."""
    known = server.get("/object_info").get(node)
    if known is None or len(known["output"]) <= output:
        pytest.skip(f"this ComfyUI has no {node} with {output + 1} outputs")
