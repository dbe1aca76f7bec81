"""Save Video (Decode Elsewhere) in the place of a decode and its saver, in a prompt; elsewhere.py does it to files."""

from __future__ import annotations

from .api_prompt import become, family_at, forget, is_link, memory_of, new_id, put_back, restore_saver, users_of
from .elsewhere import both_steps, is_moved, settings_of
from .rules import ELSEWHERE, MEMORY, OUR_SAVER, REASONS, Change, reason


def send(prompt: dict, changes: list[Change], savers: bool) -> list[Change]:
    """See elsewhere.py."""
    positions, sent = {id: position for position, id in enumerate(prompt)}, []
    for id in [id for id, node in prompt.items() if node.get("class_type") == ELSEWHERE["decode"]]:
        saver, why = decide(prompt, id)
        family = family_at(prompt, id)
        if not why and (family is None or family["name"] not in ELSEWHERE["families"]):
            why = REASONS["stays"]
        if why:
            sent.append(Change((id,), (ELSEWHERE["decode"],), (), why))
            continue
        become_one(prompt, id, saver, positions[id])
        before, after = (ELSEWHERE["decode"], OUR_SAVER["type"]), (ELSEWHERE["type"],)
        sent.append(Change((id, saver), before, after, "", "elsewhere", family["name"]))
    changes = both_steps(changes, sent)
    return changes if savers else [each for each in changes if not is_undone(prompt, each)]


def take_back(prompt: dict) -> list[Change]:
    """See elsewhere.py."""
    changes, returning = [], []
    for id, node in prompt.items():
        if node.get("class_type") != ELSEWHERE["type"] or "elsewhere" not in memory_in(node):
            continue
        if any(users_of(prompt, id)):
            changes.append(Change((id,), (ELSEWHERE["type"],), (), REASONS["rewired"]))
            continue
        position, decode_id, decode = become_two(prompt, node, {each for _, each, _ in returning})
        returning.append((position, decode_id, decode))
        changes.append(Change((decode_id, id), (ELSEWHERE["type"],), (decode["class_type"], node["class_type"])))
    put_back(prompt, returning)
    return changes


def is_undone(prompt: dict, change: Change) -> bool:
    if change.won != "saver":
        return False
    saver = prompt[change.nodes[0]]
    assert memory_of(saver, "saver"), "it was swapped just now"
    restore_saver(saver, saver["inputs"])
    return True


def decide(prompt: dict, id: str) -> tuple[str, str]:
    """The saver that is all that a decode's video goes into, and why the two cannot become one, else ""."""
    users = list(users_of(prompt, id))
    kind = prompt[users[0][0]].get("class_type") if len(users) == 1 else None
    if kind != OUR_SAVER["type"] or users[0][1] != "video":
        return "", REASONS["not_one_saver"]
    saver = users[0][0]
    given, saved = prompt[id]["inputs"], {name: v for name, v in prompt[saver]["inputs"].items() if name != "video"}
    of_decode = [name for name, value in given.items() if is_link(prompt, value)]
    of_saver = [name for name, value in saved.items() if is_link(prompt, value)]
    lost = [name for name in of_decode if name not in ELSEWHERE["inputs"] and not is_moved("of_decode", name)]
    lost += [name for name in of_saver if name not in ELSEWHERE["inputs"] and not is_moved("of_saver", name)]
    lost += [name for name in of_saver if name in of_decode]
    lost += [OUR_SAVER["type"]] * any(users_of(prompt, saver))
    settings = settings_of(*(without_links(prompt, values) for values in (given, saved)))
    if lost or isinstance(settings, str):
        return "", reason("not_elsewhere", lost[0] if lost else settings)
    return saver, ""


def without_links(prompt: dict, values: dict) -> dict:
    return {name: value for name, value in values.items() if not is_link(prompt, value)}


def memory_in(node: dict) -> dict:
    return (node.get("_meta") or {}).get(MEMORY["key"]) or {}


def become_one(prompt: dict, id: str, saver_id: str, position: int) -> None:
    decode, saver = prompt.pop(id), prompt[saver_id]
    given, saved = decode["inputs"], saver["inputs"]
    settings = settings_of(*(without_links(prompt, values) for values in (given, saved)))
    assert isinstance(settings, dict), "decided before"
    linked = {name: v for values in (given, saved) for name, v in values.items() if is_link(prompt, v)}
    inputs = {name: linked[name] for name in ELSEWHERE["inputs"] if name in linked}
    of_widgets = {name: value for name, value in linked.items() if name in ELSEWHERE["widgets"]}
    memory = {"decode": decode, "decode_id": id, "decode_position": position, "saver": {"inputs": saved}}
    if inner := memory_in(saver):
        memory["saver"]["memory"] = inner
    become(saver, ELSEWHERE["type"], {"elsewhere": memory})
    saver["inputs"] = inputs | settings | of_widgets


def become_two(prompt: dict, node: dict, taken: set[str]) -> tuple[int, str, dict]:
    """Make a node a saver again. Returns its decode, with the position and the id it is to have."""
    memory = forget(node)["elsewhere"]
    id, decode, was = memory["decode_id"], memory["decode"], memory["saver"]
    if id in prompt or id in taken:
        id = new_id({*prompt, *taken})
    now, saved = node["inputs"], was["inputs"]
    then = settings_of(*(without_links(prompt, values) for values in (decode["inputs"], saved)))
    then = then if isinstance(then, dict) else {}
    changed = {name: value for name, value in now.items() if value != then.get(name)}
    of_saver = {name for name in now if name not in DECODES_OWN or (name == "audio" and "audio" in saved)}
    become(node, OUR_SAVER["type"], was.get("memory"))
    gone = {name for name in (*ELSEWHERE["inputs"], *ELSEWHERE["widgets"]) if name not in now}
    kept = {name: value for name, value in saved.items() if not (is_link(prompt, value) and name in gone)}
    ours = {name: value for name, value in changed.items() if name in of_saver and name in ELSEWHERE["of_saver"]}
    ours |= {name: now[name] for name in ("audio",) if name in of_saver}
    node["inputs"] = {**kept, "video": [id, 0], **ours}
    theirs = {name: value for name, value in changed.items() if name in DECODES_OWN and name not in of_saver}
    decode["inputs"] = {**decode["inputs"], **theirs}
    return memory["decode_position"], id, decode


DECODES_OWN = (*ELSEWHERE["inputs"], *(name for name in ELSEWHERE["of_decode"] if is_moved("of_decode", name)))
