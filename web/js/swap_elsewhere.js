// Save Video (Decode Elsewhere) in the place of a decode and its saver; and back. Its twin, with the explanations, is
// automation/elsewhere.py.
import { Workflow, get, inputs, named, put, withLinksOf } from './swap_graph.js'
import {
  CREATE_VIDEO,
  DECODES,
  DEFAULTS,
  ELSEWHERE,
  MEMORY,
  OURS,
  OUR_SAVER,
  REASONS,
  SAVERS,
  reason
} from './swap_rules.js'
import { shown, translate } from './swap_savers.js'
import {
  NAMED,
  WIDGET_VALUES,
  become,
  change,
  familyAt,
  movedAlong,
  remember,
  restore,
  restoreSaver,
  revert,
  saverValuesNow,
  setTo,
  swap,
  valuesOf,
  widgetSlot
} from './swap_workflow.js'

/**
 * Make one node of each decode that can go elsewhere and its saver.
 *
 * @param workflow as serialised; not modified.
 * @param only {graph, node}: of this decode or saver alone, also with a VAE that nobody knows.
 * @param savers leave other savers swapped.
 * @returns {workflow, changes}, as `swap`.
 */
export function swapElsewhere(workflow, { only = null, savers = false } = {}) {
  if (!only) {
    const first = swap(workflow, { savers: true })
    return send(first.workflow, first.changes, { savers })
  }
  const pair = pairAt(new Workflow(workflow), only)
  if (!pair) return { workflow, changes: [] }
  let now = workflow
  const changes = []
  for (const id of pair) {
    const done = swap(now, { only: { graph: only.graph, node: id }, tiles: 'without' })
    now = done.workflow
    changes.push(...done.changes)
  }
  return send(now, changes, { savers: false, only: { graph: only.graph, node: pair[1] } })
}

/** Whether `swapElsewhere` makes one of what is pointed at. */
export const canGoElsewhere = (workflow, only) =>
  swapElsewhere(workflow, { only }).changes.some(({ after }) => after[0] === ELSEWHERE.type)

/** The reverse of both swaps; `only` as there. */
export function restoreAll(workflow, { only = null } = {}) {
  const { workflow: now, changes: first, fromStock } = takeBack(workflow, only)
  if (!only || !first.length) {
    const then = restore(now, { only })
    return { workflow: then.workflow, changes: bothStepsBack(first, then.changes) }
  }
  if (!fromStock) return { workflow: now, changes: bothStepsBack(first, []) }
  let last = now
  const changes = []
  for (const node of first[0].nodes) {
    const done = restore(last, { only: { graph: only.graph, node } })
    last = done.workflow
    changes.push(...done.changes)
  }
  return { workflow: last, changes: bothStepsBack(first, changes) }
}

/** Whether one of these was a decode and a saver. */
export const wasDecodeAndSaver = (node) => memoryOf(node) !== null

/** [id of the decode, id of the saver] that are connected, with a Create Video between them or not; null without. */
function pairAt(file, only) {
  const graph = file.graphs.find(({ id }) => id === only.graph)
  const node = graph && [...graph.nodes.values()].find(({ id }) => String(id) === String(only.node))
  if (!node) return null
  const after = (node) => {
    const fed = graph.linksFrom(node.id)
    return fed.length === 1 ? graph.nodes.get(get(fed[0], 'target_id')) : undefined
  }
  const before = (node, name) => {
    const [link] = graph.linksInto(node, name)
    return link && graph.nodes.get(get(link, 'origin_id'))
  }
  const isSaver = ({ type }) => type === OUR_SAVER.type || Object.hasOwn(SAVERS, type)
  const isDecode = ({ type }) => type === ELSEWHERE.decode || Object.hasOwn(DECODES, type)
  let [decode, saver] = [node, node]
  if (isSaver(node)) {
    decode = before(node, SAVERS[node.type]?.frames ?? 'video')
    if (decode?.type === CREATE_VIDEO.type) decode = before(decode, CREATE_VIDEO.frames)
  } else {
    saver = after(node)
    if (saver?.type === CREATE_VIDEO.type) saver = after(saver)
  }
  return decode && saver && isDecode(decode) && isSaver(saver) ? [decode.id, saver.id] : null
}

function send(workflow, changes, { savers, only = null }) {
  const file = new Workflow(workflow)
  const sent = []
  for (const graph of file.graphs)
    for (const decode of [...graph.nodes.values()].filter(({ type }) => type === ELSEWHERE.decode)) {
      const decided = decide(file, graph, decode)
      const { saver } = decided
      if (only && (graph.id !== only.graph || saver?.id !== only.node)) continue
      const family = familyAt(file, graph, decode)
      const goes = family ? ELSEWHERE.families.includes(family.name) : only !== null
      const why = decided.why || (goes ? '' : REASONS.stays)
      const nodes = saver && !why ? [decode, saver] : [decode]
      const [ids, before] = [nodes.map(({ id }) => id), nodes.map(({ type }) => type)]
      if (why) {
        sent.push(change(graph, ids, before, [], { reason: why }))
        continue
      }
      const pair = change(graph, ids, before, [ELSEWHERE.type])
      becomeOne(
        graph,
        decode,
        saver,
        changes.some((each) => isOfTheSame(each, pair))
      )
      const more = family ? { won: 'elsewhere', vae: family.name } : {}
      sent.push({ ...change(graph, ids, before, [saver.type], more) })
    }
  const both = bothSteps(changes, sent)
  return { workflow: file.workflow, changes: savers ? both : both.filter((each) => !isUndone(file, each)) }
}

function takeBack(workflow, only) {
  const file = new Workflow(structuredClone(workflow))
  const changes = []
  let fromStock = false
  for (const graph of file.graphs) {
    for (const node of [...graph.nodes.values()]) {
      if (only && !(graph.id === only.graph && String(node.id) === String(only.node))) continue
      const memory = memoryOf(node)
      if (!memory) continue
      const { type: before } = node
      const isUsed = (node.outputs ?? []).some((slot) => slot.links?.length)
      if (!isUsed) fromStock = Boolean(memory.from_stock)
      const nodes = isUsed ? [node] : becomeTwo(file, graph, node)
      const after = isUsed ? [] : nodes.map(({ type }) => type)
      const ids = nodes.map(({ id }) => id)
      changes.push(change(graph, ids, [before], after, { reason: isUsed ? REASONS.rewired : '' }))
    }
    graph.putInPlace()
  }
  return { workflow: file.workflow, changes, fromStock }
}

function bothSteps(first, then) {
  let left = [...first]
  const told = then.map((change) => {
    const steps = change.after.length ? left.filter((each) => isOfTheSame(each, change)) : []
    const was = new Map()
    for (const { nodes, before } of [...steps, change]) nodes.forEach((id, i) => was.has(id) || was.set(id, before[i]))
    left = left.filter((each) => !steps.includes(each))
    return { ...change, nodes: [...was.keys()], before: [...was.values()] }
  })
  return [...left, ...told]
}

function bothStepsBack(first, then) {
  let left = [...then]
  const told = first.map((change) => {
    const steps = change.after.length ? left.filter((each) => isOfTheSame(each, change)) : []
    const changed = steps.flatMap(({ nodes }) => nodes)
    const rest = change.after.filter((_, i) => !changed.includes(change.nodes[i]))
    left = left.filter((each) => !steps.includes(each))
    return { ...change, nodes: change.nodes.slice(-1), after: [...steps.flatMap(({ after }) => after), ...rest] }
  })
  return [...told, ...left]
}

const isOfTheSame = (change, other) =>
  change.after.length > 0 && change.graph === other.graph && change.nodes.some((id) => other.nodes.includes(id))

function isUndone(file, { won, graph: id, nodes }) {
  if (won !== 'saver') return false
  const graph = file.graphs.find((each) => each.id === id)
  const saver = graph.nodes.get(nodes[0])
  restoreSaver(graph, saver, inputs(saver), saverValuesNow(saver))
  return true
}

// ---------------------------------------------------------------------------- what to do

/** {saver}, or {why} there is none. */
function decide(file, graph, decode) {
  const fed = graph.linksFrom(decode.id)
  const saver = fed.length === 1 ? graph.nodes.get(get(fed[0], 'target_id')) : null
  if (!saver || saver.type !== OUR_SAVER.type || (saver.mode ?? 0) !== (decode.mode ?? 0))
    return { why: REASONS.not_one_saver }
  const coming = [decode, saver].flatMap((node) => graph.linksTo(node.id))
  const sound = !graph.isRerouted(fed[0]) && coming.every((link) => graph.isKnownToTarget(link))
  if (!sound || named(saver, 'video')?.link !== get(fed[0], 'id')) return { why: REASONS.not_one_saver }
  const used = (saver.outputs ?? []).filter((slot) => slot.links?.length).map(({ name }) => name)
  const settings = settingsOf(settingsIn(decode), settingsIn(saver))
  const [lost] = [...used, ...linksLost(decode, saver), ...shownLost(file, graph, decode, saver)]
  if (lost !== undefined || typeof settings === 'string')
    return { saver, why: reason('not_elsewhere', lost ?? settings) }
  return { saver, why: '' }
}

const settingsIn = (node) =>
  valuesOf(node, node.type === OUR_SAVER.type ? Object.keys(OUR_SAVER.widgets) : OURS[node.type].widgets)

function settingsOf(decode, saver) {
  const ours = {}
  for (const [rules, given] of [
    [ELSEWHERE.of_decode, decode],
    [ELSEWHERE.of_saver, saver]
  ])
    for (const [name, value] of Object.entries(given)) {
      const translated = Object.hasOwn(rules, name) ? translate(rules[name], value) : {}
      if (!translated) return `${name}: ${shown(value)}`
      Object.assign(ours, translated)
    }
  return ours
}

function linksLost(decode, saver) {
  const linkedIn = (node) =>
    inputs(node)
      .filter((slot) => slot.link != null)
      .map(({ name }) => name)
  const linked = linkedIn(decode)
  const ofSaver = linkedIn(saver).filter((name) => name !== 'video')
  const hasNoPlace = (rules) => (name) => !Object.hasOwn(ELSEWHERE.inputs, name) && !isMoved(rules, name)
  return [
    ...linked.filter(hasNoPlace('of_decode')),
    ...ofSaver.filter(hasNoPlace('of_saver')),
    ...ofSaver.filter((name) => linked.includes(name))
  ]
}

const isMoved = (rules, name) => Object.hasOwn(ELSEWHERE[rules], name) && ELSEWHERE[rules][name].to === name

function shownLost(file, graph, decode, saver) {
  const widgets = file.hosts(graph).flatMap(([, host]) => host.properties?.proxyWidgets ?? [])
  const shownOf = (node) => widgets.filter(([id]) => String(id) === String(node.id)).map(([, name]) => name)
  return [...shownOf(decode), ...shownOf(saver).filter((name) => !isMoved('of_saver', name))]
}

// ---------------------------------------------------------------------------- there, and back

function becomeOne(graph, decode, saver, fromStock) {
  const [link] = graph.linksFrom(decode.id)
  const settings = settingsOf(settingsIn(decode), settingsIn(saver))
  const memory = {
    decode,
    decode_position: graph.nodePositions.get(decode.id),
    link,
    link_position: graph.linkPositions.get(get(link, 'id')),
    saver: remember(saver, 'outputs', ...WIDGET_VALUES),
    pos: saver.pos,
    from_stock: fromStock
  }
  const slots = [...inputs(decode), ...inputs(saver)].filter((slot) => slot.link != null)
  const linked = Object.fromEntries(slots.map((slot) => [slot.name, slot.link]))
  become(saver, ELSEWHERE.type, { elsewhere: memory })
  saver.inputs = [
    ...Object.entries(ELSEWHERE.inputs).map(([name, type]) => ({ name, type, link: linked[name] ?? null })),
    ...slots.filter((slot) => slot.widget).map((slot) => widgetSlot(slot.name, slot.type, slot.link))
  ]
  saver.outputs = Object.entries(ELSEWHERE.outputs).map(([name, type]) => ({ name, type, links: null }))
  setTo(saver, { ...ELSEWHERE.widgets, ...settings })
  graph.remove(decode, link)
  graph.aimLinks(saver)
}

function memoryOf(node) {
  if (node.type !== ELSEWHERE.type) return null
  const memory = node.properties?.[MEMORY.key]?.elsewhere
  const parts = Object.entries(MEMORY.elsewhere)
  const whole = parts.every(([part, keys]) => memory?.[part] && keys.every((key) => memory[part][key] != null))
  return whole ? memory : null
}

function becomeTwo(file, graph, node) {
  const memory = structuredClone(memoryOf(node))
  const { decode, link, saver } = memory
  if (graph.nodes.has(decode.id)) decode.id = file.newId('node')
  if (graph.linkPositions.has(get(link, 'id'))) {
    put(link, 'id', file.newId('link'))
    decode.outputs = decode.outputs.map((slot) => ({ ...slot, links: [get(link, 'id')] }))
  }
  put(link, 'origin_id', decode.id)
  const settings = settingsOf(settingsIn(decode), settingsIn(saver))
  const then = { ...ELSEWHERE.widgets, ...(typeof settings === 'string' ? {} : settings) }
  const now = valuesOf(node, Object.keys(ELSEWHERE.widgets))
  const changed = Object.keys(then).filter((name) => Object.hasOwn(now, name) && now[name] !== then[name])
  const changedOf = (isTheirs) => Object.fromEntries(changed.filter(isTheirs).map((name) => [name, now[name]]))
  const defaults = Object.fromEntries(OURS[decode.type].widgets.map((name) => [name, DEFAULTS[name]]))
  setSome(decode, defaults, changedOf(isOfDecode))
  setSome(
    saver,
    OUR_SAVER.widgets,
    changedOf((name) => !isOfDecode(name))
  )
  const ofSaver = named(saver, 'audio')?.link != null ? ['audio'] : []
  const toDecode = inputs(node).filter(({ name }) => !ofSaver.includes(name) && isOfDecode(name))
  const isNew = ({ name, link }) => link != null && !named(decode, name)
  decode.inputs = [...withLinksOf({ inputs: toDecode }, inputs(decode)), ...toDecode.filter(isNew)]
  node.inputs = inputs(node).filter((slot) => !toDecode.includes(slot))
  decode.pos = movedAlong(decode.pos, memory.pos, node.pos)
  if ((decode.mode ?? 0) !== (node.mode ?? 0)) decode.mode = node.mode ?? 0
  revert(node, saver)
  if (!named(node, 'video')) node.inputs.unshift({ name: 'video', type: 'VIDEO', link: null })
  named(node, 'video').link = get(link, 'id')
  graph.add(decode, link, memory.decode_position, memory.link_position)
  graph.aimLinks(decode)
  graph.aimLinks(node)
  return [decode, node]
}

const isOfDecode = (name) => Object.hasOwn(ELSEWHERE.inputs, name) || isMoved('of_decode', name)

function setSome(node, defaults, given) {
  const changed = Object.fromEntries(Object.entries(given).filter(([name]) => Object.hasOwn(defaults, name)))
  if (!Object.keys(changed).length) return
  const names = Object.keys(defaults)
  const values = node.widgets_values ?? []
  if (Array.isArray(values)) {
    const length = Math.max(values.length, ...Object.keys(changed).map((name) => 1 + names.indexOf(name)))
    const known = {
      ...defaults,
      ...Object.fromEntries(names.slice(0, values.length).map((name, i) => [name, values[i]])),
      ...changed
    }
    node.widgets_values = [...names.slice(0, length).map((name) => known[name]), ...values.slice(names.length)]
  } else node.widgets_values = { ...values, ...changed }
  if (NAMED in node) node[NAMED] = { ...node[NAMED], ...changed }
}
