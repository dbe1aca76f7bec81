"""The swap in a workflow file: the JSON that the editor saves, subgraph definitions included.

web/js/swap_workflow.js does the same in the browser, function by function; tests/automation/cases is what both must do.

A swapped decode keeps its id, and with it its links and whatever else refers to it; place, size, title, colour and
mode. A pair becomes one node in the place of its Create Video, made higher where it must be, and keeps the id, the
looks and the widgets of that: widgets are what other parts of a workflow refer to. Nothing else in the file is touched.
"""

from __future__ import annotations

import copy

from .graph import Graph, Workflow, get, inputs, named, properties_of, put, with_links_of, xy
from .rules import (
    CREATE_VIDEO,
    DECODE_INPUTS,
    DECODES,
    FRAME_TYPES,
    LAYOUT,
    MEMORY,
    NAMES,
    OURS,
    PACK_PROPERTIES,
    PACKS,
    REASONS,
    RELAYS,
    VIDEO_NODES,
    Change,
    reason,
)

NAMED = "widgets_values_named"  # newer editors save widgets by name as well
WIDGET_VALUES = ("widgets_values", NAMED)


def recognises(workflow: object) -> bool:
    return isinstance(workflow, dict) and all(isinstance(workflow.get(key), list) for key in ("nodes", "links"))


def swap(workflow: dict, tiled: bool) -> list[Change]:
    """Swap in place what the rules name."""
    file = Workflow(workflow)
    # All is decided before anything is changed, so that no decision rests on a half-changed graph.
    plans = [
        (graph, decode, *decide(file, graph, decode, tiled))
        for graph in file.graphs
        for decode in graph.nodes.values()
        if decode["type"] in DECODES
    ]
    changes = []
    for graph, decode, video, why in plans:
        pair = (decode, video) if video else (decode,)
        nodes, before = tuple(node["id"] for node in pair), tuple(node["type"] for node in pair)
        if not why:
            become_pair(graph, decode, video) if video else become_async(graph, decode)
        after = () if why else (pair[-1]["type"],)
        changes.append(Change(nodes, before, after, why, graph.name, graph.id))
    return changes + [
        Change((host["id"],), (node["type"],), (), reason("in_group_node", file.group_name(host)), graph.name, graph.id)
        for graph in file.graphs
        for host in graph.nodes.values()
        for node in file.grouped(host)
        if node["type"] in DECODES
    ]


def restore(workflow: dict) -> list[Change]:
    """Put stock nodes back in place, wherever a node of ours decodes."""
    file = Workflow(workflow)
    changes = []
    for graph in file.graphs:
        for node in list(graph.nodes.values()):
            before = node["type"]
            if before not in OURS:
                continue
            after = restore_pair(file, graph, node) if is_pair(node) else [restore_decode(graph, node)]
            types = tuple(node["type"] for node in after)
            changes.append(Change((node["id"],), (before,), types, "", graph.name, graph.id))
        graph.put_in_place()
    return changes


# ---------------------------------------------------------------------------- what to do


def decide(file: Workflow, graph: Graph, decode: dict, tiled: bool) -> tuple[dict | None, str]:
    """The Create Video to swap together with a decode, if any; and why to leave the decode alone, else ""."""
    if DECODES[decode["type"]]["tiled"] and not tiled:
        return None, REASONS["in_tiles"]
    videos, lost = file.ends(graph, decode, FRAME_TYPES, lambda node: node["type"] not in VIDEO_NODES)
    if not videos:
        return None, reason(*lost[0]) if lost else REASONS["not_a_video"]
    if tiles_in_use(file, graph, decode):
        return None, REASONS["tiles_in_use"]
    video = create_video_of(graph, decode)
    if video and len(file.ends(graph, video, ("VIDEO",), is_passive)[0]) > 1:
        video = None
    return video, ""


def is_passive(node: dict) -> bool:
    """Whether a video that goes into a node only goes through it, without being decoded."""
    return node["type"] in ("Reroute", *RELAYS, *RELAYS.values())


def tiles_in_use(file: Workflow, graph: Graph, decode: dict) -> bool:
    """Whether something else sets a decode's tiles: a link, or a widget of the subgraph that it is in."""
    if not DECODES[decode["type"]]["tiled"]:
        return False
    linked = [slot for slot in inputs(decode) if slot["name"] not in DECODE_INPUTS and slot.get("link") is not None]
    shown = [widget for _, host in file.hosts(graph) for widget in properties_of(host).get("proxyWidgets") or []]
    return bool(linked) or any(str(widget[0]) == str(decode["id"]) for widget in shown)


def create_video_of(graph: Graph, decode: dict) -> dict | None:
    """The Create Video that is all that a decode feeds, where the two can become one."""
    fed = list(graph.links_from(decode["id"]))
    video = graph.nodes.get(get(fed[0], "target_id")) if len(fed) == 1 else None
    if video is None or video["type"] != CREATE_VIDEO["type"] or (video.get("mode") or 0) != (decode.get("mode") or 0):
        return None
    # A link through reroute points would leave them behind, and one that its target does not know of would be lost.
    coming = [link for node in (decode, video) for link in graph.links_to(node["id"])]
    sound = all(graph.is_known_to_target(link) for link in coming)
    takes_images = named(video, CREATE_VIDEO["frames"]).get("link") == get(fed[0], "id")
    return video if takes_images and sound and not graph.is_rerouted(fed[0]) else None


# ---------------------------------------------------------------------------- there


def decode_inputs(node: dict) -> list[dict]:
    return [slot for slot in inputs(node) if slot["name"] in DECODE_INPUTS]


def become_async(graph: Graph, decode: dict) -> None:
    become(decode, DECODES[decode["type"]]["alone"], {"decode": remember(decode, *WIDGET_VALUES)})
    widgets = OURS[decode["type"]]["widgets"]
    decode["inputs"] = decode_inputs(decode)
    decode["widgets_values"] = list(widgets.values())
    if NAMED in decode:
        decode[NAMED] = dict(widgets)
    graph.aim_links(decode)


def become_pair(graph: Graph, decode: dict, video: dict) -> None:
    [link] = graph.links_from(decode["id"])
    memory = {
        "create_video": remember(video, "pos"),
        "decode": decode,
        "decode_position": graph.node_positions[decode["id"]],
        "link": link,
        "link_position": graph.link_positions[get(link, "id")],
    }
    become(video, DECODES[decode["type"]]["pair"], {**memory, "pos": grow_upwards(video)})
    widgets = OURS[video["type"]]["widgets"]
    others = [slot for slot in inputs(video) if slot["name"] != CREATE_VIDEO["frames"]]
    video["inputs"] = decode_inputs(decode) + others
    # Files of before bit_depth hold fps alone; the editor fills in the rest.
    values = video.get("widgets_values")
    if isinstance(values, list) and len(values) == len(CREATE_VIDEO["widgets"]):
        video["widgets_values"] = [*values, *widgets.values()]
    if NAMED in video:
        video[NAMED] = {**video[NAMED], **widgets}
    graph.remove(decode, link)
    graph.aim_links(video)


def grow_upwards(video: dict) -> list:
    """Make room for one more input, away from the saver that is often right below. Returns the new place."""
    missing = max(0, LAYOUT["pair_height"] - xy(video["size"])[1])
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


def memory_of(node: dict) -> dict | None:
    """What a swap remembered in a node; None where that is not there, or not all of it."""
    memory = properties_of(node).get(MEMORY["key"]) or {}
    parts = MEMORY["pair" if is_pair(node) else "alone"]
    whole = all(memory.get(part) and all(memory[part].get(key) is not None for key in parts[part]) for part in parts)
    return memory if whole else None


def restore_decode(graph: Graph, node: dict) -> dict:
    memory = memory_of(node) or {"decode": stock_decode(node)}
    revert(node, memory["decode"])
    graph.aim_links(node)
    return node


def restore_pair(file: Workflow, graph: Graph, node: dict) -> tuple[dict, dict]:
    memory = memory_of(node) or stock_pair(graph, node)
    decode, link = {**memory["decode"]}, memory["link"].copy()
    if decode["id"] is None or decode["id"] in graph.nodes:
        decode["id"] = file.new_id("node")
    if get(link, "id") is None or get(link, "id") in graph.link_positions:
        put(link, "id", file.new_id("link"))
        decode["outputs"] = [{**slot, "links": [get(link, "id")]} for slot in decode["outputs"]]
    put(link, "origin_id", decode["id"])
    decode["inputs"] = with_links_of(node, inputs(decode))
    decode["pos"] = moved_along(decode["pos"], memory["pos"], node["pos"])
    if (decode.get("mode") or 0) != (node.get("mode") or 0):
        decode["mode"] = node.get("mode") or 0
    own, video = OURS[node["type"]]["widgets"], memory["create_video"]
    pos = moved_along(video["pos"], memory["pos"], node["pos"])
    revert(node, {**video, "pos": pos, "inputs": with_frames(inputs(video))})
    named(node, CREATE_VIDEO["frames"])["link"] = get(link, "id")
    if isinstance(node.get("widgets_values"), list):
        node["widgets_values"] = node["widgets_values"][: len(CREATE_VIDEO["widgets"])]
    if NAMED in node:
        node[NAMED] = {name: value for name, value in node[NAMED].items() if name not in own}
    graph.add(decode, link, memory.get("decode_position"), memory.get("link_position"))
    graph.aim_links(decode)
    graph.aim_links(node)
    return decode, node


def revert(node: dict, before: dict) -> None:
    """Turn a node back. What may have been changed since stays: title, links, properties of the user's own."""
    kept = {key: value for key, value in properties_of(node).items() if key not in (MEMORY["key"], *PACK_PROPERTIES)}
    if not is_pair(node):
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


def stock_decode(node: dict) -> dict:
    """What a node of ours that never was a stock one is turned into."""
    [kind] = OURS[node["type"]]["stock"]
    properties = {"cnr_id": PACKS["stock"]}
    return {"type": kind, "inputs": decode_inputs(node), "properties": properties, "widgets_values": []}


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
        },
        "decode": {
            "id": None,
            "type": decode,
            "pos": [x - width - LAYOUT["gap"], y],
            "size": [width, height],
            "flags": {},
            "order": node.get("order") or 0,
            "mode": 0,
            "inputs": decode_inputs(node),
            "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": []}],
            "properties": {"cnr_id": PACKS["stock"], "Node name for S&R": decode},
            "widgets_values": [],
        },
        "link": graph.new_link("IMAGE"),
    }
