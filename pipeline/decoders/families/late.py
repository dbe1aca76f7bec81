"""VAEs of videos that decode all at once: nothing of it can be caught before it is done."""

from __future__ import annotations

import torch

from . import facts
from .family import Family
from .recipe import Recipe


def _with_mark(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """ComfyUI knows Cosmos by a tensor that its model makes itself and does not count as a weight."""
    return {**model.state_dict(), "decoder.unpatcher3d.wavelets": model.decoder.unpatcher3d.wavelets}


FAMILIES = (
    Family("Mochi", lambda vae: facts.model_name(vae) == "comfy.ldm.genmo.vae.model.VideoVAE", Recipe()),
    Family(
        "Cosmos",
        lambda vae: facts.model_name(vae) == "comfy.ldm.cosmos.vae.CausalContinuousVideoTokenizer",
        Recipe(),
        weights=_with_mark,
    ),
)
