"""Which decodes are swapped for what, and what both file formats share.

The rules are data, in web/swap/rules.json, which web/js/swap_rules.js reads as well; docs/swap.md explains them.

- VAE Decode becomes Async VAE Decode (Video) where its frames go into a video: following its images, and masks made
  of them, through other nodes and through the borders of subgraphs, one arrives at one of VIDEO_NODES.
- Where Create Video is all that it feeds, the two become Async VAE Decode to Video. Not where that video is used more
  than once: each use would decode it again.
- Where a saver of images is all that it feeds, the two become Async VAE Decode to Video and Save Video (Streaming), if
  everything that the saver is set to has a match there (savers.py).
- VAE Decode (Tiled) likewise becomes Async VAE Decode (Tiled) and (Tiled) to Video, in the same tiles; or, where tiles
  are not needed with its VAE, what VAE Decode becomes (families.py).
- Other savers, and decodes with which nothing is won, are swapped on demand only. So is what becomes Save Video (Decode
  Elsewhere): a decode and the only saver of its video (elsewhere.py).
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
DEFAULTS: dict[str, object] = RULES["defaults"]
DECODE_INPUTS: list[str] = RULES["decode_inputs"]
CREATE_VIDEO: dict = RULES["create_video"]
FAMILIES: list[dict] = RULES["families"]
LONGEST_ROW: int = RULES["longest_row"]
SAVERS: dict[str, dict] = RULES["savers"]
OUR_SAVER: dict = RULES["our_saver"]
ELSEWHERE: dict = RULES["elsewhere"]
VIDEO_NODES: list[str] = RULES["video_nodes"]
FRAME_TYPES: list[str] = RULES["frame_types"]
VAE_TYPES: list[str] = RULES["vae_types"]
RELAYS: dict[str, str] = RULES["relays"]
BROADCASTS: list[str] = RULES["broadcasts"]
REASONS: dict[str, str] = RULES["reasons"]
WON: dict[str, str] = RULES["won"]
TILES_COME_BACK: str = RULES["tiles_come_back"]
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
        won: what is won by it, a key of WON; "" where nothing was changed, and on the way back.
        vae: the family of the VAE; "" where that cannot be told.
        subgraph: name of the subgraph that they are in; "" for the workflow itself.
        graph: id of its definition; None for the workflow itself.
    """

    nodes: tuple
    before: tuple[str, ...]
    after: tuple[str, ...]
    reason: str = ""
    won: str = ""
    vae: str = ""
    subgraph: str = ""
    graph: str | None = None

    def __str__(self) -> str:
        before = " + ".join(f"{NAMES[kind]} #{node}" for kind, node in zip(self.before, self.nodes))
        where = f' in subgraph "{self.subgraph}"' if self.subgraph else ""
        names = [NAMES.get(kind, kind) for kind in self.after]
        if not names:
            return f"{before}{where} left alone: {self.reason}"
        notes = [WON[self.won].replace("%name%", self.vae)] if self.won else []
        if is_without_its_tiles(self.before, self.after):
            notes.append(TILES_COME_BACK)
        return f"{before}{where} -> {' + '.join(names)}" + (f" ({'; '.join(notes)})" if notes else "")


def is_without_its_tiles(before: tuple[str, ...], after: tuple[str, ...]) -> bool:
    """Whether what decoded in tiles decodes without now."""
    is_ours = after[0] in OURS
    return is_ours and "without_tiles" in DECODES.get(before[0], {}) and "tile_size" not in OURS[after[0]]["widgets"]
