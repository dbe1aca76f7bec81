// The swap in a workflow as the editor serialises it: which decodes, for what, and back.
//
// automation/workflow_file.py does the same to files, function by function. The rules are in ../swap/rules.json, and
// tests/automation/cases is what both must do. This file knows nothing of the editor.
import { choose, familyOf } from './swap_families.js'
import { Workflow, get, inputs, named, put, valuesIn, withLinksOf, xy } from './swap_graph.js'
import {
  CREATE_VIDEO,
  DECODES,
  DECODE_INPUTS,
  DEFAULTS,
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
  VAE_TYPES,
  VIDEO_NODES,
  reason
} from './swap_rules.js'
import { rulesOf, settingsOf, shown } from './swap_savers.js'

export const NAMED = 'widgets_values_named'
export const WIDGET_VALUES = ['widgets_values', NAMED]
const TILES = DECODES.VAEDecodeTiled.widgets

/**
 * Put this pack's nodes in the place of other ones.
 *
 * @param workflow as serialised; not modified.
 * @param only {graph, node}: swap this one decode, whatever its frames are for, or this one saver. `graph` is the id of
 *     the subgraph definition it is in, or null. Without it, the whole workflow by the rules.
 * @param pair whether a Create Video or a saver may be swapped with its decode.
 * @param tiles what becomes of VAE Decode (Tiled): 'same', the same tiles; 'without'; or 'auto', what the rules say.
 * @param everything without `only`: swap decodes too with which nothing is won.
 * @param savers without `only`: swap savers too where nothing is won in time.
 * @returns {workflow, changes}: the new workflow, and for each decode and saver {graph, nodes, before, after, reason,
 *     won, vae, subgraph}.
 */
export function swap(workflow, { only = null, pair = true, tiles = 'auto', everything = false, savers = false } = {}) {
  const file = new Workflow(structuredClone(workflow))
  const plans = file.graphs.flatMap((graph) =>
    [...graph.nodes.values()]
      .filter((node) => Object.hasOwn(DECODES, node.type) && (!only || isMeantOrFeeds(graph, node, only)))
      .map((decode) => {
        const plan = (only ? decideOne : decide)(file, graph, decode, { pair, tiles, everything })
        return { graph, decode, ...plan }
      })
      .filter((plan) => !only || isMeant(graph, plan.decode, only) || (plan.settings && plan.won !== 'nothing'))
  )
  const saverPlans = file.graphs.flatMap((graph) =>
    [...graph.nodes.values()]
      .filter((node) => Object.hasOwn(SAVERS, node.type) && !plans.some(({ partner }) => partner === node))
      .filter((node) => !only || isMeant(graph, node, only))
      .map((saver) => ({ graph, saver, settings: settingsIn(file, graph, saver) }))
  )
  const hopedFor = plans.filter(({ why }) => !why && pair).map(({ graph, decode }) => partnerOf(graph, decode))
  const changes = plans.map(({ graph, decode, standsFor, won, vae, partner, settings, why }) => {
    const nodes = partner ? [decode, partner] : [decode]
    const [ids, before] = [nodes.map((node) => node.id), nodes.map((node) => node.type)]
    if (why) return change(graph, ids, before, [], { reason: why })
    if (settings) becomeStreamed(graph, decode, standsFor, partner, settings)
    else if (partner) becomePair(graph, decode, standsFor, partner)
    else becomeAsync(graph, decode, standsFor)
    const after = (settings ? nodes : nodes.slice(-1)).map((node) => node.type)
    return change(graph, ids, before, after, { won, vae })
  })
  for (const { graph, saver, settings } of saverPlans) {
    const { type } = saver
    const meant = savers || only !== null
    if (meant && !settings.why) becomeSaver(graph, saver, settings, SAVERS[type].frames)
    if (meant || (settings.why && hopedFor.includes(saver))) {
      const more = settings.why ? { reason: settings.why } : { won: 'saver' }
      changes.push(change(graph, [saver.id], [type], settings.why ? [] : [saver.type], more))
    }
  }
  const inGroupNodes = only ? [] : file.graphs.flatMap((graph) => leftInGroupNodes(file, graph))
  return { workflow: file.workflow, changes: [...changes, ...inGroupNodes] }
}

const leftInGroupNodes = (file, graph) =>
  [...graph.nodes.values()].flatMap((host) =>
    file
      .grouped(host)
      .filter((node) => Object.hasOwn(DECODES, node.type))
      .map((node) => {
        const why = reason('in_group_node', file.groupName(host))
        return change(graph, [host.id], [node.type], [], { reason: why })
      })
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
          after = [restoreSaver(graph, node, inputs(node), saverValuesNow(node))]
        else [after, why] = [[], REASONS.rewired]
      } else if (Object.hasOwn(OURS, node.type))
        after = isPair(node) ? restorePair(file, graph, node) : [restoreDecode(graph, node)]
      else continue
      const ids = (both ?? [node]).map((each) => each.id)
      const types = after.map((each) => each.type)
      changes.push(change(graph, ids, before, types, { reason: why }))
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
      if (isMeant(graph, node, only)) return decideOne(file, graph, node).partner?.type ?? null
  return null
}

/** Whether a saver of ours was another one. */
export const wasSaver = (node) => memoryOf(node, 'saver') !== null

// The editor's own ids are strings where the serialised ones are numbers.
const isMeant = (graph, node, only) => graph.id === only.graph && String(node.id) === String(only.node)

// A saver that is pointed at is swapped with the decode that it is all for.
const isMeantOrFeeds = (graph, node, only) => {
  if (isMeant(graph, node, only)) return true
  const saver = partnerOf(graph, node)
  return Object.hasOwn(SAVERS, saver?.type ?? '') && isMeant(graph, saver, only)
}

export const change = (graph, nodes, before, after, { reason = '', won = '', vae = '' } = {}) => ({
  graph: graph.id,
  nodes,
  before,
  after,
  reason,
  won,
  vae,
  subgraph: graph.name
})

// ---------------------------------------------------------------------------- what to do

function decide(file, graph, decode, options) {
  const { ends: videos, lost } = file.ends(graph, decode, FRAME_TYPES, (node) => !VIDEO_NODES.includes(node.type))
  if (!videos.length) return { why: lost.length ? reason(...lost[0]) : REASONS.not_a_video }
  const chosen = decideOne(file, graph, decode, options)
  if (chosen.won === 'nothing' && !options.everything) return { why: reason('nothing_won', chosen.vae) }
  if (!chosen.partner || chosen.settings) return chosen
  const usedMoreThanOnce = file.ends(graph, chosen.partner, ['VIDEO'], isPassive).ends.length > 1
  return usedMoreThanOnce ? { ...chosen, partner: null } : chosen
}

function decideOne(file, graph, decode, { pair = true, tiles = 'auto' } = {}) {
  const family = familyAt(file, graph, decode)
  const names = DECODES[decode.type].widgets
  const inView = names.length > 0 && isShown(file, graph, decode)
  const inUse = inView || names.some((name) => named(decode, name)?.link != null)
  const values = { ...DEFAULTS, ...valuesOf(decode, names) }
  const { standsFor, won, why } = choose(decode.type, family, tiles, values, inUse)
  if (why) return { why }
  const plan = { standsFor, won, vae: family?.name ?? '', partner: null }
  const partner = pair ? partnerOf(graph, decode) : null
  if (!partner || !Object.hasOwn(SAVERS, partner.type)) return inView ? plan : { ...plan, partner }
  const settings = settingsIn(file, graph, partner)
  return settings.why ? plan : { ...plan, partner, settings }
}

/** The family of the VAE that a decode gets, through whatever hands a VAE on; null if that cannot be told. */
export function familyAt(file, graph, decode) {
  const found = []
  const seen = new Set()
  const todo = file.sources(graph, decode, 'vae')
  for (const [graph, node] of todo) {
    if (seen.has(node)) continue
    seen.add(node)
    const family = familyOf(filesOf(file, graph, node), node.type)
    const { handedOn, isCertain } = vaesInto(graph, node)
    if (handedOn.length && (isCertain || !family))
      todo.push(...handedOn.flatMap((name) => file.sources(graph, node, name)))
    else found.push(family)
  }
  return found.length && found.every((family) => family === found[0]) ? found[0] : null
}

function vaesInto(graph, node) {
  const linked = inputs(node).flatMap(({ name, type }) =>
    graph.linksInto(node, name).map((link) => ({ name, types: [type, ...graph.typesOf(link)] }))
  )
  const isVae = ({ types: [type, ...types] }) => type === 'VAE' || types.some((each) => VAE_TYPES.includes(each))
  return {
    handedOn: linked.filter(isVae).map(({ name }) => name),
    isCertain: linked.some(({ types }) => types.includes('VAE'))
  }
}

function filesOf(file, graph, node) {
  const linked = inputs(node).filter((slot) => slot.widget && slot.link != null)
  const fromOutside = linked.flatMap((slot) => file.setFromOutside(graph, node, slot.name))
  return (fromOutside.length ? fromOutside : valuesIn(node)).filter((value) => typeof value === 'string')
}

const isPassive = ({ type }) => ['Reroute', ...Object.entries(RELAYS).flat()].includes(type)

function isShown(file, graph, decode) {
  const shown = file.hosts(graph).flatMap(([, host]) => host.properties?.proxyWidgets ?? [])
  return shown.some((widget) => String(widget[0]) === String(decode.id))
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
  return takesImages && sound && (isSaver || isMatched(partner)) ? partner : null
}

/** Whether all that a Create Video is set to has a place in our nodes. */
function isMatched(video) {
  const { fits, frames, inputs: taken, widgets } = CREATE_VIDEO
  const values = valuesOf(video, widgets)
  const isFit = (name) => !Object.hasOwn(values, name) || Object.hasOwn(fits[name], shown(values[name]))
  const linked = inputs(video).filter((slot) => slot.link != null)
  const known = linked.every(({ name }) => name === frames || taken.includes(name))
  return Object.keys(fits).every(isFit) && known && valuesIn(video).length <= widgets.length
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

export function valuesOf({ widgets_values: values }, names) {
  if (!Array.isArray(values)) return values ?? {}
  return Object.fromEntries(names.slice(0, values.length).map((name, i) => [name, values[i]]))
}

// ---------------------------------------------------------------------------- there

/** The inputs of a node that a stock decode of this type has. */
function decodeInputs(node, type) {
  const names = [...DECODE_INPUTS, ...DECODES[type].widgets]
  return inputs(node).filter((slot) => names.includes(slot.name))
}

/** Inputs in the order that the editor gives them: those of widgets come last. */
const inOrder = (slots) => [...slots].sort((a, b) => Boolean(a.widget) - Boolean(b.widget))

/** Values of all widgets of one of ours, in their order. */
function valuesFor(type, ...given) {
  const known = Object.assign({}, DEFAULTS, ...given)
  return Object.fromEntries(OURS[type].widgets.map((name) => [name, known[name]]))
}

const settingsOfDecode = (decode) =>
  valuesOf(decode, Object.hasOwn(DECODES, decode.type) ? DECODES[decode.type].widgets : [])

/** What a Create Video is set to, as ours is. */
function settingsOfVideo(video) {
  const { fits, inputs: taken, widgets } = CREATE_VIDEO
  return Object.fromEntries(
    Object.entries(valuesOf(video, widgets))
      .filter(([name]) => taken.includes(name))
      .map(([name, value]) => [name, fits[name]?.[shown(value)] ?? value])
  )
}

export function setTo(node, values) {
  node.widgets_values = Object.values(values)
  if (NAMED in node) node[NAMED] = values
}

function becomeAsync(graph, decode, standsFor) {
  const type = DECODES[standsFor].alone
  const values = valuesFor(type, settingsOfDecode(decode))
  become(decode, type, { decode: remember(decode, ...WIDGET_VALUES) })
  decode.inputs = decodeInputs(decode, standsFor)
  setTo(decode, values)
  graph.aimLinks(decode)
}

function becomePair(graph, decode, standsFor, video) {
  const [link] = graph.linksFrom(decode.id)
  const type = DECODES[standsFor].pair
  const values = valuesFor(type, settingsOfDecode(decode), settingsOfVideo(video))
  const memory = {
    create_video: remember(video, 'pos', ...WIDGET_VALUES),
    decode,
    decode_position: graph.nodePositions.get(decode.id),
    link,
    link_position: graph.linkPositions.get(get(link, 'id'))
  }
  become(video, type, { ...memory, pos: growUpwards(video, type) })
  const others = inputs(video).filter((slot) => CREATE_VIDEO.inputs.includes(slot.name))
  video.inputs = inOrder([...decodeInputs(decode, standsFor), ...others])
  setTo(video, values)
  graph.remove(decode, link)
  graph.aimLinks(video)
}

function becomeStreamed(graph, decode, standsFor, saver, settings) {
  const [link] = graph.linksFrom(decode.id)
  put(link, 'type', 'VIDEO')
  const [rateName] = Object.entries(settings.links).find(([, ours]) => ours === 'fps') ?? []
  const rate = named(saver, rateName)?.link ?? null
  becomeSaver(graph, saver, settings, 'video')
  const type = DECODES[standsFor].pair
  const rates = 'fps' in settings.values ? { fps: settings.values.fps } : {}
  const values = valuesFor(type, settingsOfDecode(decode), rates)
  const memory = { decode: remember(decode, 'pos', 'outputs', ...WIDGET_VALUES) }
  become(decode, type, { ...memory, pos: growUpwards(decode, type) })
  decode.inputs = inOrder([...decodeInputs(decode, standsFor), { name: 'audio', type: 'AUDIO', link: null }])
  if (rate !== null) {
    saver.inputs = inputs(saver).filter((slot) => slot.name !== 'fps')
    decode.inputs.push(widgetSlot('fps', 'FLOAT', rate))
  }
  decode.outputs = [{ name: 'VIDEO', type: 'VIDEO', links: [get(link, 'id')] }]
  setTo(decode, values)
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
  setTo(saver, { ...OUR_SAVER.widgets, ...settings.values })
  graph.aimLinks(saver)
}

export const widgetSlot = (name, type, link) => ({ name, type, link, widget: { name } })
const usedLinks = (node) => (node.outputs ?? []).find((slot) => slot.links?.length)?.links

function growUpwards(video, type) {
  const missing = Math.max(0, LAYOUT.pair_height[type] - xy(video.size)[1])
  if (missing && !video.flags?.collapsed) {
    const [[x, y], [width, height]] = [xy(video.pos), xy(video.size)]
    Object.assign(video, { pos: [x, y - missing], size: [width, height + missing] })
  }
  return video.pos
}

export function become(node, type, memory) {
  if (node.title === NAMES[node.type]) delete node.title
  const properties = { ...node.properties }
  for (const key of PACK_PROPERTIES) delete properties[key]
  node.properties = { ...properties, cnr_id: PACKS.ours, [MEMORY.key]: structuredClone(memory) }
  node.type = type
}

export function remember(node, ...more) {
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
  const { fps } = valuesOf(decode, OURS[decode.type].widgets)
  decode.inputs = inputs(decode).filter((slot) => slot.name !== 'fps')
  restoreSaver(graph, saver, [...inputs(saver), ...rate], { ...saverValuesNow(saver), fps: fps ?? null })
  const outputs = memory.decode.outputs.map((slot) => ({ ...slot, links: [get(link, 'id')] }))
  const pos = movedAlong(memory.decode.pos, memory.pos, decode.pos)
  const before = withChanges(memory.decode, decode, settingsOfDecode(memory.decode))
  revert(decode, { ...before, outputs, pos })
  graph.aimLinks(decode)
  return [decode, saver]
}

export const saverValuesNow = (saver) => valuesOf(saver, Object.keys(OUR_SAVER.widgets))

export function restoreSaver(graph, saver, slots, now) {
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
  revert(node, withChanges(memory.decode, node, settingsOfDecode(memory.decode)))
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
  const isNew = ({ name, link }) => TILES.includes(name) && link != null && !named(decode, name)
  decode.inputs.push(...inputs(node).filter(isNew))
  node.inputs = inputs(node).filter((slot) => !TILES.includes(slot.name))
  decode.pos = movedAlong(decode.pos, memory.pos, node.pos)
  if ((decode.mode ?? 0) !== (node.mode ?? 0)) decode.mode = node.mode ?? 0
  const stock = withChanges(decode, node, settingsOfDecode(decode))
  const video = withChanges(memory.create_video, node, settingsOfVideo(memory.create_video))
  const pos = movedAlong(video.pos, memory.pos, node.pos)
  revert(node, { ...video, pos, inputs: withFrames(inputs(video)) })
  named(node, CREATE_VIDEO.frames).link = get(link, 'id')
  graph.add(stock, link, memory.decode_position, memory.link_position)
  graph.aimLinks(stock)
  graph.aimLinks(node)
  return [stock, node]
}

/**
 * A stock node as it was, but for the values that have been changed in ours since.
 *
 * @param node one of ours, that stands for it.
 * @param settings what it was set to, as ours was then.
 */
function withChanges(was, node, settings) {
  const names = was.type === CREATE_VIDEO.type ? CREATE_VIDEO.widgets : (DECODES[was.type]?.widgets ?? [])
  const then = valuesFor(node.type, settings)
  const now = valuesOf(node, OURS[node.type].widgets)
  const changed = Object.fromEntries(
    names.filter((name) => name in then && name in now && now[name] !== then[name]).map((name) => [name, now[name]])
  )
  if (!Object.keys(changed).length) return was
  const values = { ...then, ...valuesOf(was, names), ...changed }
  const last = Math.max(...Object.keys(changed).map((name) => names.indexOf(name)))
  const given = was.widgets_values ?? []
  const widgetValues = Array.isArray(given)
    ? [...names.slice(0, Math.max(given.length, last + 1)).map((name) => values[name]), ...given.slice(names.length)]
    : { ...given, ...changed }
  return {
    ...was,
    widgets_values: widgetValues,
    ...(NAMED in was ? { [NAMED]: { ...was[NAMED], ...changed } } : {})
  }
}

export function revert(node, before) {
  const kept = { ...node.properties }
  for (const key of [MEMORY.key, ...PACK_PROPERTIES]) delete kept[key]
  for (const key of WIDGET_VALUES) if (!(key in before)) delete node[key]
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

export function movedAlong(pos, anchorBefore, anchorNow) {
  const [before, now] = [xy(anchorBefore), xy(anchorNow)]
  if (before[0] === now[0] && before[1] === now[1]) return pos
  return xy(pos).map((value, axis) => value + now[axis] - before[axis])
}

function valuesNow(node, names) {
  const values = valuesFor(node.type, valuesOf(node, OURS[node.type].widgets))
  return names.map((name) => values[name])
}

function stockDecode(node) {
  const [type] = OURS[node.type].stock
  return {
    type,
    inputs: decodeInputs(node, type),
    properties: { cnr_id: PACKS.stock },
    widgets_values: valuesNow(node, DECODES[type].widgets)
  }
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
      properties: { cnr_id: PACKS.stock },
      widgets_values: valuesNow(
        node,
        CREATE_VIDEO.widgets.filter((name) => Object.hasOwn(DEFAULTS, name))
      )
    },
    decode: {
      id: null,
      type: decode,
      pos: [x - width - LAYOUT.gap, y],
      size: [width, height],
      flags: {},
      order: node.order ?? 0,
      mode: 0,
      inputs: decodeInputs(node, decode),
      outputs: [{ name: 'IMAGE', type: 'IMAGE', links: [] }],
      properties: { cnr_id: PACKS.stock, 'Node name for S&R': decode },
      widgets_values: valuesNow(node, DECODES[decode].widgets)
    },
    link: graph.newLink('IMAGE')
  }
}
