"""The swap in a workflow file: the JSON that the editor saves, subgraph definitions included.

web/js/swap_workflow.js does the same in the browser, function by function; tests/automation/cases is what both must do.

A swapped decode or saver keeps its id, and with it its links and whatever else refers to it; place, size, title,
colour and mode. A decode and its Create Video become one node in the place of the latter, made higher where it must be,
which keeps the id, the looks and the widgets of that: widgets are what other parts of a workflow refer to. A decode and
its saver stay two nodes, with a VIDEO between them. Nothing else in the file is touched.
"""

from __future__ import annotations

import copy
import dataclasses

from .families import Plan, choose, family_of
from .graph import Graph, Workflow, get, inputs, named, properties_of, put, values_in, with_links_of, xy
from .rules import (
    CREATE_VIDEO,
    DECODE_INPUTS,
    DECODES,
    DEFAULTS,
    FRAME_TYPES,
    LAYOUT,
    MEMORY,
    NAMES,
    OUR_SAVER,
    OURS,
    PACK_PROPERTIES,
    PACKS,
    REASONS,
    RELAYS,
    SAVERS,
    VAE_TYPES,
    VIDEO_NODES,
    Change,
    reason,
)
from .savers import Settings, rules_of, settings_of, shown

NAMED = "widgets_values_named"  # newer editors save widgets by name as well
WIDGET_VALUES = ("widgets_values", NAMED)
TILES = DECODES["VAEDecodeTiled"]["widgets"]


def recognises(workflow: object) -> bool:
    return isinstance(workflow, dict) and all(isinstance(workflow.get(key), list) for key in ("nodes", "links"))


def swap(workflow: dict, tiles: str, everything: bool, savers: bool) -> list[Change]:
    """Swap in place what the rules name."""
    file = Workflow(workflow)
    # All is decided before anything is changed, so that no decision rests on a half-changed graph.
    plans = [
        (graph, decode, decide(file, graph, decode, tiles, everything))
        for graph in file.graphs
        for decode in graph.nodes.values()
        if decode["type"] in DECODES
    ]
    saver_plans = [
        (graph, saver, settings_in(file, graph, saver))
        for graph in file.graphs
        for saver in graph.nodes.values()
        if saver["type"] in SAVERS and not any(plan.partner is saver for _, _, plan in plans)
    ]
    # What a swapped decode would be streamed into is worth a word where it cannot be.
    hoped_for = [partner_of(graph, decode) for graph, decode, plan in plans if not plan.why]
    changes = []
    for graph, decode, plan in plans:
        nodes = (decode, plan.partner) if plan.partner else (decode,)
        ids, before = tuple(node["id"] for node in nodes), tuple(node["type"] for node in nodes)
        if plan.settings:
            become_streamed(graph, decode, plan.stands_for, plan.partner, plan.settings)
        elif plan.partner:
            become_pair(graph, decode, plan.stands_for, plan.partner)
        elif not plan.why:
            become_async(graph, decode, plan.stands_for)
        left = () if plan.why else nodes if plan.settings else nodes[-1:]
        after = tuple(node["type"] for node in left)
        changes.append(Change(ids, before, after, plan.why, plan.won, plan.vae, graph.name, graph.id))
    for graph, saver, settings in saver_plans:
        before, why = saver["type"], settings if isinstance(settings, str) else ""
        if savers and not why:
            become_saver(graph, saver, settings, SAVERS[before]["frames"])
        if savers or (why and any(saver is each for each in hoped_for)):
            after, won = ((), "") if why else ((saver["type"],), "saver")
            changes.append(Change((saver["id"],), (before,), after, why, won, "", graph.name, graph.id))
    return changes + [
        Change(
            (host["id"],),
            (node["type"],),
            (),
            reason("in_group_node", file.group_name(host)),
            subgraph=graph.name,
            graph=graph.id,
        )
        for graph in file.graphs
        for host in graph.nodes.values()
        for node in file.grouped(host)
        if node["type"] in DECODES
    ]


def restore(workflow: dict) -> list[Change]:
    """Put stock nodes back in place, wherever a node of ours decodes or stands for another saver."""
    file = Workflow(workflow)
    changes = []
    for graph in file.graphs:
        for node in list(graph.nodes.values()):
            nodes, why = (node,), ""
            if both := streamed(graph, node):
                before = tuple(each["type"] for each in both)
                nodes, after = both, restore_streamed(graph, *both)
            elif memory_of(node, "saver"):
                before = (node["type"],)
                if is_as_swapped(node, "images" if was_of_video(node) else "video"):
                    after = [restore_saver(graph, node, inputs(node), saver_values_now(node))]
                else:
                    after, why = [], REASONS["rewired"]
            elif node["type"] in OURS:
                before = (node["type"],)
                after = restore_pair(file, graph, node) if is_pair(node) else [restore_decode(graph, node)]
            else:
                continue
            ids = tuple(each["id"] for each in nodes)
            types = tuple(each["type"] for each in after)
            changes.append(Change(ids, before, types, why, subgraph=graph.name, graph=graph.id))
        graph.put_in_place()
    return changes


# ---------------------------------------------------------------------------- what to do


def decide(file: Workflow, graph: Graph, decode: dict, tiles: str, everything: bool) -> Plan:
    videos, lost = file.ends(graph, decode, FRAME_TYPES, lambda node: node["type"] not in VIDEO_NODES)
    if not videos:
        return Plan(reason(*lost[0]) if lost else REASONS["not_a_video"])
    family = family_at(file, graph, decode)
    vae = family["name"] if family else ""
    names = DECODES[decode["type"]]["widgets"]
    values = {**DEFAULTS, **values_of(decode, names)}
    in_view = bool(names) and is_shown(file, graph, decode)
    in_use = in_view or any(named(decode, name).get("link") is not None for name in names)
    stands_for, won, why = choose(decode["type"], family, tiles, values, in_use)
    if why or (won == "nothing" and not everything):
        return Plan(why or reason("nothing_won", vae))
    plan = Plan("", stands_for, won, vae)
    partner = partner_of(graph, decode)
    if partner and partner["type"] in SAVERS:
        settings = settings_in(file, graph, partner)
        return plan if isinstance(settings, str) else dataclasses.replace(plan, partner=partner, settings=settings)
    if partner and (in_view or len(file.ends(graph, partner, ("VIDEO",), is_passive)[0]) > 1):
        return plan
    return dataclasses.replace(plan, partner=partner)


def family_at(file: Workflow, graph: Graph, decode: dict) -> dict | None:
    """The family of the VAE that a decode gets, through whatever hands a VAE on; None if that cannot be told."""
    found, seen, todo = [], [], file.sources(graph, decode, "vae")
    for graph, node in todo:  # which grows
        if any(node is each for each in seen):
            continue
        seen.append(node)
        family = family_of(files_of(file, graph, node), node["type"])
        handed_on, is_certain = vaes_into(graph, node)
        if handed_on and (is_certain or family is None):
            todo += [each for name in handed_on for each in file.sources(graph, node, name)]
        else:
            found.append(family)
    return found[0] if found and all(family == found[0] for family in found) else None


def vaes_into(graph: Graph, node: dict) -> tuple[list[str], bool]:
    """Names of the inputs that a VAE may come in by, and whether one of them is for a VAE and nothing else."""
    linked = [
        (slot["name"], slot.get("type"), graph.types_of(link))
        for slot in inputs(node)
        for link in graph.links_into(node, slot["name"])
    ]
    names = [name for name, kind, types in linked if kind == "VAE" or {*VAE_TYPES} & {*types}]
    return names, any("VAE" in (kind, *types) for _, kind, types in linked)


def files_of(file: Workflow, graph: Graph, node: dict) -> list[str]:
    """What a node is set to; what a link sets goes before what is saved in the node."""
    linked = [slot["name"] for slot in inputs(node) if slot.get("widget") and slot.get("link") is not None]
    from_outside = [value for name in linked for value in file.set_from_outside(graph, node, name)]
    return [value for value in from_outside or values_in(node) if isinstance(value, str)]


def is_passive(node: dict) -> bool:
    """Whether a video that goes into a node only goes through it, without being decoded."""
    return node["type"] in ("Reroute", *RELAYS, *RELAYS.values())


def is_shown(file: Workflow, graph: Graph, decode: dict) -> bool:
    """Whether the node of the subgraph that a decode is in shows a widget of it, which it knows by the decode's id."""
    shown = [widget for _, host in file.hosts(graph) for widget in properties_of(host).get("proxyWidgets") or []]
    return any(str(widget[0]) == str(decode["id"]) for widget in shown)


def partner_of(graph: Graph, decode: dict) -> dict | None:
    """The Create Video or saver that is all that a decode feeds, where the two can be swapped together."""
    fed = list(graph.links_from(decode["id"]))
    partner = graph.nodes.get(get(fed[0], "target_id")) if len(fed) == 1 else None
    if partner is None or (partner.get("mode") or 0) != (decode.get("mode") or 0):
        return None
    is_saver = partner["type"] in SAVERS
    if not is_saver and partner["type"] != CREATE_VIDEO["type"]:
        return None
    # A link through reroute points that goes would leave them behind, and one that its target does not know of would
    # be lost.
    coming = [link for node in (decode, partner) for link in graph.links_to(node["id"])]
    fits = get(fed[0], "type") == "IMAGE" if is_saver else not graph.is_rerouted(fed[0])
    sound = fits and all(graph.is_known_to_target(link) for link in coming)
    frames = (SAVERS[partner["type"]] if is_saver else CREATE_VIDEO)["frames"]
    takes_images = named(partner, frames).get("link") == get(fed[0], "id")
    return partner if takes_images and sound and (is_saver or is_matched(partner)) else None


def is_matched(video: dict) -> bool:
    """Whether all that a Create Video is set to has a place in our nodes."""
    linked = [slot["name"] for slot in inputs(video) if slot.get("link") is not None]
    values = values_of(video, CREATE_VIDEO["widgets"])
    fits = all(shown(values[name]) in allowed for name, allowed in CREATE_VIDEO["fits"].items() if name in values)
    others = {*linked} - {CREATE_VIDEO["frames"], *CREATE_VIDEO["inputs"]}
    return fits and not others and len(values_in(video)) <= len(CREATE_VIDEO["widgets"])


def settings_in(file: Workflow, graph: Graph, saver: dict) -> Settings | str:
    """What a saver is set to, in inputs of ours; or why it has to be left alone."""
    names = SAVERS[saver["type"]]["widgets"]
    values = values_of(saver, names)
    known = rules_of(saver["type"], values) or {}
    for slot in outputs_lost(saver.get("outputs") or [], list(OUR_SAVER["outputs"].values())):
        return reason("output_used", slot["name"])
    for _, host in file.hosts(graph):
        for id, name, *_ in properties_of(host).get("proxyWidgets") or []:
            # The frame rate may become the decode's.
            if str(id) == str(saver["id"]) and (known.get(name, {}).get("to") != name or name == "fps"):
                return reason("connected", name)
    types = {get(link, "id"): ",".join(graph.types_of(link)) for link in graph.links_to(saver["id"])}
    linked = {slot["name"]: types.get(slot["link"]) for slot in inputs(saver) if slot.get("link") is not None}
    return settings_of(saver["type"], values, linked)


def outputs_lost(slots: list[dict], types: list[str]) -> list[dict]:
    """Outputs in use that a node with outputs of these types would not have."""
    return [slot for i, slot in enumerate(slots) if slot.get("links") and types[i : i + 1] != [slot["type"]]]


def values_of(node: dict, names: list[str]) -> dict:
    """Values of widgets by name; the editor saves a list, Video Combine an object."""
    values = node.get("widgets_values") or []
    return values if isinstance(values, dict) else dict(zip(names, values))


# ---------------------------------------------------------------------------- there


def decode_inputs(node: dict, kind: str) -> list[dict]:
    """The inputs of a node that a stock decode of this type has."""
    return [slot for slot in inputs(node) if slot["name"] in (*DECODE_INPUTS, *DECODES[kind]["widgets"])]


def in_order(slots: list[dict]) -> list[dict]:
    """Inputs in the order that the editor gives them: those of widgets come last."""
    return sorted(slots, key=lambda slot: bool(slot.get("widget")))


def values_for(kind: str, *given: dict) -> dict:
    """Values of all widgets of one of ours, in their order."""
    known = {name: value for each in (DEFAULTS, *given) for name, value in each.items()}
    return {name: known[name] for name in OURS[kind]["widgets"]}


def settings_of_decode(decode: dict) -> dict:
    return values_of(decode, DECODES.get(decode["type"], {}).get("widgets", []))


def settings_of_video(video: dict) -> dict:
    """What a Create Video is set to, as ours is."""
    values = values_of(video, CREATE_VIDEO["widgets"])
    translated = {name: CREATE_VIDEO["fits"].get(name, {}).get(shown(value), value) for name, value in values.items()}
    return {name: value for name, value in translated.items() if name in CREATE_VIDEO["inputs"]}


def set_to(node: dict, values: dict) -> None:
    node["widgets_values"] = list(values.values())
    if NAMED in node:
        node[NAMED] = values


def become_async(graph: Graph, decode: dict, stands_for: str) -> None:
    kind = DECODES[stands_for]["alone"]
    values = values_for(kind, settings_of_decode(decode))
    become(decode, kind, {"decode": remember(decode, *WIDGET_VALUES)})
    decode["inputs"] = decode_inputs(decode, stands_for)
    set_to(decode, values)
    graph.aim_links(decode)


def become_pair(graph: Graph, decode: dict, stands_for: str, video: dict) -> None:
    [link] = graph.links_from(decode["id"])
    kind = DECODES[stands_for]["pair"]
    values = values_for(kind, settings_of_decode(decode), settings_of_video(video))
    memory = {
        "create_video": remember(video, "pos", *WIDGET_VALUES),
        "decode": decode,
        "decode_position": graph.node_positions[decode["id"]],
        "link": link,
        "link_position": graph.link_positions[get(link, "id")],
    }
    become(video, kind, {**memory, "pos": grow_upwards(video, kind)})
    others = [slot for slot in inputs(video) if slot["name"] in CREATE_VIDEO["inputs"]]
    video["inputs"] = in_order([*decode_inputs(decode, stands_for), *others])
    set_to(video, values)
    graph.remove(decode, link)
    graph.aim_links(video)


def become_streamed(graph: Graph, decode: dict, stands_for: str, saver: dict, settings: Settings) -> None:
    """Make a decode and its saver a video and its saver. The frame rate is the video's."""
    [link] = graph.links_from(decode["id"])
    put(link, "type", "VIDEO")
    rate = named(saver, {ours: name for name, ours in settings.links.items()}.get("fps", "")).get("link")
    become_saver(graph, saver, settings, "video")
    kind = DECODES[stands_for]["pair"]
    rates = {"fps": settings.values["fps"]} if "fps" in settings.values else {}
    values = values_for(kind, settings_of_decode(decode), rates)
    memory = {"decode": remember(decode, "pos", "outputs", *WIDGET_VALUES)}
    become(decode, kind, {**memory, "pos": grow_upwards(decode, kind)})
    decode["inputs"] = in_order([*decode_inputs(decode, stands_for), {"name": "audio", "type": "AUDIO", "link": None}])
    if rate is not None:
        saver["inputs"] = [slot for slot in saver["inputs"] if slot["name"] != "fps"]
        decode["inputs"].append(widget_slot("fps", "FLOAT", rate))
    decode["outputs"] = [{"name": "VIDEO", "type": "VIDEO", "links": [get(link, "id")]}]
    set_to(decode, values)
    graph.aim_links(decode)
    graph.aim_links(saver)


def become_saver(graph: Graph, saver: dict, settings: Settings, source: str) -> None:
    """Make a saver one of ours, which gets what it saves by the input `source`."""
    was = remember(saver, "outputs", *WIDGET_VALUES)
    rule, known = SAVERS[saver["type"]], rules_of(saver["type"], values_of(saver, SAVERS[saver["type"]]["widgets"]))
    linked = {name: named(saver, name).get("link") for name in rule["inputs"]}
    linked[source] = named(saver, rule["frames"]).get("link")
    slots = [{"name": name, "type": kind, "link": linked.get(name)} for name, kind in OUR_SAVER["inputs"].items()]
    for name, ours in settings.links.items():
        slots.append(widget_slot(ours, known[name]["link"], named(saver, name)["link"]))
    links = [slot.get("links") for slot in saver.get("outputs") or [] if slot.get("links")]
    become(saver, OUR_SAVER["type"], {"saver": was})
    saver["inputs"] = slots
    saver["outputs"] = [
        {"name": name, "type": kind, "links": links[0] if links and i == 0 else None}
        for i, (name, kind) in enumerate(OUR_SAVER["outputs"].items())
    ]
    set_to(saver, {**OUR_SAVER["widgets"], **settings.values})
    graph.aim_links(saver)


def widget_slot(name: str, kind: str, link: int) -> dict:
    return {"name": name, "type": kind, "link": link, "widget": {"name": name}}


def grow_upwards(video: dict, kind: str) -> list:
    """Make room for what another kind has, away from the saver that is often right below. Returns the new place."""
    missing = max(0, LAYOUT["pair_height"][kind] - xy(video["size"])[1])
    if missing and not (video.get("flags") or {}).get("collapsed"):
        (x, y), (width, height) = xy(video["pos"]), xy(video["size"])
        video.update(pos=[x, y - missing], size=[width, height + missing])
    return video["pos"]


def become(node: dict, kind: str, memory: dict) -> None:
    """Turn a node into another kind; its inputs are the caller's to change."""
    if node.get("title") == NAMES[node["type"]]:
        del node["title"]
    # "Node name for S&R" stays: it is what %name.widget% in file names refers to.
    properties = {key: value for key, value in properties_of(node).items() if key not in PACK_PROPERTIES}
    node["properties"] = {**properties, "cnr_id": PACKS["ours"], MEMORY["key"]: copy.deepcopy(memory)}
    node["type"] = kind


def remember(node: dict, *more: str) -> dict:
    """What a swap changes in a node."""
    return {key: node[key] for key in ("type", "size", "title", "inputs", "properties", *more) if key in node}


# ---------------------------------------------------------------------------- and back


def is_pair(node: dict) -> bool:
    return len(OURS[node["type"]]["stock"]) > 1


def memory_of(node: dict, kind: str) -> dict | None:
    """What a swap of this kind remembered in a node; None where that is not there, or not all of it."""
    if node["type"] not in (*OURS, OUR_SAVER["type"]):
        return None
    memory = properties_of(node).get(MEMORY["key"]) or {}
    parts = MEMORY[kind]
    whole = all(memory.get(part) and all(memory[part].get(key) is not None for key in parts[part]) for part in parts)
    return memory if whole else None


def streamed(graph: Graph, node: dict) -> tuple[dict, dict] | None:
    """The decode and the saver that a swap connected, given one of them, while they are as it made them."""
    if node["type"] not in (*OURS, OUR_SAVER["type"]):
        return None
    came = named(node, "video").get("link")
    ids = [node["id"], *(get(link, "origin_id") for link in graph.links_to(node["id"]) if get(link, "id") == came)]
    decode = graph.nodes.get(ids[-1])
    fed = list(graph.links_from(ids[-1]))
    saver = graph.nodes.get(get(fed[0], "target_id")) if len(fed) == 1 else None
    if not (decode and saver and memory_of(decode, "streamed") and memory_of(saver, "saver")):
        return None
    if was_of_video(saver) or not is_as_swapped(saver, "images") or decode["type"] not in OURS or not is_pair(decode):
        return None
    return (decode, saver) if named(saver, "video").get("link") == get(fed[0], "id") else None


def was_of_video(saver: dict) -> bool:
    """Whether a saver of ours was one that takes a VIDEO."""
    return SAVERS.get(memory_of(saver, "saver")["saver"]["type"], {}).get("frames") == "video"


def is_as_swapped(saver: dict, other: str) -> bool:
    """Whether nothing is connected to a saver of ours that the one it was has no place for; `other`: one such input."""
    was = memory_of(saver, "saver")["saver"]
    types = [slot["type"] for slot in was.get("outputs") or []]
    fits = not outputs_lost(saver.get("outputs") or [], types) and named(saver, other).get("link") is None
    return fits and was["type"] in SAVERS


def restore_streamed(graph: Graph, decode: dict, saver: dict) -> tuple[dict, dict]:
    memory = memory_of(decode, "streamed")
    [link] = graph.links_from(decode["id"])
    put(link, "type", "IMAGE")
    rate = [slot for slot in inputs(decode) if slot["name"] == "fps"]
    values = values_of(decode, OURS[decode["type"]]["widgets"])
    decode["inputs"] = [slot for slot in inputs(decode) if slot["name"] != "fps"]
    restore_saver(graph, saver, inputs(saver) + rate, {**saver_values_now(saver), "fps": values.get("fps")})
    outputs = [{**slot, "links": [get(link, "id")]} for slot in memory["decode"]["outputs"]]
    pos = moved_along(memory["decode"]["pos"], memory["pos"], decode["pos"])
    before = with_changes(memory["decode"], decode, settings_of_decode(memory["decode"]))
    revert(decode, {**before, "outputs": outputs, "pos": pos})
    graph.aim_links(decode)
    return decode, saver


def saver_values_now(saver: dict) -> dict:
    return values_of(saver, list(OUR_SAVER["widgets"]))


def restore_saver(graph: Graph, saver: dict, slots: list[dict], now: dict) -> dict:
    """Make a saver of ours again what it was.

    Args:
        slots: its inputs, and those that belong to it.
        now: values by the names of our inputs.
    """
    was = {**memory_of(saver, "saver")["saver"]}
    names = SAVERS[was["type"]]["widgets"]
    values = values_of(was, names)
    known = rules_of(was["type"], values) or {}
    theirs = {rule["to"]: name for name, rule in known.items() if "link" in rule or "within" in rule}
    set_to = settings_of(was["type"], values, {})
    swapped = {} if isinstance(set_to, str) else set_to.values
    changed = {
        theirs[ours]: now[ours] for ours in theirs if ours in now and not same(now[ours], swapped.get(ours, now[ours]))
    }
    for key in WIDGET_VALUES:
        if isinstance(was.get(key), dict):
            was[key] = {**was[key], **changed}
        elif isinstance(was.get(key), list):
            was[key] = [changed.get(name, value) for name, value in zip(names, was[key])] + was[key][len(names) :]
    frames = SAVERS[was["type"]]["frames"]
    back = {**theirs, "video": frames, "images": frames}
    saver["inputs"] = [
        {**slot, "name": back.get(slot["name"], slot["name"])} for slot in slots if slot.get("link") is not None
    ]
    links = [slot.get("links") for slot in saver.get("outputs") or [] if slot.get("links")]
    if links:
        was["outputs"] = [{**slot, "links": links[0]} if i == 0 else slot for i, slot in enumerate(was["outputs"])]
    revert(saver, was)
    graph.aim_links(saver)
    return saver


def same(value: object, other: object) -> bool:
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def restore_decode(graph: Graph, node: dict) -> dict:
    memory = memory_of(node, "alone") or {"decode": stock_decode(node)}
    revert(node, with_changes(memory["decode"], node, settings_of_decode(memory["decode"])))
    graph.aim_links(node)
    return node


def restore_pair(file: Workflow, graph: Graph, node: dict) -> tuple[dict, dict]:
    memory = memory_of(node, "pair") or stock_pair(graph, node)
    decode, link = {**memory["decode"]}, memory["link"].copy()
    if decode["id"] is None or decode["id"] in graph.nodes:
        decode["id"] = file.new_id("node")
    if get(link, "id") is None or get(link, "id") in graph.link_positions:
        put(link, "id", file.new_id("link"))
        decode["outputs"] = [{**slot, "links": [get(link, "id")]} for slot in decode["outputs"]]
    put(link, "origin_id", decode["id"])
    decode["inputs"] = with_links_of(node, inputs(decode))
    known = [slot["name"] for slot in decode["inputs"]]
    tiles = [slot for slot in inputs(node) if slot["name"] in TILES]
    decode["inputs"] += [slot for slot in tiles if slot.get("link") is not None and slot["name"] not in known]
    node["inputs"] = [slot for slot in inputs(node) if slot["name"] not in TILES]
    decode["pos"] = moved_along(decode["pos"], memory["pos"], node["pos"])
    if (decode.get("mode") or 0) != (node.get("mode") or 0):
        decode["mode"] = node.get("mode") or 0
    decode = with_changes(decode, node, settings_of_decode(decode))
    video = with_changes(memory["create_video"], node, settings_of_video(memory["create_video"]))
    pos = moved_along(video["pos"], memory["pos"], node["pos"])
    revert(node, {**video, "pos": pos, "inputs": with_frames(inputs(video))})
    named(node, CREATE_VIDEO["frames"])["link"] = get(link, "id")
    graph.add(decode, link, memory.get("decode_position"), memory.get("link_position"))
    graph.aim_links(decode)
    graph.aim_links(node)
    return decode, node


def with_changes(was: dict, node: dict, settings: dict) -> dict:
    """A stock node as it was, but for the values that have been changed in ours since.

    Args:
        node: one of ours, that stands for it.
        settings: what it was set to, as ours was then.
    """
    names = (
        CREATE_VIDEO["widgets"]
        if was["type"] == CREATE_VIDEO["type"]
        else DECODES.get(was["type"], {}).get("widgets", [])
    )
    then, now = values_for(node["type"], settings), values_of(node, OURS[node["type"]]["widgets"])
    changed = {name: now[name] for name in names if name in then and name in now and not same(now[name], then[name])}
    if not changed:
        return was
    values = {**then, **values_of(was, names), **changed}
    last = max(names.index(name) for name in changed)
    given = was.get("widgets_values") or []
    was = {**was}
    if isinstance(given, list):
        was["widgets_values"] = [values[name] for name in names[: max(len(given), last + 1)]] + given[len(names) :]
    else:
        was["widgets_values"] = {**given, **changed}
    if NAMED in was:
        was[NAMED] = {**was[NAMED], **changed}
    return was


def revert(node: dict, before: dict) -> None:
    """Turn a node back. What may have been changed since stays: title, links, properties of the user's own."""
    kept = {key: value for key, value in properties_of(node).items() if key not in (MEMORY["key"], *PACK_PROPERTIES)}
    for key in WIDGET_VALUES:
        if key not in before:
            node.pop(key, None)
    slots = with_links_of(node, inputs(before))
    known = {*DECODE_INPUTS, *(slot["name"] for slot in slots)}
    slots += [slot for slot in inputs(node) if slot["name"] not in known and slot.get("link") is not None]
    node.update({key: value for key, value in before.items() if not (key == "title" and key in node)})
    node.update(inputs=slots, properties={**properties_of(before), **kept})


def with_frames(slots: list[dict]) -> list[dict]:
    """The inputs of a Create Video, the one for the frames among them even where it was lost."""
    name = CREATE_VIDEO["frames"]
    if any(slot["name"] == name for slot in slots):
        return slots
    return [{"name": name, "type": "IMAGE", "link": None}, *slots]


def moved_along(pos: list, anchor_before: list, anchor_now: list) -> list:
    """Where something belongs, now that what it stood beside has moved."""
    (x_before, y_before), (x_now, y_now) = xy(anchor_before), xy(anchor_now)
    if (x_before, y_before) == (x_now, y_now):
        return pos  # as it is written, which may be an object
    x, y = xy(pos)
    return [x + x_now - x_before, y + y_now - y_before]


def values_now(node: dict, names: list[str]) -> list:
    values = values_for(node["type"], values_of(node, OURS[node["type"]]["widgets"]))
    return [values[name] for name in names]


def stock_decode(node: dict) -> dict:
    """What a node of ours that never was a stock one is turned into."""
    [kind] = OURS[node["type"]]["stock"]
    properties = {"cnr_id": PACKS["stock"]}
    return {
        "type": kind,
        "inputs": decode_inputs(node, kind),
        "properties": properties,
        "widgets_values": values_now(node, DECODES[kind]["widgets"]),
    }


def stock_pair(graph: Graph, node: dict) -> dict:
    """The same for two nodes; the decode gets its place to the left."""
    decode, video = OURS[node["type"]]["stock"]
    (x, y), (width, height) = xy(node["pos"]), LAYOUT["decode_size"]
    others = [slot for slot in inputs(node) if slot["name"] in CREATE_VIDEO["inputs"]]
    return {
        "pos": node["pos"],
        "create_video": {
            "type": video,
            "pos": node["pos"],
            "inputs": others,
            "properties": {"cnr_id": PACKS["stock"]},
            "widgets_values": values_now(node, [name for name in CREATE_VIDEO["widgets"] if name in DEFAULTS]),
        },
        "decode": {
            "id": None,
            "type": decode,
            "pos": [x - width - LAYOUT["gap"], y],
            "size": [width, height],
            "flags": {},
            "order": node.get("order") or 0,
            "mode": 0,
            "inputs": decode_inputs(node, decode),
            "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": []}],
            "properties": {"cnr_id": PACKS["stock"], "Node name for S&R": decode},
            "widgets_values": values_now(node, DECODES[decode]["widgets"]),
        },
        "link": graph.new_link("IMAGE"),
    }
