"""The swap in a prompt in API format: node id -> {"class_type", "inputs"}, as exported or sent to /prompt.

A swapped decode or saver keeps its id, so links to it hold. A decode and its Create Video become one node with the id
of the latter, so links to the video and scripts that set its fps hold. What it takes to undo a swap is remembered under
"_meta", which ComfyUI ignores.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator

from .families import Plan, choose, family_of
from .rules import (
    CREATE_VIDEO,
    DECODE_INPUTS,
    DECODES,
    DEFAULTS,
    MEMORY,
    NAMES,
    OUR_SAVER,
    OURS,
    REASONS,
    SAVERS,
    VIDEO_NODES,
    Change,
    reason,
)
from .savers import Settings, rules_of, settings_of, shown


def recognises(prompt: object) -> bool:
    # The editor exports nodes that it does not know without a class_type.
    return (
        isinstance(prompt, dict)
        and all(isinstance(node, dict) and isinstance(node.get("inputs"), dict) for node in prompt.values())
        and any("class_type" in node for node in prompt.values())
    )


def swap(prompt: dict, tiles: str, everything: bool, savers: bool) -> list[Change]:
    """Swap in place what the rules name."""
    decodes = [id for id, node in prompt.items() if node.get("class_type") in DECODES]
    plans = {id: decide(prompt, id, tiles, everything) for id in decodes}
    taken = [plan.partner for plan in plans.values()]
    saver_ids = [id for id, node in prompt.items() if node.get("class_type") in SAVERS and id not in taken]
    saver_plans = [(id, settings_in(prompt, id)) for id in saver_ids]
    hoped_for = [partner_of(prompt, id) for id, plan in plans.items() if not plan.why]
    positions = {id: position for position, id in enumerate(prompt)}
    changes = []
    for id, plan in plans.items():
        ids = (id, plan.partner) if plan.partner else (id,)
        before = tuple(prompt[id]["class_type"] for id in ids)
        if plan.settings:
            become_streamed(prompt, id, plan.stands_for, plan.partner, plan.settings)
        elif plan.partner:
            become_pair(prompt, id, plan.stands_for, plan.partner, positions[id])
        elif not plan.why:
            become_async(prompt[id], plan.stands_for)
        left = () if plan.why else ids if plan.settings else ids[-1:]
        after = tuple(prompt[id]["class_type"] for id in left)
        changes.append(Change(ids, before, after, plan.why, plan.won, plan.vae))
    for id, settings in saver_plans:
        before, why = prompt[id]["class_type"], settings if isinstance(settings, str) else ""
        if savers and not why:
            become_saver(prompt, id, settings, SAVERS[before]["frames"])
        if savers or (why and id in hoped_for):
            after, won = ((), "") if why else ((prompt[id]["class_type"],), "saver")
            changes.append(Change((id,), (before,), after, why, won))
    return changes


def restore(prompt: dict) -> list[Change]:
    """Put stock nodes back in place, wherever a node of ours decodes or stands for another saver."""
    changes, returning = [], []
    for id, node in prompt.items():
        before = node.get("class_type")
        if both := streamed(prompt, id):
            types = tuple(prompt[each]["class_type"] for each in both)
            restore_streamed(prompt, *both)
            changes.append(Change(both, types, tuple(prompt[each]["class_type"] for each in both)))
            continue
        if memory_of(node, "saver"):
            why = "" if is_as_swapped(prompt, id) else REASONS["rewired"]
            if not why:
                restore_saver(node, node["inputs"])
            changes.append(Change((id,), (before,), () if why else (node["class_type"],), why))
            continue
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
    put_back(prompt, returning)
    return changes


def put_back(prompt: dict, nodes: list[tuple[int, str, dict]]) -> None:
    """Nodes, by position and id, where they were. Lowest first: each then finds everything that was before it there."""
    items = list(prompt.items())
    for position, id, node in sorted(nodes, key=lambda entry: entry[0]):
        items.insert(position, (id, node))
    prompt.clear()
    prompt.update(items)


# ---------------------------------------------------------------------------- what to do


def decide(prompt: dict, id: str, tiles: str, everything: bool) -> Plan:
    kind, given = prompt[id]["class_type"], prompt[id]["inputs"]
    if not goes_into_video(prompt, id):
        return Plan(REASONS["not_a_video"])
    family = family_at(prompt, id)
    vae = family["name"] if family else ""
    names = DECODES[kind]["widgets"]
    values = {name: given[name] for name in names if name in given and not is_link(prompt, given[name])}
    in_use = any(is_link(prompt, given.get(name)) for name in names)
    stands_for, won, why = choose(kind, family, tiles, {**DEFAULTS, **values}, in_use)
    if why or (won == "nothing" and not everything):
        return Plan(why or reason("nothing_won", vae))
    plan = Plan("", stands_for, won, vae)
    partner = partner_of(prompt, id)
    if partner and prompt[partner]["class_type"] in SAVERS:
        settings = settings_in(prompt, partner)
        return plan if isinstance(settings, str) else dataclasses.replace(plan, partner=partner, settings=settings)
    if partner and len(list(users_of(prompt, partner))) > 1:
        return plan
    return dataclasses.replace(plan, partner=partner)


def family_at(prompt: dict, id: str) -> dict | None:
    """The family of the VAE that a decode gets; None if that cannot be told.

    A prompt does not tell the types of outputs: what hands a VAE on gets it by an input with "vae" in its name.
    """
    todo, found = [prompt[id]["inputs"].get("vae")], []
    seen = set()
    for link in todo:  # which grows
        if not is_link(prompt, link) or link[0] in seen:
            continue
        seen.add(link[0])
        node = prompt[link[0]]
        given = node["inputs"]
        sources = [
            prompt[value[0]]["inputs"].values() if is_link(prompt, value) else [value] for value in given.values()
        ]
        family = family_of(
            [value for values in sources for value in values if isinstance(value, str)], node.get("class_type")
        )
        vaes = [value for name, value in given.items() if "vae" in name.lower() and is_link(prompt, value)]
        if vaes:
            todo += vaes
        else:
            found.append(family)
    return found[0] if found and all(family == found[0] for family in found) else None


def partner_of(prompt: dict, id: str) -> str | None:
    """The Create Video or saver that is all that a decode feeds."""
    users = list(users_of(prompt, id))
    kind = prompt[users[0][0]].get("class_type") if len(users) == 1 else None
    rule = CREATE_VIDEO if kind == CREATE_VIDEO["type"] else SAVERS.get(kind)
    fits = rule and users[0][1] == rule["frames"] and (rule is not CREATE_VIDEO or is_matched(prompt, users[0][0]))
    return users[0][0] if fits else None


def is_matched(prompt: dict, id: str) -> bool:
    """Whether all that a Create Video is set to has a place in our nodes."""
    for name, value in prompt[id]["inputs"].items():
        fits = CREATE_VIDEO["fits"].get(name)
        is_taken = name in (CREATE_VIDEO["frames"], *CREATE_VIDEO["inputs"])
        if is_link(prompt, value) or fits is None:
            if not is_taken:
                return False
        elif shown(value) not in fits:
            return False
    return True


def settings_in(prompt: dict, id: str) -> Settings | str:
    """What a saver is set to, in inputs of ours; or why it has to be left alone."""
    kind, given = prompt[id]["class_type"], prompt[id]["inputs"]
    rule = SAVERS[kind]
    if rule["frames"] != "video" and any(users_of(prompt, id)):
        return reason("output_used", rule["output"])
    # A prompt does not tell the types of links.
    linked = {name: None for name, value in given.items() if is_link(prompt, value)}
    return settings_of(kind, {name: value for name, value in given.items() if name not in linked}, linked)


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


def become_async(decode: dict, stands_for: str) -> None:
    was = {"class_type": decode["class_type"], "inputs": decode["inputs"]}
    # Of what comes back by itself nothing is remembered.
    kept = stands_for == decode["class_type"]
    become(decode, DECODES[stands_for]["alone"], None if kept else {"decode": was})
    if not kept:
        decode["inputs"] = decode_inputs(decode, stands_for)


def become_pair(prompt: dict, id: str, stands_for: str, video_id: str, position: int) -> None:
    decode, video = prompt.pop(id), prompt[video_id]
    was = {"inputs": video["inputs"]}
    memory = {"create_video": was, "decode": decode, "decode_id": id, "decode_position": position}
    become(video, DECODES[stands_for]["pair"], memory)
    video["inputs"] = decode_inputs(decode, stands_for) | video_inputs(prompt, was["inputs"])


def become_streamed(prompt: dict, id: str, stands_for: str, saver_id: str, settings: Settings) -> None:
    """Make a decode and its saver a video and its saver. The frame rate is the video's."""
    decode, saver = prompt[id], prompt[saver_id]
    was = {"class_type": decode["class_type"], "inputs": decode["inputs"]}
    become_saver(prompt, saver_id, settings, "video")
    become(decode, DECODES[stands_for]["pair"], {"decode": was})
    decode["inputs"] = {**decode_inputs(decode, stands_for), "fps": saver["inputs"].pop("fps")}


def become_saver(prompt: dict, id: str, settings: Settings, source: str) -> None:
    """Make a saver one of ours, which gets what it saves by the input `source`."""
    saver = prompt[id]
    given, rule = saver["inputs"], SAVERS[saver["class_type"]]
    become(saver, OUR_SAVER["type"], {"saver": {"class_type": saver["class_type"], "inputs": given}})
    linked = {ours: given[name] for name, ours in settings.links.items()}
    others = {name: given[name] for name in rule["inputs"] if name in given}
    saver["inputs"] = {source: given[rule["frames"]], **settings.values, **linked, **others}


def become(node: dict, kind: str, memory: dict | None = None) -> None:
    """Turn a node into another kind; its inputs are the caller's to change."""
    if (node.get("_meta") or {}).get("title") == NAMES[node["class_type"]]:
        node["_meta"]["title"] = NAMES[kind]
    if memory:
        node["_meta"] = {**(node.get("_meta") or {}), MEMORY["key"]: copy.deepcopy(memory)}
    node["class_type"] = kind


# ---------------------------------------------------------------------------- and back


def memory_of(node: dict, kind: str) -> dict | None:
    """What a swap remembered in a node of ours under this name."""
    is_ours = node.get("class_type") in (*OURS, OUR_SAVER["type"])
    return ((node.get("_meta") or {}).get(MEMORY["key"]) or {}).get(kind) if is_ours else None


def streamed(prompt: dict, id: str) -> tuple[str, str] | None:
    """Ids of the decode and the saver that a swap connected, given one of them, while they are as it made them."""
    video = prompt[id]["inputs"].get("video")
    decode_id = video[0] if is_link(prompt, video) else id
    users = list(users_of(prompt, decode_id))
    if len(users) != 1 or users[0][1] != "video" or id not in (decode_id, users[0][0]):
        return None
    decode, saver_id = prompt[decode_id], users[0][0]
    is_pair = decode.get("class_type") in OURS and len(OURS[decode["class_type"]]["stock"]) > 1
    was = memory_of(prompt[saver_id], "saver")
    if not was or not is_pair or not memory_of(decode, "decode") or memory_of(decode, "create_video"):
        return None
    was_decode = SAVERS.get(was["class_type"], {}).get("frames") == "images"
    return (decode_id, saver_id) if was_decode and not any(users_of(prompt, saver_id)) else None


def is_as_swapped(prompt: dict, id: str) -> bool:
    """Whether nothing is connected to a saver of ours that the one it was has no place for."""
    kind = memory_of(prompt[id], "saver")["class_type"]
    if kind not in SAVERS or SAVERS[kind]["frames"] not in prompt[id]["inputs"]:
        return False
    last = 0 if SAVERS[kind]["frames"] == "video" else -1
    links = [value for node in prompt.values() for value in node["inputs"].values() if is_link(prompt, value)]
    return all(link[1] <= last for link in links if link[0] == id)


def restore_streamed(prompt: dict, id: str, saver_id: str) -> None:
    decode, saver = prompt[id], prompt[saver_id]
    restore_saver(saver, {**saver["inputs"], "images": [id, 0], "fps": decode["inputs"].get("fps")})
    before = forget(decode)["decode"]
    become(decode, before["class_type"])
    decode["inputs"] = {**before["inputs"], **decode_inputs(decode, before["class_type"])}


def restore_saver(saver: dict, now: dict) -> None:
    """Make a saver of ours again what it was; `now`: its inputs, and those that belong to it."""
    was = forget(saver)["saver"]
    rule, known = SAVERS[was["class_type"]], rules_of(was["class_type"], was["inputs"]) or {}
    ours = {name: each["to"] for name, each in known.items() if "link" in each or "within" in each}
    ours |= {name: name for name in (rule["frames"], *rule["inputs"])}
    become(saver, was["class_type"])
    kept = {name: value for name, value in was["inputs"].items() if name not in rule["inputs"] or name in now}
    come = {name: now[name] for name in rule["inputs"] if name in now}
    saver["inputs"] = {name: now.get(ours.get(name), value) for name, value in kept.items()} | come


def restore_decode(node: dict) -> None:
    [stock] = OURS[node["class_type"]]["stock"]
    before = forget(node).get("decode") or {"class_type": stock, "inputs": {}}
    become(node, before["class_type"])
    node["inputs"] = {**before["inputs"], **decode_inputs(node, before["class_type"])}


def restore_pair(prompt: dict, node: dict, taken: set[str]) -> tuple[int, str, dict]:
    """Make a node a Create Video again. Returns its decode, with the position and the id it is to have."""
    stock, video = OURS[node["class_type"]]["stock"]
    memory = forget(node)
    if "create_video" not in memory:
        memory = {"create_video": {"inputs": {}}, "decode": {"class_type": stock, "inputs": {}}}
    id = memory.get("decode_id")
    if id is None or id in prompt or id in taken:
        id = new_id({*prompt, *taken})
    decode = memory["decode"]
    decode = {**decode, "inputs": {**decode["inputs"], **decode_inputs(node, decode["class_type"])}}
    become(node, video)
    was = memory["create_video"]["inputs"]
    then = video_inputs(prompt, was)
    now = {name: value for name, value in video_inputs(prompt, node["inputs"]).items() if value != then.get(name)}
    gone = [name for name in then if name not in node["inputs"]]
    frames = {CREATE_VIDEO["frames"]: [id, 0]}
    in_their_old_order = {name: {**was, **frames, **now}[name] for name in was if name not in gone}
    node["inputs"] = in_their_old_order | frames | now
    return memory.get("decode_position", len(prompt)), id, decode


def video_inputs(prompt: dict, given: dict) -> dict:
    """What goes from a Create Video into one of ours."""
    fits = CREATE_VIDEO["fits"]
    return {
        name: value if is_link(prompt, value) else fits.get(name, {}).get(shown(value), value)
        for name, value in given.items()
        if name in CREATE_VIDEO["inputs"]
    }


def forget(node: dict) -> dict:
    """Take what a swap remembered out of a node."""
    meta = node.get("_meta") or {}
    memory = meta.pop(MEMORY["key"], None) or {}
    if not meta and memory:
        node.pop("_meta", None)
    return memory


def decode_inputs(node: dict, kind: str) -> dict:
    """The inputs of a node that a stock decode of this type has."""
    names = (*DECODE_INPUTS, *DECODES.get(kind, {}).get("widgets", []))
    return {name: value for name, value in node["inputs"].items() if name in names}


def new_id(taken: set[str]) -> str:
    return str(1 + max((int(id) for id in taken if id.isdigit()), default=0))
