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
  OUR_SAVER,
  OURS,
  PACKS,
  PACK_PROPERTIES,
  REASONS,
  RELAYS,
  SAVERS,
  VIDEO_NODES,
  reason
} from './swap_rules.js'
import { rulesOf, settingsOf } from './swap_savers.js'

const NAMED = 'widgets_values_named'
const WIDGET_VALUES = ['widgets_values', NAMED]

/**
 * Put this pack's nodes in the place of other ones.
 *
 * @param workflow as serialised; not modified.
 * @param only {graph, node}: swap this one decode, whatever its frames are for, or this one saver. `graph` is the id of
 *     the subgraph definition it is in, or null. Without it, the whole workflow by the rules.
 * @param pair whether a Create Video or a saver may be swapped with its decode.
 * @param tiled without `only`: swap VAE Decode (Tiled) too.
 * @param savers without `only`: swap savers too where nothing is won in time.
 * @returns {workflow, changes}: the new workflow, and for each decode and saver {graph, nodes, before, after, reason,
 *     subgraph}.
 */
export function swap(workflow, { only = null, pair = true, tiled = false, savers = false } = {}) {
  const file = new Workflow(structuredClone(workflow))
  const plans = file.graphs.flatMap((graph) =>
    [...graph.nodes.values()]
      .filter((node) => Object.hasOwn(DECODES, node.type) && (!only || isMeantOrFeeds(graph, node, only)))
      .map((decode) => {
        const plan = only ? decideOne(file, graph, decode, pair) : decide(file, graph, decode, pair, tiled)
        return { graph, decode, ...plan }
      })
      .filter(({ decode, settings }) => !only || settings || isMeant(graph, decode, only))
  )
  const saverPlans = file.graphs.flatMap((graph) =>
    [...graph.nodes.values()]
      .filter((node) => Object.hasOwn(SAVERS, node.type) && !plans.some(({ partner }) => partner === node))
      .filter((node) => !only || isMeant(graph, node, only))
      .map((saver) => ({ graph, saver, settings: settingsIn(file, graph, saver) }))
  )
  const hopedFor = plans.filter(({ why }) => !why && pair).map(({ graph, decode }) => partnerOf(graph, decode))
  const changes = plans.map(({ graph, decode, partner, settings, why }) => {
    const nodes = partner ? [decode, partner] : [decode]
    const [ids, before] = [nodes.map((node) => node.id), nodes.map((node) => node.type)]
    if (why) return change(graph, ids, before, [], why)
    if (settings) becomeStreamed(graph, decode, partner, settings)
    else if (partner) becomePair(graph, decode, partner)
    else becomeAsync(graph, decode)
    const after = (settings ? nodes : nodes.slice(-1)).map((node) => node.type)
    return change(graph, ids, before, after)
  })
  for (const { graph, saver, settings } of saverPlans) {
    const { type } = saver
    const meant = savers || only !== null
    if (meant && !settings.why) becomeSaver(graph, saver, settings, SAVERS[type].frames)
    if (meant || (settings.why && hopedFor.includes(saver)))
      changes.push(change(graph, [saver.id], [type], settings.why ? [] : [saver.type], settings.why))
  }
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
      const both = streamed(graph, node)
      if (only && !(both ?? [node]).some((each) => isMeant(graph, each, only))) continue
      const before = (both ?? [node]).map((each) => each.type)
      let after
      let why
      if (both) after = restoreStreamed(graph, ...both)
      else if (memoryOf(node, 'saver')) {
        if (isAsSwapped(node, wasOfVideo(node) ? 'images' : 'video'))
          after = [restoreSaver(graph, node, inputs(node), valuesNow(node))]
        else [after, why] = [[], REASONS.rewired]
      } else if (Object.hasOwn(OURS, node.type))
        after = isPair(node) ? restorePair(file, graph, node) : [restoreDecode(graph, node)]
      else continue
      const ids = (both ?? [node]).map((each) => each.id)
      const types = after.map((each) => each.type)
      changes.push(change(graph, ids, before, types, why))
    }
    graph.putInPlace()
  }
  return { workflow: file.workflow, changes }
}

/** The type of the Create Video or saver that this decode can be swapped with; null where there is none. */
export function partnerType(workflow, only) {
  const file = new Workflow(workflow)
  for (const graph of file.graphs)
    for (const node of graph.nodes.values())
      if (isMeant(graph, node, only)) return decideOne(file, graph, node, true).partner?.type ?? null
  return null
}

/** Whether a saver of ours was another one. */
export const wasSaver = (node) => memoryOf(node, 'saver') !== null

// The editor's own ids are strings where the serialised ones are numbers.
const isMeant = (graph, node, only) => graph.id === only.graph && String(node.id) === String(only.node)

// A saver that is pointed at is swapped with the decode that it is all for; tiles have their own menu.
const isMeantOrFeeds = (graph, node, only) => {
  if (isMeant(graph, node, only)) return true
  const saver = DECODES[node.type].tiled ? null : partnerOf(graph, node)
  return Object.hasOwn(SAVERS, saver?.type ?? '') && isMeant(graph, saver, only)
}

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
  if (!chosen.partner || chosen.settings) return chosen
  return file.ends(graph, chosen.partner, ['VIDEO'], isPassive).ends.length > 1 ? {} : chosen
}

function decideOne(file, graph, decode, pair) {
  if (tilesInUse(file, graph, decode)) return { why: REASONS.tiles_in_use }
  const partner = pair ? partnerOf(graph, decode) : null
  if (!partner || !Object.hasOwn(SAVERS, partner.type)) return { partner }
  const settings = settingsIn(file, graph, partner)
  return settings.why ? {} : { partner, settings }
}

const isPassive = ({ type }) => ['Reroute', ...Object.entries(RELAYS).flat()].includes(type)

function tilesInUse(file, graph, decode) {
  if (!DECODES[decode.type].tiled) return false
  const linked = inputs(decode).some((slot) => !DECODE_INPUTS.includes(slot.name) && slot.link != null)
  const shown = file.hosts(graph).flatMap(([, host]) => host.properties?.proxyWidgets ?? [])
  return linked || shown.some((widget) => String(widget[0]) === String(decode.id))
}

function partnerOf(graph, decode) {
  const fed = graph.linksFrom(decode.id)
  const partner = fed.length === 1 ? graph.nodes.get(get(fed[0], 'target_id')) : null
  if (!partner || (partner.mode ?? 0) !== (decode.mode ?? 0)) return null
  const isSaver = Object.hasOwn(SAVERS, partner.type)
  if (!isSaver && partner.type !== CREATE_VIDEO.type) return null
  const coming = [decode, partner].flatMap((node) => graph.linksTo(node.id))
  const sound =
    coming.every((link) => graph.isKnownToTarget(link)) &&
    (isSaver ? get(fed[0], 'type') === 'IMAGE' : !graph.isRerouted(fed[0]))
  const { frames } = isSaver ? SAVERS[partner.type] : CREATE_VIDEO
  const takesImages = named(partner, frames)?.link === get(fed[0], 'id')
  return takesImages && sound ? partner : null
}

function settingsIn(file, graph, saver) {
  const values = valuesOf(saver, SAVERS[saver.type].widgets)
  const known = rulesOf(saver.type, values) ?? {}
  const [lost] = outputsLost(saver.outputs ?? [], Object.values(OUR_SAVER.outputs))
  if (lost) return { why: reason('output_used', lost.name) }
  for (const [, host] of file.hosts(graph))
    for (const [id, name] of host.properties?.proxyWidgets ?? [])
      if (String(id) === String(saver.id) && (known[name]?.to !== name || name === 'fps'))
        return { why: reason('connected', name) }
  const types = new Map(graph.linksTo(saver.id).map((link) => [get(link, 'id'), graph.typesOf(link).join(',')]))
  const linked = inputs(saver).filter((slot) => slot.link != null)
  const links = Object.fromEntries(linked.map((slot) => [slot.name, types.get(slot.link) ?? null]))
  return settingsOf(saver.type, values, links)
}

const outputsLost = (slots, types) => slots.filter((slot, i) => slot.links?.length && types[i] !== slot.type)

function valuesOf({ widgets_values: values }, names) {
  if (!Array.isArray(values)) return values ?? {}
  return Object.fromEntries(names.slice(0, values.length).map((name, i) => [name, values[i]]))
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

function becomeStreamed(graph, decode, saver, settings) {
  const [link] = graph.linksFrom(decode.id)
  put(link, 'type', 'VIDEO')
  const [rateName] = Object.entries(settings.links).find(([, ours]) => ours === 'fps') ?? []
  const rate = named(saver, rateName)?.link ?? null
  becomeSaver(graph, saver, settings, 'video')
  const memory = { decode: remember(decode, 'pos', 'outputs', ...WIDGET_VALUES) }
  become(decode, DECODES[decode.type].pair, { ...memory, pos: growUpwards(decode) })
  const values = { fps: settings.values.fps ?? 24, bit_depth: 8, ...OURS[decode.type].widgets }
  decode.inputs = [...decodeInputs(decode), { name: 'audio', type: 'AUDIO', link: null }]
  if (rate !== null) {
    saver.inputs = inputs(saver).filter((slot) => slot.name !== 'fps')
    decode.inputs.push(widgetSlot('fps', 'FLOAT', rate))
  }
  decode.outputs = [{ name: 'VIDEO', type: 'VIDEO', links: [get(link, 'id')] }]
  decode.widgets_values = Object.values(values)
  if (NAMED in decode) decode[NAMED] = values
  graph.aimLinks(decode)
  graph.aimLinks(saver)
}

function becomeSaver(graph, saver, settings, source) {
  const was = remember(saver, 'outputs', ...WIDGET_VALUES)
  const rule = SAVERS[saver.type]
  const known = rulesOf(saver.type, valuesOf(saver, rule.widgets))
  const linked = Object.fromEntries(rule.inputs.map((name) => [name, named(saver, name)?.link]))
  linked[source] = named(saver, rule.frames)?.link
  const slots = Object.entries(OUR_SAVER.inputs).map(([name, type]) => ({ name, type, link: linked[name] ?? null }))
  for (const [name, ours] of Object.entries(settings.links))
    slots.push(widgetSlot(ours, known[name].link, named(saver, name).link))
  const links = usedLinks(saver)
  become(saver, OUR_SAVER.type, { saver: was })
  saver.inputs = slots
  saver.outputs = Object.entries(OUR_SAVER.outputs).map(([name, type], i) => ({
    name,
    type,
    links: i === 0 ? (links ?? null) : null
  }))
  const values = { ...OUR_SAVER.widgets, ...settings.values }
  saver.widgets_values = Object.values(values)
  if (NAMED in saver) saver[NAMED] = values
  graph.aimLinks(saver)
}

const widgetSlot = (name, type, link) => ({ name, type, link, widget: { name } })
const usedLinks = (node) => (node.outputs ?? []).find((slot) => slot.links?.length)?.links

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

/** What a swap of this kind remembered in a node; null where that is not there, or not all of it. */
function memoryOf(node, kind) {
  if (!Object.hasOwn(OURS, node.type) && node.type !== OUR_SAVER.type) return null
  const memory = node.properties?.[MEMORY.key]
  const parts = Object.entries(MEMORY[kind])
  const whole = parts.every(([part, keys]) => memory?.[part] && keys.every((key) => memory[part][key] != null))
  return whole ? memory : null
}

/** The decode and the saver that a swap connected, given one of them, while they are as it made them. */
function streamed(graph, node) {
  if (!Object.hasOwn(OURS, node.type) && node.type !== OUR_SAVER.type) return null
  const came = named(node, 'video')?.link
  const from = graph.linksTo(node.id).filter((link) => get(link, 'id') === came)
  const id = from.length ? get(from.at(-1), 'origin_id') : node.id
  const decode = graph.nodes.get(id)
  const fed = graph.linksFrom(id)
  const saver = fed.length === 1 ? graph.nodes.get(get(fed[0], 'target_id')) : null
  if (!decode || !saver || !memoryOf(decode, 'streamed') || !memoryOf(saver, 'saver')) return null
  if (wasOfVideo(saver) || !isAsSwapped(saver, 'images') || !Object.hasOwn(OURS, decode.type) || !isPair(decode))
    return null
  return named(saver, 'video')?.link === get(fed[0], 'id') ? [decode, saver] : null
}

const wasOfVideo = (saver) => SAVERS[memoryOf(saver, 'saver').saver.type]?.frames === 'video'

/** Whether nothing is connected to a saver of ours that the one it was has no place for; `other`: one such input. */
function isAsSwapped(saver, other) {
  const was = memoryOf(saver, 'saver').saver
  const types = (was.outputs ?? []).map((slot) => slot.type)
  const fits = !outputsLost(saver.outputs ?? [], types).length && named(saver, other)?.link == null
  return fits && Object.hasOwn(SAVERS, was.type)
}

function restoreStreamed(graph, decode, saver) {
  const memory = memoryOf(decode, 'streamed')
  const [link] = graph.linksFrom(decode.id)
  put(link, 'type', 'IMAGE')
  const rate = inputs(decode).filter((slot) => slot.name === 'fps')
  const { fps } = valuesOf(decode, CREATE_VIDEO.widgets)
  decode.inputs = inputs(decode).filter((slot) => slot.name !== 'fps')
  restoreSaver(graph, saver, [...inputs(saver), ...rate], { ...valuesNow(saver), fps: fps ?? null })
  const outputs = memory.decode.outputs.map((slot) => ({ ...slot, links: [get(link, 'id')] }))
  const pos = movedAlong(memory.decode.pos, memory.pos, decode.pos)
  revert(decode, { ...memory.decode, outputs, pos })
  graph.aimLinks(decode)
  return [decode, saver]
}

const valuesNow = (saver) => valuesOf(saver, Object.keys(OUR_SAVER.widgets))

function restoreSaver(graph, saver, slots, now) {
  const was = { ...memoryOf(saver, 'saver').saver }
  const { widgets: names, frames } = SAVERS[was.type]
  const values = valuesOf(was, names)
  const known = Object.entries(rulesOf(was.type, values) ?? {})
  const direct = known.filter(([, rule]) => 'link' in rule || 'within' in rule)
  const theirs = Object.fromEntries(direct.map(([name, rule]) => [rule.to, name]))
  const swapped = settingsOf(was.type, values, {}).values ?? {}
  const changed = Object.fromEntries(
    Object.entries(theirs)
      .filter(([ours]) => ours in now && now[ours] !== (ours in swapped ? swapped[ours] : now[ours]))
      .map(([ours, name]) => [name, now[ours]])
  )
  for (const key of WIDGET_VALUES) {
    if (Array.isArray(was[key]))
      was[key] = was[key].map((value, i) => (Object.hasOwn(changed, names[i] ?? '') ? changed[names[i]] : value))
    else if (was[key]) was[key] = { ...was[key], ...changed }
  }
  const back = { ...theirs, video: frames, images: frames }
  saver.inputs = slots
    .filter((slot) => slot.link != null)
    .map((slot) => ({ ...slot, name: back[slot.name] ?? slot.name }))
  const links = usedLinks(saver)
  if (links) was.outputs = was.outputs.map((slot, i) => (i === 0 ? { ...slot, links } : slot))
  revert(saver, was)
  graph.aimLinks(saver)
  return saver
}

function restoreDecode(graph, node) {
  const memory = memoryOf(node, 'alone') ?? { decode: stockDecode(node) }
  revert(node, memory.decode)
  graph.aimLinks(node)
  return node
}

function restorePair(file, graph, node) {
  const memory = memoryOf(node, 'pair') ?? stockPair(graph, node)
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
  const pos = movedAlong(memory.create_video.pos, memory.pos, node.pos)
  revert(node, { ...memory.create_video, pos, inputs: withFrames(inputs(memory.create_video)) }, false)
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

function revert(node, before, widgets = true) {
  const kept = { ...node.properties }
  for (const key of [MEMORY.key, ...PACK_PROPERTIES]) delete kept[key]
  if (widgets) for (const key of WIDGET_VALUES) if (!(key in before)) delete node[key]
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
