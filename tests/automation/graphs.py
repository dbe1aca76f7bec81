"""Small workflow files for the tests, as the editor writes them."""

from __future__ import annotations

import dataclasses
import json
import re

from async_frame_pipeline.automation import Change

# type -> inputs and outputs, as "name:TYPE"; those in brackets are widgets.
SLOTS = {
    "EmptyLatent": ("", "LATENT:LATENT"),
    "SampleVideoLatent": ("", "samples:LATENT vae:VAE"),
    "VAELoader": ("", "VAE:VAE"),
    "LoadAudio": ("", "AUDIO:AUDIO"),
    "PrimitiveFloat": ("", "FLOAT:FLOAT"),
    "PrimitiveInt": ("", "INT:INT"),
    "VAEDecode": ("samples:LATENT vae:VAE", "IMAGE:IMAGE"),
    "VAEDecodeTiled": ("samples:LATENT vae:VAE [tile_size:INT] [overlap:INT]", "IMAGE:IMAGE"),
    "AsyncVAEDecodeVideo": ("samples:LATENT vae:VAE", "IMAGE:IMAGE"),
    "AsyncVAEDecodeToVideo": ("samples:LATENT vae:VAE audio:AUDIO [fps:FLOAT] [bit_depth:INT]", "VIDEO:VIDEO"),
    "CreateVideo": ("images:IMAGE audio:AUDIO [fps:FLOAT] [bit_depth:INT]", "VIDEO:VIDEO"),
    "SaveVideo": ("video:VIDEO", ""),
    "SaveWEBM": ("images:IMAGE", ""),
    "PreviewImage": ("images:IMAGE", ""),
    "ImageScale": ("image:IMAGE", "IMAGE:IMAGE"),
    "ImageToMask": ("image:IMAGE", "MASK:MASK"),
    "VAEEncode": ("pixels:IMAGE vae:VAE", "LATENT:LATENT"),
    "Reroute": (":*", ":*"),
    "VHS_VideoCombine": (
        "images:IMAGE audio:AUDIO meta_batch:VHS_BatchManager vae:VAE [frame_rate:FLOAT] [filename_prefix:STRING]",
        "Filenames:VHS_FILENAMES",
    ),
    "SaveAnimatedWEBP": ("images:IMAGE [fps:FLOAT] [lossless:BOOLEAN]", "images:IMAGE"),
    "SetNode": ("IMAGE:IMAGE", "*:*"),
    "GetNode": ("", "IMAGE:IMAGE"),
    "easy setNode": ("IMAGE:IMAGE", ""),
    "easy getNode": ("", "IMAGE:IMAGE"),
    "Anything Everywhere": ("IMAGE:IMAGE", ""),
    "Context (rgthree)": ("base_ctx:RGTHREE_CONTEXT images:IMAGE", "CONTEXT:RGTHREE_CONTEXT IMAGE:IMAGE"),
    "easy pipeIn": ("pipe:PIPE_LINE image:IMAGE", "pipe:PIPE_LINE"),
    "easy pipeOut": ("pipe:PIPE_LINE", "pipe:PIPE_LINE image:IMAGE"),
    "SomebodysInterpolation": ("frames:IMAGE", "IMAGE:IMAGE count:INT"),
}
WIDGETS = {
    "PrimitiveFloat": [24.0],
    "VAEDecodeTiled": [512, 64],
    "CreateVideo": [16, 8],
    "AsyncVAEDecodeToVideo": [24, 10],
}


def graph(types: dict[int, str], links: str, *, inside: str | None = None, **fields: dict) -> dict:
    """The nodes and links of a workflow.

    Args:
        types: by node id.
        links: such as "1>8.samples 8>9.images"; "1.2>..." for an output that is not the first.
        inside: id of the subgraph definition this is; links are objects there.
        fields: more fields of a node, by "n" and its id: n8={"title": "Mine"}.
    """
    nodes = {id: node(id, type, **fields.get(f"n{id}", {})) for id, type in types.items()}
    written = []
    for number, (origin, slot, target, name) in enumerate(
        re.findall(r"(-?\d+)(?:\.(\d+))?>(-?\d+)\.(\w*)", links), start=101
    ):
        origin, slot, target = int(origin), int(slot or 0), int(target)
        kind = "IMAGE"
        if origin in nodes:
            output = nodes[origin]["outputs"][slot]
            output["links"] = [*(output["links"] or []), number]
            kind = output["type"]
        target_slot = int(name) if name.isdigit() else 0
        if target in nodes:
            names = [entry["name"] for entry in nodes[target]["inputs"]]
            target_slot = names.index(name)
            entry = nodes[target]["inputs"][target_slot]
            entry["link"] = number
            kind = entry["type"] if kind == "*" or origin not in nodes else kind
        values = (number, origin, slot, target, target_slot, kind)
        keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        written.append(dict(zip(keys, values)) if inside else list(values))
    return {"nodes": list(nodes.values()), "links": written}


def workflow(types: dict[int, str], links: str, *, subgraphs: list[dict] = (), **fields: dict) -> dict:
    """A whole workflow file; see graph()."""
    made = {
        "id": "9ae6082b-c7f4-433c-9971-7a8f65a3ea65",
        "revision": 0,
        "last_node_id": 50,
        "last_link_id": 200,
        **graph(types, links, **fields),
        "groups": [{"id": 1, "title": "Decode", "bounding": [0, -50, 9000, 1000]}],
        "config": {},
        "extra": {"somebodys": [1]},
        "version": 0.4,
    }
    return {**made, "definitions": {"subgraphs": list(subgraphs)}} if subgraphs else made


def subgraph(id: str, types: dict[int, str], links: str, outputs: str = "", inputs: str = "", **fields: dict) -> dict:
    """A subgraph definition; -10 and -20 are its inputs and outputs in links."""
    inner = graph(types, links, inside=id, **fields)
    linked = {"inputs": ("origin_id", -10, "origin_slot"), "outputs": ("target_id", -20, "target_slot")}
    slots = {key: [] for key in linked}
    for key, text in (("inputs", inputs), ("outputs", outputs)):
        end, io_id, io_slot = linked[key]
        for position, (name, kind) in enumerate(pairs(text)):
            ids = [link["id"] for link in inner["links"] if link[end] == io_id and link[io_slot] == position]
            slots[key].append({"id": f"{key}{position}", "name": name, "type": kind, "linkIds": ids})
    return {
        "id": id,
        "version": 1,
        "state": {"lastNodeId": 60, "lastLinkId": 300},
        "revision": 0,
        "config": {},
        "name": f"Subgraph {id}",
        "inputNode": {"id": -10, "bounding": [0, 0, 120, 60]},
        "outputNode": {"id": -20, "bounding": [9000, 0, 120, 60]},
        **slots,
        "widgets": [],
        "groups": [],
        **inner,
    }


def node(id: int, type: str, *, inputs: str = "", outputs: str = "", **fields: object) -> dict:
    """One node; inputs and outputs where they are not as SLOTS has them."""
    if not inputs and not outputs:
        inputs, outputs = SLOTS.get(type, ("", ""))
    entries = []
    for name, kind in pairs(inputs):
        widget = name.startswith("[")
        name, kind = name.strip("[]"), kind.strip("]")
        entries.append({"name": name, "type": kind, "link": None} | ({"widget": {"name": name}} if widget else {}))
    return {
        "id": id,
        "type": type,
        "pos": [id * 300, id * 10.5],
        "size": [210, 78],
        "flags": {},
        "order": id,
        "mode": 0,
        "inputs": entries,
        "outputs": [{"name": name, "type": kind, "links": None} for name, kind in pairs(outputs)],
        "properties": {"cnr_id": "comfy-core", "ver": "0.3.64", "Node name for S&R": type},
        "widgets_values": WIDGETS.get(type, []),
        **fields,
    }


def pairs(text: str) -> list[tuple[str, str]]:
    return [tuple(part.split(":")) for part in text.split()]


# ---------------------------------------------------------------------------- looking at one


def by_id(workflow: dict) -> dict[int, dict]:
    return {node["id"]: node for node in workflow["nodes"]}


def connections(graph: dict) -> set[str]:
    """Links as "origin.slot>target.input", of a graph that has no flaws."""
    assert flaws(graph) == []
    nodes = by_id(graph)
    found = set()
    for _, origin, slot, target, target_slot, _ in map(fields_of, graph["links"]):
        name = nodes[target]["inputs"][target_slot]["name"] if target in nodes else target_slot
        found.add(f"{origin}.{slot}>{target}.{name}")
    return found


def flaws(graph: dict) -> list[str]:
    """Where a graph's links and slots do not agree."""
    nodes, found = by_id(graph), []
    for id, origin, slot, target, target_slot, _ in map(fields_of, graph["links"]):
        outputs = nodes.get(origin, {}).get("outputs") or []
        inputs = nodes.get(target, {}).get("inputs") or []
        if origin != -10 and not (slot < len(outputs) and id in (outputs[slot].get("links") or [])):
            found.append(f"link {id} is not known to its origin {origin}")
        if target != -20 and not (target_slot < len(inputs) and inputs[target_slot].get("link") == id):
            found.append(f"link {id} is not known to its target {target}")
    ids = [fields_of(link)[0] for link in graph["links"]]
    found += [f"link {id} is there twice" for id in {id for id in ids if ids.count(id) > 1}]
    for node in nodes.values():
        known = {slot.get("link") for slot in node.get("inputs") or []}
        known |= {id for slot in node.get("outputs") or [] for id in slot.get("links") or []}
        found += [f"node {node['id']} knows of a link {id} that there is not" for id in known - {None, *ids}]
    return sorted(found)


def fields_of(link: list | dict) -> list:
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    return link if isinstance(link, list) else [link[key] for key in keys]


def written(workflow: dict) -> str:
    """A workflow as text, its order included; 34 and 34.0 are one number, as in the browser."""
    return json.dumps(json.loads(json.dumps(workflow), parse_int=float))


def as_json(changes: list[Change]) -> list[dict]:
    """Changes as the browser's code returns them."""
    return json.loads(json.dumps([dataclasses.asdict(change) for change in changes]))
