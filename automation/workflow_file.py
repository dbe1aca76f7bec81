"""The swap in a workflow file: the JSON that the editor saves, subgraph definitions included.

web/js/swap_workflow.js does the same in the browser, function by function.

A swapped decode keeps its id, and with it its links and whatever else refers to it; place, size, title, colour and
mode. A pair becomes one node in the place of its Create Video, made higher where it must be, and keeps the id, the
looks and the widgets of that: widgets are what other parts of a workflow refer to. Nothing else in the file is touched.
"""

from __future__ import annotations

import copy

from .graph import Graph, Workflow, get, inputs, named, properties_of, put, with_links_of, xy
from .rules import (
    ASYNC, ASYNC_VIDEO, CREATE_VIDEO, DECODE, DECODE_INPUTS, IN_TILES, MEMORY, NAMES, NOT_A_VIDEO, OWN_WIDGETS,
    TILED, TILES_IN_USE, VIDEO_INPUTS, VIDEO_NODES, Change,
)  # fmt: skip

PACK, CORE = "async-frame-pipeline", "comfy-core"
PACK_PROPERTIES = ("cnr_id", "aux_id", "ver")  # which pack a node is from, and which version of it
FRAMES = ("IMAGE", "MASK")  # a mask is how frames become the alpha of a video
PAIR_HEIGHT = 130  # what the editor makes of three inputs and two widgets
NAMED = "widgets_values_named"  # newer editors save widgets by name as well
WIDGET_VALUES = ("widgets_values", NAMED)
VIDEO_WIDGETS = 2  # of Create Video: fps and bit depth
STOCK_DECODE_SIZE, GAP = (210, 46), 40


def recognises(workflow: object) -> bool:
    return isinstance(workflow, dict) and all(isinstance(workflow.get(key), list) for key in ("nodes", "links"))


def swap(workflow: dict, tiled: bool) -> list[Change]:
    """Swap in place what the rules name."""
    file = Workflow(workflow)
    # All is decided before anything is changed, so that no decision rests on a half-changed graph.
    plans = [
        (graph, decode, *decide(file, graph, decode, tiled))
        for graph in file.graphs for decode in graph.nodes.values() if decode["type"] in (DECODE, TILED)
    ]  # fmt: skip
    changes = []
    for graph, decode, video, reason in plans:
        pair = (decode, video) if video else (decode,)
        nodes, before = tuple(node["id"] for node in pair), tuple(node["type"] for node in pair)
        if not reason:
            become_pair(graph, decode, video) if video else become_async(graph, decode)
        after = () if reason else (pair[-1]["type"],)
        changes.append(Change(nodes, before, after, reason, graph.name))
    return changes


def restore(workflow: dict) -> list[Change]:
    """Put stock nodes back in place, wherever a node of ours decodes."""
    file = Workflow(workflow)
    changes = []
    for graph in file.graphs:
        for node in list(graph.nodes.values()):
            before = node["type"]
            if before == ASYNC:
                after = [restore_decode(graph, node)]
            elif before == ASYNC_VIDEO:
                after = restore_pair(file, graph, node)
            else:
                continue
            changes.append(Change((node["id"],), (before,), tuple(node["type"] for node in after), "", graph.name))
        graph.put_in_place()
    return changes


# ---------------------------------------------------------------------------- what to do


def decide(file: Workflow, graph: Graph, decode: dict, tiled: bool) -> tuple[dict | None, str]:
    """The Create Video to swap together with a decode, if any; and why to leave the decode alone, else ""."""
    if decode["type"] == TILED and not tiled:
        return None, IN_TILES
    if not file.ends(graph, decode, FRAMES, lambda node: node["type"] not in VIDEO_NODES):
        return None, NOT_A_VIDEO
    if tiles_in_use(file, graph, decode):
        return None, TILES_IN_USE
    video = create_video_of(graph, decode)
    if video and len(file.ends(graph, video, ("VIDEO",), lambda node: node["type"] == "Reroute")) > 1:
        video = None
    return video, ""


def tiles_in_use(file: Workflow, graph: Graph, decode: dict) -> bool:
    """Whether something else sets a decode's tiles: a link, or a widget of the subgraph that it is in."""
    if decode["type"] != TILED:
        return False
    linked = [slot for slot in inputs(decode) if slot["name"] not in DECODE_INPUTS and slot.get("link") is not None]
    shown = [widget for _, host in file.hosts(graph) for widget in properties_of(host).get("proxyWidgets") or []]
    return bool(linked) or any(str(widget[0]) == str(decode["id"]) for widget in shown)


def create_video_of(graph: Graph, decode: dict) -> dict | None:
    """The Create Video that is all that a decode feeds, where the two can become one."""
    fed = list(graph.links_from(decode["id"]))
    video = graph.nodes.get(get(fed[0], "target_id")) if len(fed) == 1 else None
    if video is None or video["type"] != CREATE_VIDEO or video.get("mode", 0) != decode.get("mode", 0):
        return None
    # A link through reroute points would leave them behind, and one that its target does not know of would be lost.
    coming = [link for node in (decode, video) for link in graph.links_to(node["id"])]
    sound = all(graph.is_known_to_target(link) for link in coming)
    takes_images = named(video, "images").get("link") == get(fed[0], "id")
    return video if takes_images and sound and not graph.is_rerouted(fed[0]) else None


# ---------------------------------------------------------------------------- there


def decode_inputs(node: dict) -> list[dict]:
    return [slot for slot in inputs(node) if slot["name"] in DECODE_INPUTS]


def become_async(graph: Graph, decode: dict) -> None:
    become(decode, ASYNC, {"decode": remember(decode, *WIDGET_VALUES)})
    decode["inputs"] = decode_inputs(decode)
    decode["widgets_values"] = list(OWN_WIDGETS[ASYNC].values())
    if NAMED in decode:
        decode[NAMED] = dict(OWN_WIDGETS[ASYNC])
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
    become(video, ASYNC_VIDEO, {**memory, "pos": grow_upwards(video)})
    video["inputs"] = decode_inputs(decode) + [slot for slot in inputs(video) if slot["name"] != "images"]
    # Files of before bit_depth hold fps alone; the editor fills in the rest.
    if isinstance(video.get("widgets_values"), list) and len(video["widgets_values"]) == VIDEO_WIDGETS:
        video["widgets_values"] = [*video["widgets_values"], *OWN_WIDGETS[ASYNC_VIDEO].values()]
    if NAMED in video:
        video[NAMED] = {**video[NAMED], **OWN_WIDGETS[ASYNC_VIDEO]}
    graph.remove(decode, link)
    graph.aim_links(video)


def grow_upwards(video: dict) -> list:
    """Make room for one more input, away from the saver that is often right below. Returns the new place."""
    missing = max(0, PAIR_HEIGHT - xy(video["size"])[1])
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
    node["properties"] = {**properties, "cnr_id": PACK, MEMORY: copy.deepcopy(memory)}
    node["type"] = kind


def remember(node: dict, *more: str) -> dict:
    """What a swap changes in a node."""
    return {key: node[key] for key in ("type", "size", "title", "inputs", "properties", *more) if key in node}


# ---------------------------------------------------------------------------- and back


def restore_decode(graph: Graph, node: dict) -> dict:
    memory = properties_of(node).get(MEMORY) or {"decode": stock_decode(node)}
    revert(node, memory["decode"])
    graph.aim_links(node)
    return node


def restore_pair(file: Workflow, graph: Graph, node: dict) -> tuple[dict, dict]:
    memory = properties_of(node).get(MEMORY) or stock_pair(graph, node)
    decode, link = {**memory["decode"]}, memory["link"].copy()
    if decode["id"] is None or decode["id"] in graph.nodes:
        decode["id"] = file.new_id("node")
    if get(link, "id") is None or get(link, "id") in graph.link_positions:
        put(link, "id", file.new_id("link"))
        decode["outputs"] = [{**slot, "links": [get(link, "id")]} for slot in decode["outputs"]]
    put(link, "origin_id", decode["id"])
    decode["inputs"] = with_links_of(node, inputs(decode))
    decode["pos"] = moved_along(decode["pos"], memory["pos"], node["pos"])
    decode["mode"] = node.get("mode", 0)
    revert(node, {**memory["create_video"], "pos": moved_along(memory["create_video"]["pos"], memory["pos"], node["pos"])})
    named(node, "images")["link"] = get(link, "id")
    if isinstance(node.get("widgets_values"), list):
        node["widgets_values"] = node["widgets_values"][:VIDEO_WIDGETS]
    if NAMED in node:
        node[NAMED] = {name: value for name, value in node[NAMED].items() if name not in OWN_WIDGETS[ASYNC_VIDEO]}
    graph.add(decode, link, memory.get("decode_position"), memory.get("link_position"))
    graph.aim_links(decode)
    graph.aim_links(node)
    return decode, node


def revert(node: dict, before: dict) -> None:
    """Turn a node back. What may have been changed since stays: title, links, properties of the user's own."""
    kept = {key: value for key, value in properties_of(node).items() if key not in (MEMORY, *PACK_PROPERTIES)}
    if node["type"] == ASYNC:
        for key in WIDGET_VALUES:
            if key not in before:
                node.pop(key, None)
    slots = with_links_of(node, inputs(before))
    known = {*DECODE_INPUTS, *(slot["name"] for slot in slots)}
    slots += [slot for slot in inputs(node) if slot["name"] not in known and slot.get("link") is not None]
    node.update({key: value for key, value in before.items() if not (key == "title" and key in node)})
    node.update(inputs=slots, properties={**properties_of(before), **kept})


def moved_along(pos: list, anchor_before: list, anchor_now: list) -> list:
    """Where something belongs, now that what it stood beside has moved."""
    if anchor_before == anchor_now:
        return pos
    (x, y), (x_before, y_before), (x_now, y_now) = xy(pos), xy(anchor_before), xy(anchor_now)
    return [x + x_now - x_before, y + y_now - y_before]


def stock_decode(node: dict) -> dict:
    """What a node of ours that never was a stock one is turned into."""
    return {"type": DECODE, "inputs": decode_inputs(node), "properties": {"cnr_id": CORE}, "widgets_values": []}


def stock_pair(graph: Graph, node: dict) -> dict:
    """The same for two nodes; the decode gets its place to the left."""
    (x, y), (width, height) = xy(node["pos"]), STOCK_DECODE_SIZE
    images = {"name": "images", "type": "IMAGE", "link": None}
    others = [slot for slot in inputs(node) if slot["name"] in VIDEO_INPUTS]
    return {
        "pos": node["pos"],
        "create_video": {
            "type": CREATE_VIDEO, "pos": node["pos"], "inputs": [images, *others], "properties": {"cnr_id": CORE},
        },
        "decode": {
            "id": None, "type": DECODE, "pos": [x - width - GAP, y], "size": [width, height], "flags": {},
            "order": node.get("order", 0), "mode": 0, "inputs": decode_inputs(node),
            "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": []}],
            "properties": {"cnr_id": CORE, "Node name for S&R": DECODE}, "widgets_values": [],
        },
        "link": graph.new_link("IMAGE"),
    }  # fmt: skip
