"""Which decodes are swapped for what, and what both file formats share. web/js/swap_workflow.js has the same rules.

- VAE Decode becomes Async VAE Decode (Video) where its frames go into a video: following its images, and masks made
  of them, through other nodes and through the borders of subgraphs, one arrives at one of VIDEO_NODES.
- Where Create Video is all that it feeds, the two become Async VAE Decode to Video. Not where that video is used more
  than once: each use would decode it again.
- VAE Decode (Tiled) is swapped on demand only: somebody chose it because memory was short.
- Everything else is left as it is. What is muted or bypassed stays so. What it takes to undo a swap is remembered in
  the node, under MEMORY.
"""

from __future__ import annotations

import dataclasses

ASYNC, ASYNC_VIDEO = "AsyncVAEDecodeVideo", "AsyncVAEDecodeToVideo"
DECODE, TILED, CREATE_VIDEO = "VAEDecode", "VAEDecodeTiled", "CreateVideo"
VIDEO_NODES = (CREATE_VIDEO, "SaveWEBM", "SaveAnimatedWEBP", "SaveAnimatedPNG", "VHS_VideoCombine")
# Names as the editor shows them; a node's title until the user gives it another.
NAMES = {
    ASYNC: "Async VAE Decode (Video)",
    ASYNC_VIDEO: "Async VAE Decode to Video",
    DECODE: "VAE Decode",
    TILED: "VAE Decode (Tiled)",
    CREATE_VIDEO: "Create Video",
}
DECODE_INPUTS = ("samples", "vae")
VIDEO_INPUTS = ("fps", "audio", "bit_depth")  # of Create Video, besides the images
# The widgets that our nodes have besides those of the nodes that they stand for, and after them.
OWN_WIDGETS = {ASYNC: {"decoder": "auto"}, ASYNC_VIDEO: {"decoder": "auto", "save_latents_first": False}}
MEMORY = "async_frame_pipeline"

NOT_A_VIDEO = "its frames do not go into a video"
IN_TILES = "it decodes in tiles, which somebody chose to save memory"
TILES_IN_USE = "its tile settings are connected to something"


class FormatError(ValueError):
    """The JSON is no workflow, or a damaged one; the message says what was expected."""


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """One decode, and what became of it.

    Attributes:
        nodes: id of the node, or ids of the pair, that it was.
        before: their types.
        after: the types that they became; empty where they were left alone.
        reason: why they were left alone, else "".
        subgraph: name of the subgraph that they are in; "" for the workflow itself.
    """

    nodes: tuple
    before: tuple[str, ...]
    after: tuple[str, ...]
    reason: str = ""
    subgraph: str = ""

    def __str__(self) -> str:
        before = " + ".join(f"{NAMES[kind]} #{node}" for kind, node in zip(self.before, self.nodes))
        where = f' in subgraph "{self.subgraph}"' if self.subgraph else ""
        after = " -> " + " + ".join(NAMES[kind] for kind in self.after) if self.after else f" left alone: {self.reason}"
        return before + where + after
