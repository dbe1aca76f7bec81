"""Save Video (Decode Elsewhere) in the place of a decode and its saver, in a workflow file; and back.

A second step, on demand only: what workflow_file.py makes of stock nodes, an Async VAE Decode to Video and a Save Video
(Streaming), becomes one node here. It keeps the id and the looks of the saver. web/js/swap_elsewhere.js is its twin;
api_prompt.py does the same to prompts.
"""

from __future__ import annotations

import copy
import dataclasses

from .graph import Graph, Workflow, get, inputs, named, properties_of, put, with_links_of
from .rules import DEFAULTS, ELSEWHERE, MEMORY, OUR_SAVER, OURS, REASONS, Change, reason
from .savers import shown, translate
from .workflow_file import (
    NAMED,
    WIDGET_VALUES,
    become,
    family_at,
    moved_along,
    remember,
    restore_saver,
    revert,
    same,
    saver_values_now,
    set_to,
    values_of,
    widget_slot,
)


def send(workflow: dict, changes: list[Change], savers: bool) -> list[Change]:
    """Make one node of each decode that can go elsewhere and its saver, in place.

    Args:
        changes: of the swap before it.
        savers: leave the other savers swapped.
    Returns:
        What has become of each, by both steps.
    """
    file, sent = Workflow(workflow), []
    for graph in file.graphs:
        for decode in [node for node in graph.nodes.values() if node["type"] == ELSEWHERE["decode"]]:
            saver, why = decide(file, graph, decode)
            family = family_at(file, graph, decode)
            if not why and (family is None or family["name"] not in ELSEWHERE["families"]):
                why = REASONS["stays"]
            nodes = [decode, saver] if saver and not why else [decode]
            ids, before = tuple(node["id"] for node in nodes), tuple(node["type"] for node in nodes)
            if why:
                sent.append(Change(ids, before, (), why, subgraph=graph.name, graph=graph.id))
                continue
            pair = Change(ids, before, (ELSEWHERE["type"],), graph=graph.id)
            become_one(graph, decode, saver, any(is_of_the_same(each, pair) for each in changes))
            name = family["name"]
            sent.append(Change(ids, before, (saver["type"],), "", "elsewhere", name, graph.name, graph.id))
    changes = both_steps(changes, sent)
    return changes if savers else [each for each in changes if not is_undone(file, each)]


def take_back(workflow: dict) -> list[Change]:
    """Make two nodes of each again, in place."""
    file, changes = Workflow(workflow), []
    for graph in file.graphs:
        for node in list(graph.nodes.values()):
            if not memory_of(node):
                continue
            before, is_used = node["type"], any(slot.get("links") for slot in node.get("outputs") or [])
            nodes = (node,) if is_used else become_two(file, graph, node)
            ids, after = tuple(each["id"] for each in nodes), tuple(each["type"] for each in nodes)
            why = REASONS["rewired"] if is_used else ""
            changes.append(Change(ids, (before,), () if why else after, why, subgraph=graph.name, graph=graph.id))
        graph.put_in_place()
    return changes


def both_steps(first: list[Change], then: list[Change]) -> list[Change]:
    """What was changed by two steps, told as one change."""
    left, told = [*first], []
    for change in then:
        steps = [each for each in left if change.after and is_of_the_same(each, change)]
        was = {id: kind for each in [*steps, change] for id, kind in zip(each.nodes, each.before)}
        for each in reversed(steps):
            was |= dict(zip(each.nodes, each.before))
        left = [each for each in left if each not in steps]
        told.append(dataclasses.replace(change, nodes=tuple(was), before=tuple(was.values())))
    return left + told


def both_steps_back(first: list[Change], then: list[Change]) -> list[Change]:
    """The same on the way back."""
    left, told = [*then], []
    for change in first:
        steps = [each for each in left if change.after and is_of_the_same(each, change)]
        changed = [id for each in steps for id in each.nodes]
        after = [kind for each in steps for kind in each.after]
        after += [kind for id, kind in zip(change.nodes, change.after) if id not in changed]
        left = [each for each in left if each not in steps]
        told.append(dataclasses.replace(change, nodes=change.nodes[-1:], after=tuple(after)))
    return told + left


def is_of_the_same(change: Change, other: Change) -> bool:
    return bool(change.after) and change.graph == other.graph and not {*change.nodes}.isdisjoint(other.nodes)


def is_undone(file: Workflow, change: Change) -> bool:
    """Whether a saver was swapped only to be sent elsewhere and was not; it is what it was, then."""
    if change.won != "saver":
        return False
    graph = next(each for each in file.graphs if each.id == change.graph)
    saver = graph.nodes[change.nodes[0]]
    restore_saver(graph, saver, inputs(saver), saver_values_now(saver))
    return True


# ---------------------------------------------------------------------------- what to do


def decide(file: Workflow, graph: Graph, decode: dict) -> tuple[dict | None, str]:
    """The saver that is all that a decode's video goes into, and why the two cannot become one, else ""."""
    fed = list(graph.links_from(decode["id"]))
    saver = graph.nodes.get(get(fed[0], "target_id")) if len(fed) == 1 else None
    if saver is None or saver["type"] != OUR_SAVER["type"] or (saver.get("mode") or 0) != (decode.get("mode") or 0):
        return None, REASONS["not_one_saver"]
    coming = [link for node in (decode, saver) for link in graph.links_to(node["id"])]
    sound = not graph.is_rerouted(fed[0]) and all(graph.is_known_to_target(link) for link in coming)
    if not sound or named(saver, "video").get("link") != get(fed[0], "id"):
        return None, REASONS["not_one_saver"]
    used = [slot["name"] for slot in saver.get("outputs") or [] if slot.get("links")]
    settings = settings_of(settings_in(decode), settings_in(saver))
    lost = [*used, *links_lost(decode, saver), *shown_lost(file, graph, decode, saver)]
    if lost or isinstance(settings, str):
        return None, reason("not_elsewhere", lost[0] if lost else settings)
    return saver, ""


def settings_in(node: dict) -> dict:
    """What a node of ours is set to, by name."""
    if node["type"] == OUR_SAVER["type"]:
        return values_of(node, [*OUR_SAVER["widgets"]])
    return values_of(node, OURS[node["type"]]["widgets"])


def settings_of(decode: dict, saver: dict) -> dict | str:
    """What the two are set to, in inputs of the one; or the setting that it has not.

    Args:
        decode, saver: their settings, by name; links among them are left out.
    """
    ours: dict = {}
    for rules, given in ((ELSEWHERE["of_decode"], decode), (ELSEWHERE["of_saver"], saver)):
        for name, value in given.items():
            translated = translate(rules[name], value) if name in rules else {}
            if translated is None:
                return f"{name}: {shown(value)}"
            ours |= translated
    return ours


def links_lost(decode: dict, saver: dict) -> list[str]:
    """Inputs that are linked, and that the one has no place for."""
    linked = [slot["name"] for slot in inputs(decode) if slot.get("link") is not None]
    of_saver = [slot["name"] for slot in inputs(saver) if slot.get("link") is not None and slot["name"] != "video"]
    lost = [name for name in linked if name not in ELSEWHERE["inputs"] and not is_moved("of_decode", name)]
    lost += [name for name in of_saver if name not in ELSEWHERE["inputs"] and not is_moved("of_saver", name)]
    return lost + [name for name in of_saver if name in linked]


def is_moved(rules: str, name: str) -> bool:
    """Whether the value of a setting is that of one of ours as it is."""
    return ELSEWHERE[rules].get(name, {}).get("to") == name


def shown_lost(file: Workflow, graph: Graph, decode: dict, saver: dict) -> list[str]:
    """Widgets that the node of a subgraph shows, by an id, and that would not be there."""
    widgets = [
        (str(id), name)
        for _, host in file.hosts(graph)
        for id, name, *_ in properties_of(host).get("proxyWidgets") or []
    ]
    of_saver = [name for id, name in widgets if id == str(saver["id"]) and not is_moved("of_saver", name)]
    return [name for id, name in widgets if id == str(decode["id"])] + of_saver


# ---------------------------------------------------------------------------- there, and back


def become_one(graph: Graph, decode: dict, saver: dict, from_stock: bool) -> None:
    """Make one node of the two; `from_stock`: which were stock ones a moment ago, and are to be that again."""
    [link] = graph.links_from(decode["id"])
    settings = settings_of(settings_in(decode), settings_in(saver))
    assert isinstance(settings, dict), "decided before"
    memory = {
        "decode": decode,
        "decode_position": graph.node_positions[decode["id"]],
        "link": link,
        "link_position": graph.link_positions[get(link, "id")],
        "saver": remember(saver, "outputs", *WIDGET_VALUES),
        "pos": saver["pos"],
        "from_stock": from_stock,
    }
    slots = inputs(decode) + inputs(saver)
    linked = {slot["name"]: slot["link"] for slot in slots if slot.get("link") is not None}
    become(saver, ELSEWHERE["type"], {"elsewhere": memory})
    saver["inputs"] = [
        {"name": name, "type": kind, "link": linked.get(name)} for name, kind in ELSEWHERE["inputs"].items()
    ]
    for slot in slots:
        if slot.get("widget") and slot.get("link") is not None:
            saver["inputs"].append(widget_slot(slot["name"], slot["type"], slot["link"]))
    saver["outputs"] = [{"name": name, "type": kind, "links": None} for name, kind in ELSEWHERE["outputs"].items()]
    set_to(saver, {**ELSEWHERE["widgets"], **settings})
    graph.remove(decode, link)
    graph.aim_links(saver)


def memory_of(node: dict) -> dict | None:
    """What was remembered in one of these; None where that is not there, or not all of it."""
    memory = (properties_of(node).get(MEMORY["key"]) or {}).get("elsewhere") or {}
    parts = MEMORY["elsewhere"]
    whole = all(memory.get(part) and all(memory[part].get(key) is not None for key in parts[part]) for part in parts)
    return memory if node["type"] == ELSEWHERE["type"] and whole else None


def become_two(file: Workflow, graph: Graph, node: dict) -> tuple[dict, dict]:
    memory = copy.deepcopy(memory_of(node))
    decode, link, saver = memory["decode"], memory["link"], memory["saver"]
    if decode["id"] in graph.nodes:
        decode["id"] = file.new_id("node")
    if get(link, "id") in graph.link_positions:
        put(link, "id", file.new_id("link"))
        decode["outputs"] = [{**slot, "links": [get(link, "id")]} for slot in decode["outputs"]]
    put(link, "origin_id", decode["id"])
    then = settings_of(settings_in(decode), settings_in(saver))
    then = {**ELSEWHERE["widgets"], **(then if isinstance(then, dict) else {})}
    now = values_of(node, [*ELSEWHERE["widgets"]])
    changed = {name: now[name] for name in then if name in now and not same(now[name], then[name])}
    defaults = {name: DEFAULTS[name] for name in OURS[decode["type"]]["widgets"]}
    set_some(decode, defaults, {name: value for name, value in changed.items() if is_of_decode(name)})
    set_some(saver, OUR_SAVER["widgets"], {name: value for name, value in changed.items() if not is_of_decode(name)})
    # Sound goes where it came from; what is linked since, to the decode.
    of_saver = [name for name in ("audio",) if named(saver, name).get("link") is not None]
    to_decode = [slot for slot in inputs(node) if slot["name"] not in of_saver and is_of_decode(slot["name"])]
    slots = with_links_of({"inputs": to_decode}, inputs(decode))
    new = [slot for slot in to_decode if slot.get("link") is not None and not named(decode, slot["name"])]
    decode["inputs"] = slots + new
    node["inputs"] = [slot for slot in inputs(node) if slot not in to_decode]
    decode["pos"] = moved_along(decode["pos"], memory["pos"], node["pos"])
    if (decode.get("mode") or 0) != (node.get("mode") or 0):
        decode["mode"] = node.get("mode") or 0
    revert(node, saver)
    if not named(node, "video"):
        node["inputs"].insert(0, {"name": "video", "type": "VIDEO", "link": None})
    named(node, "video")["link"] = get(link, "id")
    graph.add(decode, link, memory.get("decode_position"), memory.get("link_position"))
    graph.aim_links(decode)
    graph.aim_links(node)
    return decode, node


def is_of_decode(name: str) -> bool:
    return name in ELSEWHERE["inputs"] or is_moved("of_decode", name)


def set_some(node: dict, defaults: dict, changed: dict) -> None:
    """Set widgets of a node, whose defaults are given in their order, to what was changed."""
    changed = {name: value for name, value in changed.items() if name in defaults}
    if not changed:
        return
    names, values = [*defaults], node.get("widgets_values") or []
    if isinstance(values, list):
        length = max(len(values), *(1 + names.index(name) for name in changed))
        known = {**defaults, **dict(zip(names, values)), **changed}
        node["widgets_values"] = [known[name] for name in names[:length]] + values[len(names) :]
    else:
        node["widgets_values"] = {**values, **changed}
    if NAMED in node:
        node[NAMED] = {**node[NAMED], **changed}
