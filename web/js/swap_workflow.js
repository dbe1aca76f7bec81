// The swap in a workflow as the editor serialises it: which decodes, for what, and back.
//
// automation/workflow_file.py does the same to files, function by function; automation/rules.py states the rules.
// This file knows nothing of the editor.
import { Workflow, get, inputs, named, put, withLinksOf, xy } from './swap_graph.js'

const ASYNC = 'AsyncVAEDecodeVideo'
const ASYNC_VIDEO = 'AsyncVAEDecodeToVideo'
const DECODE = 'VAEDecode'
const TILED = 'VAEDecodeTiled'
const CREATE_VIDEO = 'CreateVideo'
const VIDEO_NODES = [CREATE_VIDEO, 'SaveWEBM', 'SaveAnimatedWEBP', 'SaveAnimatedPNG', 'VHS_VideoCombine']
export const NAMES = {
  [ASYNC]: 'Async VAE Decode (Video)',
  [ASYNC_VIDEO]: 'Async VAE Decode to Video',
  [DECODE]: 'VAE Decode',
  [TILED]: 'VAE Decode (Tiled)',
  [CREATE_VIDEO]: 'Create Video'
}
const DECODE_INPUTS = ['samples', 'vae']
const VIDEO_INPUTS = ['fps', 'audio', 'bit_depth']
const OWN_WIDGETS = {
  [ASYNC]: { decoder: 'auto' },
  [ASYNC_VIDEO]: { decoder: 'auto', save_latents_first: false }
}
const MEMORY = 'async_frame_pipeline'

const NOT_A_VIDEO = 'its frames do not go into a video'
const IN_TILES = 'it decodes in tiles, which somebody chose to save memory'
const TILES_IN_USE = 'its tile settings are connected to something'

const PACK = 'async-frame-pipeline'
const CORE = 'comfy-core'
const PACK_PROPERTIES = ['cnr_id', 'aux_id', 'ver']
const FRAMES = ['IMAGE', 'MASK']
const PAIR_HEIGHT = 130
const NAMED = 'widgets_values_named'
const WIDGET_VALUES = ['widgets_values', NAMED]
const VIDEO_WIDGETS = 2
const STOCK_DECODE_SIZE = [210, 46]
const GAP = 40

export const isStockDecode = (type) => type === DECODE || type === TILED
export const isOurs = (type) => type === ASYNC || type === ASYNC_VIDEO

/**
 * Put this pack's decoders in the place of the stock ones.
 *
 * @param workflow as serialised; not modified.
 * @param only {graph, node}: swap this one decode, whatever its frames are for. `graph` is the id of the subgraph
 *     definition it is in, or null. Without it, the whole workflow by the rules.
 * @param pair whether a Create Video may be swapped with its decode.
 * @returns {workflow, changes}: the new workflow, and for each decode {graph, nodes, before, after, reason, subgraph}.
 */
export function swap(workflow, { only = null, pair = true } = {}) {
  const file = new Workflow(structuredClone(workflow))
  const plans = file.graphs.flatMap((graph) =>
    [...graph.nodes.values()]
      .filter((node) => isStockDecode(node.type) && (!only || isMeant(graph, node, only)))
      .map((decode) => ({ graph, decode, ...(only ? decideOne : decide)(file, graph, decode, pair) }))
  )
  const changes = plans.map(({ graph, decode, video, reason }) => {
    const nodes = video ? [decode, video] : [decode]
    const [ids, before] = [nodes.map((node) => node.id), nodes.map((node) => node.type)]
    if (reason) return change(graph, ids, before, [], reason)
    if (video) becomePair(graph, decode, video)
    else becomeAsync(graph, decode)
    return change(graph, ids, before, [nodes.at(-1).type])
  })
  return { workflow: file.workflow, changes }
}

/** The reverse of `swap`; `only` as there. */
export function restore(workflow, { only = null } = {}) {
  const file = new Workflow(structuredClone(workflow))
  const changes = []
  for (const graph of file.graphs) {
    for (const node of [...graph.nodes.values()]) {
      const before = node.type
      if (!isOurs(before) || (only && !isMeant(graph, node, only))) continue
      const after = before === ASYNC ? [restoreDecode(graph, node)] : restorePair(file, graph, node)
      changes.push(change(graph, [node.id], [before], after.map((node) => node.type)))
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

const change = (graph, nodes, before, after, reason = '') => ({
  graph: graph.id,
  nodes,
  before,
  after,
  reason,
  subgraph: graph.name
})

// ---------------------------------------------------------------------------- what to do

function decide(file, graph, decode) {
  if (decode.type === TILED) return { reason: IN_TILES }
  const videoNodes = file.ends(graph, decode, FRAMES, (node) => !VIDEO_NODES.includes(node.type))
  if (!videoNodes.length) return { reason: NOT_A_VIDEO }
  const chosen = decideOne(file, graph, decode, true)
  const uses = chosen.video && file.ends(graph, chosen.video, ['VIDEO'], (node) => node.type === 'Reroute')
  return uses?.length > 1 ? {} : chosen
}

function decideOne(file, graph, decode, pair) {
  if (tilesInUse(file, graph, decode)) return { reason: TILES_IN_USE }
  return { video: pair ? createVideoOf(graph, decode) : null }
}

function tilesInUse(file, graph, decode) {
  if (decode.type !== TILED) return false
  const linked = inputs(decode).some((slot) => !DECODE_INPUTS.includes(slot.name) && slot.link != null)
  const shown = file.hosts(graph).flatMap(([, host]) => host.properties?.proxyWidgets ?? [])
  return linked || shown.some((widget) => String(widget[0]) === String(decode.id))
}

function createVideoOf(graph, decode) {
  const fed = graph.linksFrom(decode.id)
  const video = fed.length === 1 ? graph.nodes.get(get(fed[0], 'target_id')) : null
  if (video?.type !== CREATE_VIDEO || (video.mode ?? 0) !== (decode.mode ?? 0)) return null
  const coming = [decode, video].flatMap((node) => graph.linksTo(node.id))
  const sound = coming.every((link) => graph.isKnownToTarget(link))
  const takesImages = named(video, 'images')?.link === get(fed[0], 'id')
  return takesImages && sound && !graph.isRerouted(fed[0]) ? video : null
}

// ---------------------------------------------------------------------------- there

const decodeInputs = (node) => inputs(node).filter((slot) => DECODE_INPUTS.includes(slot.name))

function becomeAsync(graph, decode) {
  become(decode, ASYNC, { decode: remember(decode, ...WIDGET_VALUES) })
  decode.inputs = decodeInputs(decode)
  decode.widgets_values = Object.values(OWN_WIDGETS[ASYNC])
  if (NAMED in decode) decode[NAMED] = { ...OWN_WIDGETS[ASYNC] }
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
  become(video, ASYNC_VIDEO, { ...memory, pos: growUpwards(video) })
  video.inputs = [...decodeInputs(decode), ...inputs(video).filter((slot) => slot.name !== 'images')]
  if (Array.isArray(video.widgets_values) && video.widgets_values.length === VIDEO_WIDGETS)
    video.widgets_values = [...video.widgets_values, ...Object.values(OWN_WIDGETS[ASYNC_VIDEO])]
  if (NAMED in video) video[NAMED] = { ...video[NAMED], ...OWN_WIDGETS[ASYNC_VIDEO] }
  graph.remove(decode, link)
  graph.aimLinks(video)
}

function growUpwards(video) {
  const missing = Math.max(0, PAIR_HEIGHT - xy(video.size)[1])
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
  node.properties = { ...properties, cnr_id: PACK, [MEMORY]: structuredClone(memory) }
  node.type = type
}

function remember(node, ...more) {
  const keys = ['type', 'size', 'title', 'inputs', 'properties', ...more].filter((key) => key in node)
  return Object.fromEntries(keys.map((key) => [key, node[key]]))
}

// ---------------------------------------------------------------------------- and back

function restoreDecode(graph, node) {
  const memory = node.properties?.[MEMORY] ?? { decode: stockDecode(node) }
  revert(node, memory.decode)
  graph.aimLinks(node)
  return node
}

function restorePair(file, graph, node) {
  const memory = node.properties?.[MEMORY] ?? stockPair(graph, node)
  const { decode, link } = structuredClone({ decode: memory.decode, link: memory.link })
  if (decode.id === null || graph.nodes.has(decode.id)) decode.id = file.newId('node')
  if (get(link, 'id') === null || graph.linkPositions.has(get(link, 'id'))) {
    put(link, 'id', file.newId('link'))
    decode.outputs = decode.outputs.map((slot) => ({ ...slot, links: [get(link, 'id')] }))
  }
  put(link, 'origin_id', decode.id)
  decode.inputs = withLinksOf(node, inputs(decode))
  decode.pos = movedAlong(decode.pos, memory.pos, node.pos)
  decode.mode = node.mode ?? 0
  revert(node, { ...memory.create_video, pos: movedAlong(memory.create_video.pos, memory.pos, node.pos) })
  named(node, 'images').link = get(link, 'id')
  if (Array.isArray(node.widgets_values)) node.widgets_values = node.widgets_values.slice(0, VIDEO_WIDGETS)
  if (NAMED in node) {
    const own = OWN_WIDGETS[ASYNC_VIDEO]
    node[NAMED] = Object.fromEntries(Object.entries(node[NAMED]).filter(([name]) => !(name in own)))
  }
  graph.add(decode, link, memory.decode_position, memory.link_position)
  graph.aimLinks(decode)
  graph.aimLinks(node)
  return [decode, node]
}

function revert(node, before) {
  const kept = { ...node.properties }
  for (const key of [MEMORY, ...PACK_PROPERTIES]) delete kept[key]
  if (node.type === ASYNC) for (const key of WIDGET_VALUES) if (!(key in before)) delete node[key]
  const slots = withLinksOf(node, inputs(before))
  const known = [...DECODE_INPUTS, ...slots.map((slot) => slot.name)]
  slots.push(...inputs(node).filter((slot) => !known.includes(slot.name) && slot.link != null))
  for (const [key, value] of Object.entries(before))
    if (!(key === 'title' && 'title' in node)) node[key] = value
  node.inputs = slots
  node.properties = { ...before.properties, ...kept }
}

function movedAlong(pos, anchorBefore, anchorNow) {
  const [before, now] = [xy(anchorBefore), xy(anchorNow)]
  if (before[0] === now[0] && before[1] === now[1]) return pos
  return xy(pos).map((value, axis) => value + now[axis] - before[axis])
}

function stockDecode(node) {
  return { type: DECODE, inputs: decodeInputs(node), properties: { cnr_id: CORE }, widgets_values: [] }
}

function stockPair(graph, node) {
  const [x, y] = xy(node.pos)
  const [width, height] = STOCK_DECODE_SIZE
  const images = { name: 'images', type: 'IMAGE', link: null }
  const others = inputs(node).filter((slot) => VIDEO_INPUTS.includes(slot.name))
  return {
    pos: node.pos,
    create_video: {
      type: CREATE_VIDEO,
      pos: node.pos,
      inputs: [images, ...others],
      properties: { cnr_id: CORE }
    },
    decode: {
      id: null,
      type: DECODE,
      pos: [x - width - GAP, y],
      size: [width, height],
      flags: {},
      order: node.order ?? 0,
      mode: 0,
      inputs: decodeInputs(node),
      outputs: [{ name: 'IMAGE', type: 'IMAGE', links: [] }],
      properties: { cnr_id: CORE, 'Node name for S&R': DECODE },
      widgets_values: []
    },
    link: graph.newLink('IMAGE')
  }
}
