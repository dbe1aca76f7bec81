"""The families of VAEs that this pack knows, one module each; the first that matches is taken.

To add one: a module with its FAMILIES, named in the list below.
"""

from __future__ import annotations

from typing import Any

from . import cogvideox, hunyuan, late, ltx, minimax, seedvr2, taehv, wan
from .chunked import CHUNKED
from .family import Family

# Those that are streamed.
FAMILIES = (
    *wan.FAMILIES,
    *ltx.FAMILIES,
    *hunyuan.FAMILIES,
    *minimax.FAMILIES,
    *cogvideox.FAMILIES,
    *seedvr2.FAMILIES,
    *taehv.FAMILIES,
)


def of(vae: Any) -> Family | None:
    """The family that a VAE is of; None if it is of none that decodes videos, or of a later one."""
    # A model that one ComfyUI decodes in its own loop, the next one may give a buffer.
    known = (*ltx.FAMILIES, CHUNKED, *FAMILIES, *late.FAMILIES)
    return next((family for family in known if family.matches(vae)), None)
