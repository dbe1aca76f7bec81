"""What a saved file can say of what a loaded one said: the rest is converted or left out, and told."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from ..stated import BT2020, Stated

if TYPE_CHECKING:
    from .formats import Format

FEWEST_HDR_BITS = 10


class Loaded(Protocol):
    """A `Source`, as far as it matters here."""

    @property
    def stated(self) -> Stated: ...
    @property
    def bit_depth(self) -> int: ...
    @property
    def alpha(self) -> bool: ...


def keep(source: Loaded, each: Format, bit_depth: int, colours: bool = True) -> tuple[Stated, list[str]]:
    """What a file of this format is to say, and what is lost or changed by that, in words.

    Args:
        source: what is saved.
        bit_depth: of the file.
        colours: whether colours are to stay what they are, where the format can say which; else those that need a
            matrix of their own become BT.709.
    """
    stated, told = source.stated, []
    kept = replace(stated, is_interlaced=False, left_out=())
    left_out = [*stated.left_out]
    if not stated.is_bt709:
        reason = ""
        if not each.is_video:
            reason = f"{each.name} cannot say which colours it has"
        elif stated.is_hdr and bit_depth < FEWEST_HDR_BITS:
            reason = f"HDR needs {FEWEST_HDR_BITS} bits, and this file has {bit_depth}"
        elif not colours and (stated.is_hdr or stated.primaries == BT2020):
            reason = "other colours were asked for"
        if reason:
            kept = replace(kept, primaries=0, transfer=0, mastering=(), content_light=())
            told.append(f"{stated.colours} is converted to BT.709: {reason}")
    if not each.is_video:
        kept = replace(kept, primaries=0, transfer=0, tags={}, sound_tags={})
        left_out += ["titles and other tags"] if stated.tags else []
        left_out += ["sound"] if stated.has_sound else []
    if source.alpha and not each.alpha:
        left_out.append("transparency, if there is any")  # in a palette nobody knows
    if (kept.mastering or kept.content_light) and not each.encoder.mastering:
        kept = replace(kept, mastering=(), content_light=())
        left_out.append("the light of the screen that it was made on")
    if stated.pixel_aspect != 1 and not (each.container.pixel_aspect or each.encoder.pixel_aspect):
        kept = replace(kept, pixel_aspect=Stated().pixel_aspect)
        shape = f"{stated.pixel_aspect.numerator}:{stated.pixel_aspect.denominator}"
        told.append(f"its pixels of {shape} are scaled to square ones: {each.name} cannot say their shape")
    if stated.is_interlaced:
        told.append("it is interlaced, and becomes progressive")
    if source.bit_depth > bit_depth:
        told.append(f"its {source.bit_depth} bits become {bit_depth}")
    if left_out:
        told.append(f"not kept: {', '.join(left_out)}")
    return kept, told
