// A serialised workflow as graphs of nodes and links; changes go to the JSON itself. Its twin is automation/graph.py.
//
// Knows the format, not the swap.
import { BROADCASTS, RELAYS } from './swap_rules.js'

// What stands for a subgraph's own inputs and outputs in the links inside it.
const INPUTS_ID = -10
const OUTPUTS_ID = -20
const LINK_FIELDS = ['id', 'origin_id', 'origin_slot', 'target_id', 'target_slot', 'type']

export const inputs = (node) => node.inputs ?? []
export const named = (node, name) => inputs(node).find((slot) => slot.name === name)
export const withLinksOf = (node, slots) =>
  slots.map((slot) => ({ ...slot, link: named(node, slot.name)?.link ?? null }))
export const xy = (pair) => [pair[0], pair[1]]

export const valuesIn = ({ widgets_values: values }) => Object.values(values ?? []) // a list, or an object by name

const relayedName = ({ widgets_values: values }) =>
  Array.isArray(values) && typeof values[0] === 'string' ? values[0] : null

export const get = (link, field) => (Array.isArray(link) ? link[LINK_FIELDS.indexOf(field)] : link[field])
export const put = (link, field, value) => {
  link[Array.isArray(link) ? LINK_FIELDS.indexOf(field) : field] = value
}
const positions = (ids) => new Map(ids.map((id, position) => [id, position]))

/** The workflow (id null), or the definition of a subgraph; changes go to the JSON itself. */
class Graph {
  #toPlace = []

  constructor(raw, id, name) {
    Object.assign(this, { raw, id, name })
    this.links = raw.links ?? []
    this.nodes = new Map(raw.nodes.map((node) => [node.id, node]))
    this.nodePositions = positions(raw.nodes.map((node) => node.id))
    this.linkPositions = positions(this.links.map((link) => get(link, 'id')))
  }

  linksFrom(nodeId, slot = null) {
    return this.links.filter(
      (link) => get(link, 'origin_id') === nodeId && (slot === null || get(link, 'origin_slot') === slot)
    )
  }

  linksTo(nodeId) {
    return this.links.filter((link) => get(link, 'target_id') === nodeId)
  }

  linksInto(node, name) {
    const id = named(node, name)?.link ?? null
    return id === null ? [] : this.links.filter((link) => get(link, 'id') === id)
  }

  isKnownToTarget(link) {
    const slot = inputs(this.nodes.get(get(link, 'target_id')))[get(link, 'target_slot')]
    return slot?.link === get(link, 'id')
  }

  isRerouted(link) {
    if (!Array.isArray(link)) return link.parentId != null
    return (this.raw.extra?.linkExtensions ?? []).some((bend) => bend.id === link[0])
  }

  /** The types that a link may bring. */
  typesOf(link) {
    const origin = get(link, 'origin_id')
    const slots = origin === INPUTS_ID ? this.raw.inputs : this.nodes.get(origin)?.outputs
    const slot = slots?.[get(link, 'origin_slot')]
    const type = slot ? slot.type : get(link, 'type')
    return typeof type === 'string' ? type.split(',') : []
  }

  aimLinks(node) {
    const links = new Map(this.links.map((link) => [get(link, 'id'), link]))
    inputs(node).forEach((slot, position) => {
      const link = links.get(slot.link)
      if (!link) return
      put(link, 'target_id', node.id)
      put(link, 'target_slot', position)
    })
  }

  newLink(type) {
    const link = { id: null, origin_id: 0, origin_slot: 0, target_id: 0, target_slot: 0, type }
    const asObject = this.links.length ? !Array.isArray(this.links[0]) : this.id !== null
    return asObject ? link : Object.values(link)
  }

  remove(node, link) {
    drop(this.raw.nodes, node)
    drop(this.links, link)
    this.nodes.delete(node.id)
    this.linkPositions.delete(get(link, 'id'))
  }

  add(node, link, nodePosition, linkPosition) {
    this.nodes.set(node.id, node)
    this.linkPositions.set(get(link, 'id'), linkPosition)
    this.raw.nodes.push(node)
    this.links.push(link)
    this.raw.links = this.links
    if (nodePosition != null) this.#toPlace.push([this.raw.nodes, nodePosition, node])
    if (linkPosition != null) this.#toPlace.push([this.links, linkPosition, link])
  }

  putInPlace() {
    for (const [items, , item] of this.#toPlace) drop(items, item)
    for (const [items, position, item] of this.#toPlace.sort((a, b) => a[1] - b[1])) items.splice(position, 0, item)
  }
}

const drop = (items, item) => items.splice(items.indexOf(item), 1)

/** A workflow with its subgraph definitions. */
export class Workflow {
  #definitions = new Map()
  #groups

  constructor(workflow) {
    this.workflow = workflow
    this.#groups = workflow.extra?.groupNodes ?? {}
    this.graphs = [new Graph(workflow, null, '')]
    this.#collect(workflow)
  }

  #collect(owner) {
    for (const definition of owner.definitions?.subgraphs ?? []) {
      const graph = new Graph(definition, definition.id, definition.name ?? '')
      this.graphs.push(graph)
      this.#definitions.set(graph.id, graph)
      this.#collect(definition)
    }
  }

  /** [graph, node] of every node that stands for a subgraph. */
  hosts(graph) {
    return this.graphs.flatMap((outer) =>
      [...outer.nodes.values()].filter((node) => node.type === graph.id).map((node) => [outer, node])
    )
  }

  groupName(node) {
    const name = node.type.slice('workflow>'.length)
    return /^workflow[>/]/.test(node.type) && Object.hasOwn(this.#groups, name) ? name : null
  }

  /** The nodes that a legacy group node stands for; none for other nodes. */
  grouped(node, outer = []) {
    const name = this.groupName(node)
    if (name === null || outer.includes(name)) return []
    const { nodes } = this.#groups[name]
    return [...nodes, ...nodes.flatMap((inner) => this.grouped(inner, [...outer, name]))]
  }

  /** [graph, node] of the Get nodes of a Set node. */
  getters(graph, setter) {
    const name = relayedName(setter)
    return this.graphs.flatMap((inner) =>
      [...inner.nodes.values()]
        .filter(
          (node) =>
            name !== null &&
            node.type === RELAYS[setter.type] &&
            relayedName(node) === name &&
            this.#nearest(inner, setter.type, name).includes(graph)
        )
        .map((node) => [inner, node])
    )
  }

  /** [graph, node] of the Set nodes of a Get node. */
  setters(graph, getter) {
    return this.graphs.flatMap((inner) =>
      [...inner.nodes.values()]
        .filter((node) => Object.hasOwn(RELAYS, node.type) && RELAYS[node.type] === getter.type)
        .filter((node) => this.getters(inner, node).some(([, each]) => each === getter))
        .map((node) => [inner, node])
    )
  }

  #nearest(graph, type, name) {
    const found = []
    const around = [graph]
    for (const each of around) {
      if ([...each.nodes.values()].some((node) => node.type === type && relayedName(node) === name)) found.push(each)
      else
        around.push(
          ...this.hosts(each)
            .map(([outer]) => outer)
            .filter((outer) => !around.includes(outer))
        )
    }
    return found
  }

  /**
   * Where a node's outputs of these types end up: the nodes reached that do not hand on what they get; and where they
   * are lost sight of.
   */
  ends(graph, node, types, handsOn) {
    const ends = []
    const lost = []
    const seen = new Set()
    const todo = [[graph, node.id, null]]
    while (todo.length) {
      const [graph, originId, originSlot] = todo.pop()
      for (const link of graph.linksFrom(originId, originSlot)) {
        const key = `${graph.id} ${get(link, 'id')}`
        if (!graph.typesOf(link).some((type) => [...types, '*'].includes(type)) || seen.has(key)) continue
        seen.add(key)
        const slot = get(link, 'target_slot')
        const target = graph.nodes.get(get(link, 'target_id'))
        const inner = target && this.#definitions.get(target.type)
        if (get(link, 'target_id') === OUTPUTS_ID)
          for (const [outer, host] of this.hosts(graph)) todo.push([outer, host.id, slot])
        else if (inner) todo.push([inner, INPUTS_ID, this.#innerSlot(inner, target, slot)])
        else if (target) {
          if (![target, ...this.grouped(target)].every(handsOn)) ends.push(target)
          else if (BROADCASTS.includes(target.type)) lost.push(['broadcast', target.type])
          else {
            todo.push([graph, target.id, null])
            if (!Object.hasOwn(RELAYS, target.type)) continue
            const getters = this.getters(graph, target)
            for (const [inner, getter] of getters) todo.push([inner, getter.id, null])
            if (!getters.length) lost.push(['nothing_gets', relayedName(target) ?? ''])
          }
        }
      }
    }
    return { ends, lost }
  }

  /** [graph, node] of the nodes that what comes into an input comes out of. */
  sources(graph, node, name) {
    const found = []
    const seen = new Set()
    const todo = graph.linksInto(node, name).map((link) => [graph, link])
    while (todo.length) {
      const [graph, link] = todo.pop()
      const key = `${graph.id} ${get(link, 'id')}`
      if (seen.has(key)) continue
      seen.add(key)
      const [originId, slot] = [get(link, 'origin_id'), get(link, 'origin_slot')]
      const origin = graph.nodes.get(originId)
      const inner = origin && this.#definitions.get(origin.type)
      if (originId === INPUTS_ID) {
        const { name } = graph.raw.inputs[slot]
        for (const [outer, host] of this.hosts(graph))
          todo.push(...outer.linksInto(host, name).map((link) => [outer, link]))
      } else if (inner) {
        const out = inner.linksTo(OUTPUTS_ID).filter((link) => get(link, 'target_slot') === slot)
        todo.push(...out.map((link) => [inner, link]))
      } else if (origin && Object.values(RELAYS).includes(origin.type)) {
        for (const [outer, setter] of this.setters(graph, origin))
          todo.push(...outer.linksTo(setter.id).map((link) => [outer, link]))
      } else if (origin) found.push([graph, origin])
    }
    return found
  }

  /** What a node's widget may be set to by its link. */
  setFromOutside(graph, node, name) {
    return graph.linksInto(node, name).flatMap((link) => {
      const slot = get(link, 'origin_slot')
      if (get(link, 'origin_id') !== INPUTS_ID) return valuesIn(graph.nodes.get(get(link, 'origin_id')) ?? {})
      const { name } = graph.raw.inputs[slot]
      return this.hosts(graph).flatMap(([outer, host]) =>
        outer.linksInto(host, name).length ? this.setFromOutside(outer, host, name) : this.#shown(graph, host, slot)
      )
    })
  }

  #shown(graph, host, slot) {
    const toWidgets = new Set()
    for (const link of graph.linksFrom(INPUTS_ID)) {
      const target = graph.nodes.get(get(link, 'target_id')) ?? {}
      if (inputs(target)[get(link, 'target_slot')]?.widget) toWidgets.add(get(link, 'origin_slot'))
    }
    const values = valuesIn(host)
    const at = [...toWidgets].sort((a, b) => a - b).indexOf(slot)
    return at !== -1 && values.length === toWidgets.size ? [values[at]] : []
  }

  #innerSlot(inner, host, slot) {
    const name = inputs(host)[slot]?.name // a damaged link may lead to a slot that is not there
    const position = (inner.raw.inputs ?? []).findIndex((entry) => entry.name === name)
    return position === -1 ? slot : position
  }

  newId(kind) {
    const counter = kind === 'node' ? 'NodeId' : 'LinkId'
    const owners = [
      [this.workflow, `last_${kind}_id`],
      ...this.graphs.map((graph) => [graph.raw.state ?? {}, `last${counter}`])
    ].filter(([owner, key]) => key in owner)
    const used = this.graphs.flatMap((graph) => [...(kind === 'node' ? graph.nodes : graph.linkPositions).keys()])
    const highest = [0, ...used, ...owners.map(([owner, key]) => owner[key])].filter(Number.isInteger)
    const id = 1 + Math.max(...highest)
    for (const [owner, key] of owners) owner[key] = id
    return id
  }
}
