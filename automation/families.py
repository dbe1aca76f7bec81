"""Which VAE a decode gets, by the names of files and of nodes; and what is won with it.

A workflow does not hold the model, so this is what a careful reader would say of it, and no more.
web/js/swap_families.js is its twin.
"""

from __future__ import annotations

import dataclasses
import math
import re

from .rules import DECODES, FAMILIES, LONGEST_ROW, REASONS
from .savers import Settings

_NUMBER = re.compile(r"\s*[0-9]+(\.[0-9]+)?\s*")
# What a loader is set to, and not what else may stand in a node that loads.
_FILE = re.compile(r"\.(safetensors|sft|ckpt|pt|pth|bin|gguf)$|^(light)?tae\w+$", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What to do with a decode.

    Attributes:
        why: why it is left alone, else "".
        stands_for: type of the decode whose place is taken: another one where tiles go.
        won, vae: see Change.
        partner: the Create Video or saver to swap together with it, if any: a workflow's node, or a prompt's id.
        settings: what the saver is set to.
    """

    why: str = ""
    stands_for: str = ""
    won: str = ""
    vae: str = ""
    partner: dict | str | None = None
    settings: Settings | None = None


def family_of(file_names: list[str], kind: str | None = None) -> dict | None:
    """The family of a VAE that comes out of a node of this type that loads these files; None if that cannot be told."""
    bringing = [family for family in FAMILIES if kind in family.get("nodes", ())]
    if bringing:
        return bringing[0]
    names = [re.split(r"[/\\]", name)[-1] for name in file_names if _FILE.search(name)]
    with_vae = [name for name in names if "vae" in name.lower()]
    found: list[dict] = []
    for name in with_vae or names:
        family = next((each for each in FAMILIES if _is_of(name, each)), None)
        if family and family not in found:
            found.append(family)
    return found[0] if len(found) == 1 else None


def _is_of(name: str, family: dict) -> bool:
    return any(re.search(pattern, name, re.IGNORECASE) for pattern in family["files"])


def choose(kind: str, family: dict | None, tiles: str, values: dict, in_use: bool) -> tuple[str, str, str]:
    """What a decode is to become.

    Args:
        kind: its type.
        family: of its VAE, if that is known.
        tiles: of a decode in tiles: "same", "without", or "auto" for what the rules say.
        values: of its tile settings.
        in_use: whether something else sets them.
    Returns:
        The stock decode whose place is taken: of one in tiles, that without tiles where they go. What is won by it, one
        of the rules' `won`. And why it has to be left alone, else "".
    """
    rule = DECODES[kind]
    in_whole = family["won"] if family else "unknown"
    if "without_tiles" not in rule:
        return kind, in_whole, ""
    fits = (family or {}).get("fits", False)
    enough = (family or {}).get("without_tiles_from")
    saves_nothing = bool(enough) and all(number_of(values[name]) >= least for name, least in enough.items())
    if tiles == "without" and in_use:
        return kind, "", REASONS["tiles_in_use"]
    if tiles == "without" or (tiles == "auto" and (fits or saves_nothing) and not in_use):
        won = "fits" if fits else "without_tiles" if saves_nothing else f"untiled_{in_whole}"
        return rule["without_tiles"], won, ""
    if family is None:
        return kind, "unknown", ""
    if family["tiles"] != "none" and number_of(values["temporal_size"]) <= LONGEST_ROW:
        return kind, "in_tiles", ""
    return kind, "side_by_side" if family["tiles"] == "any" else "nothing", ""


def number_of(value: object) -> float:
    """The number that a widget is set to, in text as well; NaN where it is none, which is neither enough nor little."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else math.nan
