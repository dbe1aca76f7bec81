"""The swap in a prompt in API format: node id -> {"class_type", "inputs"}, as exported or sent to /prompt.

A swapped decode keeps its id, so links to it hold. A pair keeps the id of its Create Video, so links to the video and
scripts that set its fps hold. What it takes to undo a swap is remembered under "_meta", which ComfyUI ignores.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

from .rules import CREATE_VIDEO, DECODE_INPUTS, DECODES, MEMORY, NAMES, OURS, REASONS, VIDEO_NODES, Change


def recognises(prompt: object) -> bool:
    # The editor exports nodes that it does not know without a class_type.
    return (
        isinstance(prompt, dict)
        and all(isinstance(node, dict) and isinstance(node.get("inputs"), dict) for node in prompt.values())
        and any("class_type" in node for node in prompt.values())
    )


def swap(prompt: dict, tiled: bool) -> list[Change]:
    """Swap in place what the rules name."""
    decodes = [id for id, node in prompt.items() if node.get("class_type") in DECODES]
    plans = [(id, *decide(prompt, id, tiled)) for id in decodes]
    positions = {id: position for position, id in enumerate(prompt)}
    changes = []
    for id, video_id, reason in plans:
        ids = (id, video_id) if video_id else (id,)
        before = tuple(prompt[id]["class_type"] for id in ids)
        if not reason:
            become_pair(prompt, id, video_id, positions[id]) if video_id else become_async(prompt[id])
        changes.append(Change(ids, before, () if reason else (prompt[ids[-1]]["class_type"],), reason))
    return changes


def restore(prompt: dict) -> list[Change]:
    """Put stock nodes back in place, wherever a node of ours decodes."""
    changes, returning = [], []
    for id, node in prompt.items():
        before = node.get("class_type")
        if before not in OURS:
            continue
        if len(OURS[before]["stock"]) > 1:
            position, decode_id, decode = restore_pair(prompt, node, {id for _, id, _ in returning})
            returning.append((position, decode_id, decode))
            after = (decode["class_type"], node["class_type"])
        else:
            restore_decode(node)
            after = (node["class_type"],)
        changes.append(Change((id,), (before,), after))
    # Lowest first: each then finds everything that was before it back in place.
    items = list(prompt.items())
    for position, id, decode in sorted(returning, key=lambda entry: entry[0]):
        items.insert(position, (id, decode))
    prompt.clear()
    prompt.update(items)
    return changes


# ---------------------------------------------------------------------------- what to do


def decide(prompt: dict, id: str, tiled: bool) -> tuple[str | None, str]:
    """Id of the Create Video to swap together with a decode, if any; and why to leave the decode alone, else ""."""
    decode = prompt[id]
    if DECODES[decode["class_type"]]["tiled"] and not tiled:
        return None, REASONS["in_tiles"]
    if not goes_into_video(prompt, id):
        return None, REASONS["not_a_video"]
    if any(is_link(prompt, value) for name, value in decode["inputs"].items() if name not in DECODE_INPUTS):
        return None, REASONS["tiles_in_use"]
    users = list(users_of(prompt, id))
    if len(users) == 1:
        [(video_id, name)] = users
        is_create_video = (prompt[video_id].get("class_type"), name) == (CREATE_VIDEO["type"], CREATE_VIDEO["frames"])
        if is_create_video and len(list(users_of(prompt, video_id))) <= 1:
            return video_id, ""
    return None, ""


def goes_into_video(prompt: dict, id: str) -> bool:
    """Whether links lead from a decode to a video node.

    A prompt does not tell the types of outputs. But from frames that became latents again the way to a video is
    through another decode, so it is enough not to follow links into inputs that take latents.
    """
    todo, seen = [id], set()
    while todo:
        for user, name in users_of(prompt, todo.pop()):
            if prompt[user].get("class_type") in VIDEO_NODES:
                return True
            if user not in seen and name != "samples" and not name.startswith("latent"):
                seen.add(user)
                todo.append(user)
    return False


def users_of(prompt: dict, id: str) -> Iterator[tuple[str, str]]:
    """(node id, input name) of everything that a node's outputs are linked to."""
    for user, node in prompt.items():
        for name, value in node["inputs"].items():
            if is_link(prompt, value) and value[0] == id:
                yield user, name


def is_link(prompt: dict, value: object) -> bool:
    # [node id, output]; other pairs are values of inputs that take a list.
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int)
        and value[0] in prompt
    )


# ---------------------------------------------------------------------------- there


def become_async(decode: dict) -> None:
    kind = decode["class_type"]
    if DECODES[kind]["tiled"]:
        become(decode, DECODES[kind]["alone"], {"decode": {"class_type": kind, "inputs": decode["inputs"]}})
        decode["inputs"] = decode_inputs(decode)
    else:
        become(decode, DECODES[kind]["alone"])


def become_pair(prompt: dict, id: str, video_id: str, position: int) -> None:
    decode, video = prompt.pop(id), prompt[video_id]
    was = {"inputs": video["inputs"]}
    memory = {"create_video": was, "decode": decode, "decode_id": id, "decode_position": position}
    become(video, DECODES[decode["class_type"]]["pair"], memory)
    others = {name: value for name, value in video["inputs"].items() if name != CREATE_VIDEO["frames"]}
    video["inputs"] = decode_inputs(decode) | others


def become(node: dict, kind: str, memory: dict | None = None) -> None:
    """Turn a node into another kind; its inputs are the caller's to change."""
    if (node.get("_meta") or {}).get("title") == NAMES[node["class_type"]]:
        node["_meta"]["title"] = NAMES[kind]
    if memory:
        node["_meta"] = {**(node.get("_meta") or {}), MEMORY["key"]: copy.deepcopy(memory)}
    node["class_type"] = kind


# ---------------------------------------------------------------------------- and back


def restore_decode(node: dict) -> None:
    [stock] = OURS[node["class_type"]]["stock"]
    before = forget(node).get("decode") or {"class_type": stock, "inputs": {}}
    become(node, before["class_type"])
    node["inputs"] = {**before["inputs"], **decode_inputs(node)}


def restore_pair(prompt: dict, node: dict, taken: set[str]) -> tuple[int, str, dict]:
    """Make a node a Create Video again. Returns its decode, with the position and the id it is to have."""
    stock, video = OURS[node["class_type"]]["stock"]
    memory = forget(node) or {"create_video": {"inputs": {}}, "decode": {"class_type": stock, "inputs": {}}}
    id = memory.get("decode_id")
    if id is None or id in prompt or id in taken:
        id = new_id({*prompt, *taken})
    decode = {**memory["decode"], "inputs": {**memory["decode"]["inputs"], **decode_inputs(node)}}
    become(node, video)
    others = {name: node["inputs"][name] for name in CREATE_VIDEO["inputs"] if name in node["inputs"]}
    now = {CREATE_VIDEO["frames"]: [id, 0]} | others
    in_their_old_order = {name: now[name] for name in memory["create_video"]["inputs"] if name in now}
    node["inputs"] = in_their_old_order | now
    return memory.get("decode_position", len(prompt)), id, decode


def forget(node: dict) -> dict:
    """Take what a swap remembered out of a node."""
    meta = node.get("_meta") or {}
    memory = meta.pop(MEMORY["key"], None) or {}
    if not meta and memory:
        node.pop("_meta", None)
    return memory


def decode_inputs(node: dict) -> dict:
    return {name: value for name, value in node["inputs"].items() if name in DECODE_INPUTS}


def new_id(taken: set[str]) -> str:
    return str(1 + max((int(id) for id in taken if id.isdigit()), default=0))
