"""What a saver's settings are in Save Video (Streaming). web/js/swap_savers.js is its twin.

The rules say it for each setting: "to" which input its value goes; or what each value "is", or a number "from" so
much on, in inputs of ours. A "link" of that type may go there in place of a value.
"""

from __future__ import annotations

import dataclasses

from .rules import OUR_SAVER, SAVERS, reason


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """Values by the names of our inputs; and which of a saver's linked inputs become which of ours."""

    values: dict
    links: dict[str, str]


def settings_of(kind: str, values: dict, links: dict[str, str | None]) -> Settings | str:
    """What a saver is set to.

    Args:
        kind: its type.
        values: of its settings, by name; those that are missing have the saver's default.
        links: types of what is linked to its inputs, by their names; None where that is not known.
    Returns:
        The same for ours, or why there is none.
    """
    saver = SAVERS[kind]
    known = rules_of(kind, values)
    by = saver["by"]
    if known is None or by in links:
        return reason("connected", by) if by in links else no_match(by, values.get(by))
    ours, moved = dict(format_of(kind, values)["sets"]), {}
    for name, rule in known.items():
        if name in links:
            if "link" not in rule or (rule["link"] != links[name] and (links[name] is not None or "also" in rule)):
                return reason("connected", name)
            moved[name] = rule["to"]
            if name in values:
                ours[rule["to"]] = values[name]
            continue
        value = values.get(name, rule["default"])
        translated = translate(rule, value)
        if translated is None:
            return no_match(name, value)
        ours |= translated
    ignored = {by, *saver["ignored"], *format_of(kind, values).get("ignored", [])}
    for name in values:
        if name not in known and name not in ignored:
            return no_match(name, values[name])
    for name, kind in links.items():
        # Old workflows have sound of a type of their own; Video Combine takes latents too.
        fits = name in (saver["frames"], *saver["inputs"]) and kind in (None, "*", OUR_SAVER["inputs"][name])
        if name not in known and not fits:
            return reason("connected", name)
    return Settings(ours, moved)


def format_of(kind: str, values: dict) -> dict | None:
    return SAVERS[kind]["formats"].get(shown(values.get(SAVERS[kind]["by"], "")))


def rules_of(kind: str, values: dict) -> dict[str, dict] | None:
    """The rule for each setting; None for a format without."""
    found = format_of(kind, values)
    return None if found is None else {**SAVERS[kind]["settings"], **found["settings"]}


def translate(rule: dict, value: object) -> dict | None:
    """Inputs of ours for a setting of a saver; None where there are none."""
    if "is" in rule:
        return rule["is"].get(shown(value))
    if "add" in rule or "within" in rule or "from" in rule:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        low, high = rule.get("within", (0, float("inf")))
        if not low <= value <= high:
            return None
        if "from" in rule:
            return next(inputs for least, inputs in rule["from"] if value >= least)
        return {rule["to"]: value + rule.get("add", 0) if value > 0 else value}
    return {rule["to"]: value}


def shown(value: object) -> str:
    """A value as text, the same in both languages."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def no_match(name: str, value: object) -> str:
    return reason("no_match", f"{name}: {shown(value)}")
