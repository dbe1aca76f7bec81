"""Which decodes are swapped for what, and what both file formats share.

The rules are data, in web/swap/rules.json, which web/js/swap_rules.js reads as well; docs/swap.md explains them.

- VAE Decode becomes Async VAE Decode (Video) where its frames go into a video: following its images, and masks made
  of them, through other nodes and through the borders of subgraphs, one arrives at one of VIDEO_NODES.
- Where Create Video is all that it feeds, the two become Async VAE Decode to Video. Not where that video is used more
  than once: each use would decode it again.
- Where a saver of images is all that it feeds, the two become Async VAE Decode to Video and Save Video (Streaming), if
  everything that the saver is set to has a match there (savers.py).
- Other savers are swapped on demand only: nothing is won.
- VAE Decode (Tiled) is swapped on demand only: somebody chose it because memory was short.
- Everything else is left as it is. What is muted or bypassed stays so. What it takes to undo a swap is remembered in
  the node, under MEMORY["key"].
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

# Under web/, because a browser gets nothing else of this pack.
RULES = json.loads((Path(__file__).resolve().parent.parent / "web" / "swap" / "rules.json").read_text(encoding="utf-8"))

NAMES: dict[str, str] = RULES["names"]
DECODES: dict[str, dict] = RULES["decodes"]
OURS: dict[str, dict] = RULES["ours"]
DECODE_INPUTS: list[str] = RULES["decode_inputs"]
CREATE_VIDEO: dict = RULES["create_video"]
SAVERS: dict[str, dict] = RULES["savers"]
OUR_SAVER: dict = RULES["our_saver"]
VIDEO_NODES: list[str] = RULES["video_nodes"]
FRAME_TYPES: list[str] = RULES["frame_types"]
RELAYS: dict[str, str] = RULES["relays"]
BROADCASTS: list[str] = RULES["broadcasts"]
REASONS: dict[str, str] = RULES["reasons"]
MEMORY: dict = RULES["memory"]
PACKS: dict[str, str] = RULES["packs"]
PACK_PROPERTIES: list[str] = RULES["pack_properties"]
LAYOUT: dict = RULES["layout"]


def reason(key: str, name: str = "") -> str:
    """One of REASONS, with a name in it."""
    return REASONS[key].replace("%name%", name)


class FormatError(ValueError):
    """The JSON is no workflow, or a damaged one; the message says what was expected."""


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """One decode or saver, and what became of it.

    Attributes:
        nodes: id of the node, or ids of the pair, that it was; of a decode in a group node, the id of that.
        before: their types.
        after: the types that they became; empty where they were left alone.
        reason: why they were left alone, else "".
        subgraph: name of the subgraph that they are in; "" for the workflow itself.
        graph: id of its definition; None for the workflow itself.
    """

    nodes: tuple
    before: tuple[str, ...]
    after: tuple[str, ...]
    reason: str = ""
    subgraph: str = ""
    graph: str | None = None

    def __str__(self) -> str:
        before = " + ".join(f"{NAMES[kind]} #{node}" for kind, node in zip(self.before, self.nodes))
        where = f' in subgraph "{self.subgraph}"' if self.subgraph else ""
        names = [NAMES.get(kind, kind) for kind in self.after]
        return before + where + (" -> " + " + ".join(names) if names else f" left alone: {self.reason}")
