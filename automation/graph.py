"""A workflow file as graphs of nodes and links; changes go to the JSON itself. web/js/swap_graph.js is its twin.

Knows the format, not the swap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .rules import BROADCASTS, RELAYS

# What stands for a subgraph's own inputs and outputs in the links inside it.
INPUTS_ID, OUTPUTS_ID = -10, -20
LINK_FIELDS = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")


def inputs(node: dict) -> list[dict]:
    return node.get("inputs") or []


def named(node: dict, name: str) -> dict:
    """A node's input of this name; an empty one where it has none."""
    return next((slot for slot in inputs(node) if slot["name"] == name), {})


def with_links_of(node: dict, slots: list[dict]) -> list[dict]:
    """Inputs that are linked as the inputs of the same names are in a node now."""
    return [{**slot, "link": named(node, slot["name"]).get("link")} for slot in slots]


def properties_of(node: dict) -> dict:
    return node.get("properties") or {}


def values_in(node: dict) -> list:
    """The values of a node's widgets; the editor saves a list, some packs an object."""
    values = node.get("widgets_values") or []
    return list(values.values()) if isinstance(values, dict) else values


def xy(pair: list | dict) -> list:
    return pair if isinstance(pair, list) else [pair["0"], pair["1"]]  # very old files have an object


def relayed_name(node: dict) -> str | None:
    """What a Set or Get node's frames are called; those of one name belong together, without a link."""
    values = node.get("widgets_values")
    return values[0] if isinstance(values, list) and values and isinstance(values[0], str) else None


def get(link: list | dict, field: str) -> object:
    """A field of a link: an array in most workflows, an object in subgraphs."""
    return link[LINK_FIELDS.index(field)] if isinstance(link, list) else link[field]


def put(link: list | dict, field: str, value: object) -> None:
    link[LINK_FIELDS.index(field) if isinstance(link, list) else field] = value


class Graph:
    """A workflow, or the definition of a subgraph; changes go to the JSON itself.

    Attributes:
        id, name: None and "" for the workflow.
        links: as they are in the JSON.
        nodes: by id.
        node_positions, link_positions: where each was in the file, by id.
    """

    def __init__(self, raw: dict, id: str | None, name: str):
        self.raw, self.id, self.name = raw, id, name
        self.links = raw.get("links") or []
        self.nodes = {node["id"]: node for node in raw["nodes"]}
        self.node_positions = {node["id"]: position for position, node in enumerate(raw["nodes"])}
        self.link_positions = {get(link, "id"): position for position, link in enumerate(self.links)}
        self._to_place = []  # (list, position, item)

    def links_from(self, node_id: object, slot: int | None = None) -> Iterator[list | dict]:
        """Links out of one output of a node, or out of all."""
        for link in self.links:
            if get(link, "origin_id") == node_id and slot in (None, get(link, "origin_slot")):
                yield link

    def links_to(self, node_id: object) -> Iterator[list | dict]:
        return (link for link in self.links if get(link, "target_id") == node_id)

    def links_into(self, node: dict, name: str) -> Iterator[list | dict]:
        """The link to a node's input of this name, if there is one."""
        id = named(node, name).get("link")
        return (link for link in self.links if id is not None and get(link, "id") == id)

    def is_known_to_target(self, link: list | dict) -> bool:
        slots = inputs(self.nodes[get(link, "target_id")])
        slot = get(link, "target_slot")
        return slot < len(slots) and slots[slot].get("link") == get(link, "id")

    def is_rerouted(self, link: list | dict) -> bool:
        """Whether a link goes through reroute points (the dots on a link; Reroute nodes are nodes)."""
        if isinstance(link, dict):
            return link.get("parentId") is not None
        return any(bend["id"] == link[0] for bend in (self.raw.get("extra") or {}).get("linkExtensions") or [])

    def types_of(self, link: list | dict) -> list[str]:
        """The types that a link may bring. Its own is that of the input it goes to, which may take several."""
        origin, position = get(link, "origin_id"), get(link, "origin_slot")
        slots = self.raw.get("inputs") if origin == INPUTS_ID else self.nodes.get(origin, {}).get("outputs")
        kind = slots[position].get("type") if slots and position < len(slots) else get(link, "type")
        return kind.split(",") if isinstance(kind, str) else []

    def aim_links(self, node: dict) -> None:
        """Make the links of a node's inputs end in it."""
        links = {get(link, "id"): link for link in self.links}
        for position, slot in enumerate(inputs(node)):
            if slot.get("link") in links:
                put(links[slot["link"]], "target_id", node["id"])
                put(links[slot["link"]], "target_slot", position)

    def new_link(self, kind: str) -> list | dict:
        link = dict.fromkeys(LINK_FIELDS, 0) | {"id": None, "type": kind}
        as_object = isinstance(self.links[0], dict) if self.links else self.id is not None
        return link if as_object else list(link.values())

    def remove(self, node: dict, link: list | dict) -> None:
        self.raw["nodes"].remove(node)
        self.links.remove(link)
        del self.nodes[node["id"]], self.link_positions[get(link, "id")]

    def add(self, node: dict, link: list | dict, node_position: int | None, link_position: int | None) -> None:
        """Add a node and a link: last, until put_in_place moves them to their positions in the file."""
        self.nodes[node["id"]] = node
        self.link_positions[get(link, "id")] = link_position
        self.raw["links"] = self.links
        for items, position, item in ((self.raw["nodes"], node_position, node), (self.links, link_position, link)):
            items.append(item)
            if position is not None:
                self._to_place.append((items, position, item))

    def put_in_place(self) -> None:
        for items, _, item in self._to_place:
            items.remove(item)
        # Lowest first: each then finds everything that was before it back in place.
        for items, position, item in sorted(self._to_place, key=lambda entry: entry[1]):
            items.insert(position, item)


class Workflow:
    """A workflow with its subgraph definitions. Attribute graphs: the workflow itself comes first."""

    def __init__(self, workflow: dict):
        self.workflow = workflow
        self._groups = (workflow.get("extra") or {}).get("groupNodes") or {}
        self.graphs = [Graph(workflow, None, "")]
        self._definitions: dict[str, Graph] = {}
        self._collect(workflow)

    def _collect(self, owner: dict) -> None:
        for definition in (owner.get("definitions") or {}).get("subgraphs") or []:
            graph = Graph(definition, definition["id"], definition.get("name") or "")
            self.graphs.append(graph)
            self._definitions[graph.id] = graph
            self._collect(definition)

    def hosts(self, graph: Graph) -> list[tuple[Graph, dict]]:
        """The nodes that stand for a subgraph, and the graphs they are in."""
        return [(outer, node) for outer in self.graphs for node in outer.nodes.values() if node["type"] == graph.id]

    def group_name(self, node: dict) -> str | None:
        """The name of a legacy group node, of which a workflow holds the nodes beside its own; None for others."""
        name = node["type"][len("workflow>") :]
        return name if node["type"].startswith(("workflow>", "workflow/")) and name in self._groups else None

    def grouped(self, node: dict, outer: tuple[str, ...] = ()) -> list[dict]:
        """The nodes that a group node stands for, those of group nodes in it included; none for other nodes."""
        name = self.group_name(node)
        if name is None or name in outer:
            return []
        nodes = self._groups[name]["nodes"]
        return nodes + [each for inner in nodes for each in self.grouped(inner, (*outer, name))]

    def getters(self, graph: Graph, setter: dict) -> list[tuple[Graph, dict]]:
        """The Get nodes of a Set node: those that come upon it first in their own graph, or going outwards."""
        name = relayed_name(setter)
        return [
            (inner, node)
            for inner in self.graphs
            for node in inner.nodes.values()
            if name is not None
            and node["type"] == RELAYS[setter["type"]]
            and relayed_name(node) == name
            and graph in self._nearest(inner, setter["type"], name)
        ]

    def setters(self, graph: Graph, getter: dict) -> list[tuple[Graph, dict]]:
        """The Set nodes of a Get node."""
        return [
            (inner, node)
            for inner in self.graphs
            for node in inner.nodes.values()
            if RELAYS.get(node["type"]) == getter["type"]
            and any(getter is each for _, each in self.getters(inner, node))
        ]

    def _nearest(self, graph: Graph, kind: str, name: str) -> list[Graph]:
        found, around = [], [graph]
        for each in around:  # which grows
            if any(node["type"] == kind and relayed_name(node) == name for node in each.nodes.values()):
                found.append(each)
            else:
                around += [outer for outer, _ in self.hosts(each) if outer not in around]
        return found

    def ends(
        self, graph: Graph, node: dict, kinds: tuple[str, ...], hands_on: Callable[[dict], bool]
    ) -> tuple[list[dict], list[tuple[str, str]]]:
        """Where a node's outputs end up.

        Args:
            kinds: link types to follow; links of any type ("*") are followed too.
            hands_on: whether a node that is reached hands on what it gets, so that its own outputs are followed.
        Returns:
            The nodes reached that do not hand on, each as often as a link reaches it. A group node is one if any node
            in it is. And where they are lost sight of: a key of the rules' reasons, with the name of the node.
        """
        ends, lost, seen, todo = [], [], set(), [(graph, node["id"], None)]
        while todo:
            graph, origin_id, origin_slot = todo.pop()
            for link in graph.links_from(origin_id, origin_slot):
                if not {*kinds, "*"} & {*graph.types_of(link)} or (graph.id, get(link, "id")) in seen:
                    continue
                seen.add((graph.id, get(link, "id")))
                target_id, slot = get(link, "target_id"), get(link, "target_slot")
                if target_id == OUTPUTS_ID:
                    todo += [(outer, host["id"], slot) for outer, host in self.hosts(graph)]
                elif (target := graph.nodes.get(target_id)) is None:
                    continue
                elif inner := self._definitions.get(target["type"]):
                    todo.append((inner, INPUTS_ID, self._inner_slot(inner, target, slot)))
                elif not all(map(hands_on, [target, *self.grouped(target)])):
                    ends.append(target)
                elif target["type"] in BROADCASTS:
                    lost.append(("broadcast", target["type"]))
                else:
                    todo.append((graph, target_id, None))
                    if target["type"] in RELAYS:
                        getters = self.getters(graph, target)
                        todo += [(inner, getter["id"], None) for inner, getter in getters]
                        lost += [] if getters else [("nothing_gets", relayed_name(target) or "")]
        return ends, lost

    def sources(self, graph: Graph, node: dict, name: str) -> list[tuple[Graph, dict]]:
        """The nodes that what comes into an input comes out of, with subgraphs and Get nodes looked through. Several
        where a subgraph is there more than once.
        """
        found, seen, todo = [], set(), [(graph, link) for link in graph.links_into(node, name)]
        while todo:
            graph, link = todo.pop()
            if (graph.id, get(link, "id")) in seen:
                continue
            seen.add((graph.id, get(link, "id")))
            origin_id, slot = get(link, "origin_id"), get(link, "origin_slot")
            origin = graph.nodes.get(origin_id)
            if origin_id == INPUTS_ID:
                name = graph.raw["inputs"][slot]["name"]
                todo += [(outer, link) for outer, host in self.hosts(graph) for link in outer.links_into(host, name)]
            elif origin and (inner := self._definitions.get(origin["type"])):
                todo += [(inner, link) for link in inner.links_to(OUTPUTS_ID) if get(link, "target_slot") == slot]
            elif origin and origin["type"] in RELAYS.values():
                setters = self.setters(graph, origin)
                todo += [(outer, link) for outer, setter in setters for link in outer.links_to(setter["id"])]
            elif origin:
                found.append((graph, origin))
        return found

    def set_from_outside(self, graph: Graph, node: dict, name: str) -> list:
        """What a node's widget may be set to by its link: the values of nodes, and of widgets of subgraphs' nodes."""
        found = []
        for link in graph.links_into(node, name):
            slot = get(link, "origin_slot")
            if get(link, "origin_id") != INPUTS_ID:
                found += values_in(graph.nodes.get(get(link, "origin_id"), {}))
                continue
            name = graph.raw["inputs"][slot]["name"]
            for outer, host in self.hosts(graph):
                is_linked = any(outer.links_into(host, name))
                found += self.set_from_outside(outer, host, name) if is_linked else self._shown(graph, host, slot)
        return found

    def _shown(self, graph: Graph, host: dict, slot: int) -> list:
        """The value of the widget that the node of a subgraph shows of its input at `slot`, if the file has it."""
        to_widgets = set()
        for link in graph.links_from(INPUTS_ID):
            slots, at = inputs(graph.nodes.get(get(link, "target_id"), {})), get(link, "target_slot")
            if at < len(slots) and slots[at].get("widget"):
                to_widgets.add(get(link, "origin_slot"))
        values = values_in(host)
        return [values[sorted(to_widgets).index(slot)]] if slot in to_widgets and len(values) == len(to_widgets) else []

    def _inner_slot(self, inner: Graph, host: dict, slot: int) -> int:
        """Position among a subgraph's inputs. Its node may show them in another order, and widgets between them."""
        slots = inputs(host)
        name = slots[slot]["name"] if slot < len(slots) else None  # a damaged link may lead to a slot that is not there
        return next((i for i, entry in enumerate(inner.raw.get("inputs") or []) if entry["name"] == name), slot)

    def new_id(self, kind: str) -> int:
        """An id that no node ("node") or link ("link") has, and that none will get."""
        used = [id for graph in self.graphs for id in (graph.nodes if kind == "node" else graph.link_positions)]
        states = [graph.raw["state"] for graph in self.graphs if isinstance(graph.raw.get("state"), dict)]
        counters = [(self.workflow, f"last_{kind}_id")] + [(state, f"last{kind.title()}Id") for state in states]
        counters = [(owner, key) for owner, key in counters if key in owner]
        new = 1 + max(id for id in [0, *used, *(owner[key] for owner, key in counters)] if isinstance(id, int))
        for owner, key in counters:
            owner[key] = new
        return new
