// The swap in a workflow as the editor serialises it: which decodes, for what, and back.
//
// automation/workflow_file.py does the same to files, function by function. The rules are in ../swap/rules.json, and
// tests/automation/cases is what both must do. This file knows nothing of the editor.
import { Workflow, get, inputs, named, put, withLinksOf, xy } from './swap_graph.js'
import {
  CREATE_VIDEO,
  DECODES,
  DECODE_INPUTS,
  FRAME_TYPES,
  LAYOUT,
  MEMORY,
  NAMES,
  OURS,
  PACKS,
  PACK_PROPERTIES,
  REASONS,
  RELAYS,
  VIDEO_NODES,
  reason
} from './swap_rules.js'

const NAMED = 'widgets_values_named'
const WIDGET_VALUES = ['widgets_values', NAMED]

/**
 * Put this pack's decoders in the place of the stock ones.
 *
 * @param workflow as serialised; not modified.
 * @param only {graph, node}: swap this one decode, whatever its frames are for. `graph` is the id of the subgraph
 *     definition it is in, or null. Without it, the whole workflow by the rules.
 * @param pair whether a Create Video may be swapped with its decode.
 * @param tiled without `only`: swap VAE Decode (Tiled) too.
 * @returns {workflow, changes}: the new workflow, and for each decode {graph, nodes, before, after, reason, subgraph}.
 */
export function swap(workflow, { only = null, pair = true, tiled = false } = {}) {
  const file = new Workflow(structuredClone(workflow))
  const plans = file.graphs.flatMap((graph) =>
    [...graph.nodes.values()]
      .filter((node) => Object.hasOwn(DECODES, node.type) && (!only || isMeant(graph, node, only)))
      .map((decode) => {
        const plan = only ? decideOne(file, graph, decode, pair) : decide(file, graph, decode, pair, tiled)
        return { graph, decode, ...plan }
      })
  )
  const changes = plans.map(({ graph, decode, video, why }) => {
    const nodes = video ? [decode, video] : [decode]
    const [ids, before] = [nodes.map((node) => node.id), nodes.map((node) => node.type)]
    if (why) return change(graph, ids, before, [], why)
    if (video) becomePair(graph, decode, video)
    else becomeAsync(graph, decode)
    return change(graph, ids, before, [nodes.at(-1).type])
  })
  const inGroupNodes = only ? [] : file.graphs.flatMap((graph) => leftInGroupNodes(file, graph))
  return { workflow: file.workflow, changes: [...changes, ...inGroupNodes] }
}

const leftInGroupNodes = (file, graph) =>
  [...graph.nodes.values()].flatMap((host) =>
    file
      .grouped(host)
      .filter((node) => Object.hasOwn(DECODES, node.type))
      .map((node) => change(graph, [host.id], [node.type], [], reason('in_group_node', file.groupName(host))))
  )

/** The reverse of `swap`; `only` as there. */
export function restore(workflow, { only = null } = {}) {
  const file = new Workflow(structuredClone(workflow))
  const changes = []
  for (const graph of file.graphs) {
    for (const node of [...graph.nodes.values()]) {
      const before = node.type
      if (!Object.hasOwn(OURS, before) || (only && !isMeant(graph, node, only))) continue
      const after = isPair(node) ? restorePair(file, graph, node) : [restoreDecode(graph, node)]
      const types = after.map((node) => node.type)
      changes.push(change(graph, [node.id], [before], types))
    }
    graph.putInPlace()
  }
  return { workflow: file.workflow, changes }
}

/** Whether this decode and the Create Video after it can become one node. */
export function canPair(workflow, only) {
  return new Workflow(workflow).graphs.some((graph) =>
    [...graph.nodes.values()].some((node) => isMeant(graph, node, only) && createVideoOf(graph, node))
  )
}

// The editor's own ids are strings where the serialised ones are numbers.
const isMeant = (graph, node, only) => graph.id === only.graph && String(node.id) === String(only.node)

const change = (graph, nodes, before, after, why = '') => ({
  graph: graph.id,
  nodes,
  before,
  after,
  reason: why,
  subgraph: graph.name
})

// ---------------------------------------------------------------------------- what to do

function decide(file, graph, decode, pair, tiled) {
  if (DECODES[decode.type].tiled && !tiled) return { why: REASONS.in_tiles }
  const { ends: videos, lost } = file.ends(graph, decode, FRAME_TYPES, (node) => !VIDEO_NODES.includes(node.type))
  if (!videos.length) return { why: lost.length ? reason(...lost[0]) : REASONS.not_a_video }
  const chosen = decideOne(file, graph, decode, pair)
  const uses = chosen.video && file.ends(graph, chosen.video, ['VIDEO'], isPassive).ends
  return uses?.length > 1 ? {} : chosen
}

function decideOne(file, graph, decode, pair) {
  if (tilesInUse(file, graph, decode)) return { why: REASONS.tiles_in_use }
  return { video: pair ? createVideoOf(graph, decode) : null }
}

const isPassive = ({ type }) => ['Reroute', ...Object.entries(RELAYS).flat()].includes(type)

function tilesInUse(file, graph, decode) {
  if (!DECODES[decode.type].tiled) return false
  const linked = inputs(decode).some((slot) => !DECODE_INPUTS.includes(slot.name) && slot.link != null)
  const shown = file.hosts(graph).flatMap(([, host]) => host.properties?.proxyWidgets ?? [])
  return linked || shown.some((widget) => String(widget[0]) === String(decode.id))
}

function createVideoOf(graph, decode) {
  const fed = graph.linksFrom(decode.id)
  const video = fed.length === 1 ? graph.nodes.get(get(fed[0], 'target_id')) : null
  if (video?.type !== CREATE_VIDEO.type || (video.mode ?? 0) !== (decode.mode ?? 0)) return null
  const coming = [decode, video].flatMap((node) => graph.linksTo(node.id))
  const sound = coming.every((link) => graph.isKnownToTarget(link))
  const takesImages = named(video, CREATE_VIDEO.frames)?.link === get(fed[0], 'id')
  return takesImages && sound && !graph.isRerouted(fed[0]) ? video : null
}

// ---------------------------------------------------------------------------- there

const decodeInputs = (node) => inputs(node).filter((slot) => DECODE_INPUTS.includes(slot.name))

function becomeAsync(graph, decode) {
  become(decode, DECODES[decode.type].alone, { decode: remember(decode, ...WIDGET_VALUES) })
  const { widgets } = OURS[decode.type]
  decode.inputs = decodeInputs(decode)
  decode.widgets_values = Object.values(widgets)
  if (NAMED in decode) decode[NAMED] = { ...widgets }
  graph.aimLinks(decode)
}

function becomePair(graph, decode, video) {
  const [link] = graph.linksFrom(decode.id)
  const memory = {
    create_video: remember(video, 'pos'),
    decode,
    decode_position: graph.nodePositions.get(decode.id),
    link,
    link_position: graph.linkPositions.get(get(link, 'id'))
  }
  become(video, DECODES[decode.type].pair, { ...memory, pos: growUpwards(video) })
  const { widgets } = OURS[video.type]
  video.inputs = [...decodeInputs(decode), ...inputs(video).filter((slot) => slot.name !== CREATE_VIDEO.frames)]
  if (Array.isArray(video.widgets_values) && video.widgets_values.length === CREATE_VIDEO.widgets.length)
    video.widgets_values = [...video.widgets_values, ...Object.values(widgets)]
  if (NAMED in video) video[NAMED] = { ...video[NAMED], ...widgets }
  graph.remove(decode, link)
  graph.aimLinks(video)
}

function growUpwards(video) {
  const missing = Math.max(0, LAYOUT.pair_height - xy(video.size)[1])
  if (missing && !video.flags?.collapsed) {
    const [[x, y], [width, height]] = [xy(video.pos), xy(video.size)]
    Object.assign(video, { pos: [x, y - missing], size: [width, height + missing] })
  }
  return video.pos
}

function become(node, type, memory) {
  if (node.title === NAMES[node.type]) delete node.title
  const properties = { ...node.properties }
  for (const key of PACK_PROPERTIES) delete properties[key]
  node.properties = { ...properties, cnr_id: PACKS.ours, [MEMORY.key]: structuredClone(memory) }
  node.type = type
}

function remember(node, ...more) {
  const keys = ['type', 'size', 'title', 'inputs', 'properties', ...more].filter((key) => key in node)
  return Object.fromEntries(keys.map((key) => [key, node[key]]))
}

// ---------------------------------------------------------------------------- and back

const isPair = (node) => OURS[node.type].stock.length > 1

/** What a swap remembered in a node; null where that is not there, or not all of it. */
function memoryOf(node) {
  const memory = node.properties?.[MEMORY.key]
  const parts = Object.entries(isPair(node) ? MEMORY.pair : MEMORY.alone)
  const whole = parts.every(([part, keys]) => memory?.[part] && keys.every((key) => memory[part][key] != null))
  return whole ? memory : null
}

function restoreDecode(graph, node) {
  const memory = memoryOf(node) ?? { decode: stockDecode(node) }
  revert(node, memory.decode)
  graph.aimLinks(node)
  return node
}

function restorePair(file, graph, node) {
  const memory = memoryOf(node) ?? stockPair(graph, node)
  const { decode, link } = structuredClone({ decode: memory.decode, link: memory.link })
  if (decode.id === null || graph.nodes.has(decode.id)) decode.id = file.newId('node')
  if (get(link, 'id') === null || graph.linkPositions.has(get(link, 'id'))) {
    put(link, 'id', file.newId('link'))
    decode.outputs = decode.outputs.map((slot) => ({ ...slot, links: [get(link, 'id')] }))
  }
  put(link, 'origin_id', decode.id)
  decode.inputs = withLinksOf(node, inputs(decode))
  decode.pos = movedAlong(decode.pos, memory.pos, node.pos)
  if ((decode.mode ?? 0) !== (node.mode ?? 0)) decode.mode = node.mode ?? 0
  const own = OURS[node.type].widgets
  revert(node, {
    ...memory.create_video,
    pos: movedAlong(memory.create_video.pos, memory.pos, node.pos),
    inputs: withFrames(inputs(memory.create_video))
  })
  named(node, CREATE_VIDEO.frames).link = get(link, 'id')
  if (Array.isArray(node.widgets_values))
    node.widgets_values = node.widgets_values.slice(0, CREATE_VIDEO.widgets.length)
  if (NAMED in node)
    node[NAMED] = Object.fromEntries(Object.entries(node[NAMED]).filter(([name]) => !Object.hasOwn(own, name)))
  graph.add(decode, link, memory.decode_position, memory.link_position)
  graph.aimLinks(decode)
  graph.aimLinks(node)
  return [decode, node]
}

function revert(node, before) {
  const kept = { ...node.properties }
  for (const key of [MEMORY.key, ...PACK_PROPERTIES]) delete kept[key]
  if (!isPair(node)) for (const key of WIDGET_VALUES) if (!(key in before)) delete node[key]
  const slots = withLinksOf(node, inputs(before))
  const known = [...DECODE_INPUTS, ...slots.map((slot) => slot.name)]
  slots.push(...inputs(node).filter((slot) => !known.includes(slot.name) && slot.link != null))
  for (const [key, value] of Object.entries(before)) if (!(key === 'title' && 'title' in node)) node[key] = value
  node.inputs = slots
  node.properties = { ...before.properties, ...kept }
}

/** The inputs of a Create Video, the one for the frames among them even where it was lost. */
function withFrames(slots) {
  const { frames: name } = CREATE_VIDEO
  return slots.some((slot) => slot.name === name) ? slots : [{ name, type: 'IMAGE', link: null }, ...slots]
}

function movedAlong(pos, anchorBefore, anchorNow) {
  const [before, now] = [xy(anchorBefore), xy(anchorNow)]
  if (before[0] === now[0] && before[1] === now[1]) return pos
  return xy(pos).map((value, axis) => value + now[axis] - before[axis])
}

function stockDecode(node) {
  const [type] = OURS[node.type].stock
  return { type, inputs: decodeInputs(node), properties: { cnr_id: PACKS.stock }, widgets_values: [] }
}

function stockPair(graph, node) {
  const [decode, video] = OURS[node.type].stock
  const [x, y] = xy(node.pos)
  const [width, height] = LAYOUT.decode_size
  return {
    pos: node.pos,
    create_video: {
      type: video,
      pos: node.pos,
      inputs: inputs(node).filter((slot) => CREATE_VIDEO.inputs.includes(slot.name)),
      properties: { cnr_id: PACKS.stock }
    },
    decode: {
      id: null,
      type: decode,
      pos: [x - width - LAYOUT.gap, y],
      size: [width, height],
      flags: {},
      order: node.order ?? 0,
      mode: 0,
      inputs: decodeInputs(node),
      outputs: [{ name: 'IMAGE', type: 'IMAGE', links: [] }],
      properties: { cnr_id: PACKS.stock, 'Node name for S&R': decode },
      widgets_values: []
    },
    link: graph.newLink('IMAGE')
  }
}
