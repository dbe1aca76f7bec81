// Swaps the stock decodes and savers in a workflow for this pack's, and back: by right-click on a node, and by two
// commands.
//
// A swap is made in the serialised workflow, by the same rules as in files (swap_workflow.js), and loaded the way the
// editor loads an undo step. So ids, links, reroutes, the widgets on subgraphs and inputs that come and go with their
// links all stay as they are, which taking nodes out and connecting new ones cannot promise.
import { app } from '../../../scripts/app.js'
import { api } from '../../../scripts/api.js'
import { explain, nothingToChange } from './swap_message.js'
import { CREATE_VIDEO, DECODES, ELSEWHERE, NAMES, OURS, OUR_SAVER, SAVERS } from './swap_rules.js'
import { canGoElsewhere, restoreAll as restore, swapElsewhere, wasDecodeAndSaver } from './swap_elsewhere.js'
import { partnerType, swap, wasSaver } from './swap_workflow.js'
import { menuEntry } from './user_language.js'

const SPEED_UP = 'AsyncFramePipeline.SpeedUpVideoDecoding'
const RESTORE = 'AsyncFramePipeline.RestoreVideoDecoding'
const TOAST_MS = 10_000
const SETTLE_FRAMES = 10
// What there is for VAE Decode (Tiled).
const IN_TILES = [
  { tiles: 'same', standsFor: 'VAEDecodeTiled' },
  { tiles: 'without', standsFor: 'VAEDecode', suffix: ', without tiles' }
]

app.registerExtension({
  name: 'async-frame-pipeline.swap',
  getNodeMenuItems(node) {
    const only = { graph: idOf(node.graph), node: node.id }
    if (wasDecodeAndSaver(node))
      return [item('Restore the decode and the saver that this was', 'Decodes restored', restore, { only })]
    return [...itemsHere(node, only), ...itemsElsewhere(node, only)]
  },
  commands: [
    {
      id: SPEED_UP,
      label: 'Speed up video decoding in this workflow',
      icon: 'pi pi-bolt',
      mutatesGraph: true,
      function: () => change('Decodes swapped', swap)
    },
    {
      id: RESTORE,
      label: 'Restore stock video decoding',
      icon: 'pi pi-undo',
      mutatesGraph: true,
      function: () => change('Decodes restored', restore)
    }
  ],
  menuCommands: [{ path: ['Edit'], commands: [SPEED_UP, RESTORE] }]
})

function itemsHere(node, only) {
  if (Object.hasOwn(OURS, node.type)) return [item('Restore stock VAE Decode', 'Decodes restored', restore, { only })]
  if (wasSaver(node)) return [item('Restore the saver that this was', 'Savers restored', restore, { only })]
  if (Object.hasOwn(SAVERS, node.type))
    return [item(`Swap for ${NAMES[OUR_SAVER.type]}`, 'Savers swapped', swap, { only })]
  if (!Object.hasOwn(DECODES, node.type)) return []
  const partner = partnerType(serialized(), only)
  const ways = DECODES[node.type].without_tiles ? IN_TILES : [{ standsFor: node.type }]
  return ways.flatMap(({ tiles, standsFor, suffix = '' }) => {
    const { alone, pair } = DECODES[standsFor]
    const toImages = item(`Swap for ${NAMES[alone]}${suffix}`, 'Decodes swapped', swap, { only, pair: false, tiles })
    if (!partner) return [toImages]
    const withCreateVideo = `Swap with ${NAMES[CREATE_VIDEO.type]} for ${NAMES[pair]}${suffix}`
    const withSaver = `Swap with its saver, to save while it decodes${tiles === 'same' ? ', in the same tiles' : suffix}`
    const text = partner === CREATE_VIDEO.type ? withCreateVideo : withSaver
    return [toImages, item(text, 'Decodes swapped', swap, { only, tiles })]
  })
}

/** Nothing is ever sent elsewhere but by this. */
function itemsElsewhere(node, only) {
  const isOne = [DECODES, SAVERS].some((types) => Object.hasOwn(types, node.type))
  if (!isOne && ![ELSEWHERE.decode, OUR_SAVER.type].includes(node.type)) return []
  if (!canGoElsewhere(serialized(), only)) return []
  return [item(`Swap for ${NAMES[ELSEWHERE.type]}`, 'Decodes swapped', swapElsewhere, { only })]
}

/** An entry of a node's menu, which changes the workflow. */
const item = (text, what, how, options) => ({ content: menuEntry(text), callback: () => change(what, how, options) })

/** Change the workflow by a function of swap_workflow.js, and tell the user what came of it. */
async function change(what, how, options) {
  const before = serialized()
  const { workflow, changes } = how(before, options)
  const done = changes.filter(({ after }) => after.length)
  if (done.length) {
    await load(workflow)
    select(done)
  }
  const translated = await translator()
  app.extensionManager.toast.add({
    severity: done.length ? 'success' : 'info',
    ...(changes.length
      ? { summary: `${translated(what)}: ${done.length}`, detail: explain(changes, displayName, translated) }
      : nothingToChange(before, translated)),
    life: TOAST_MS
  })
}

/** Load a workflow in the place of the one shown, as one step that undo takes back. */
async function load(workflow) {
  const active = () => app.extensionManager.workflow.activeWorkflow?.changeTracker
  const tracker = active()
  const capture = tracker.captureCanvasState ?? tracker.checkState // older frontends
  capture.call(tracker) // what was edited just before is a step of its own
  tracker.redoQueue.splice(0, Infinity, workflow)
  tracker.beforeChange()
  try {
    await tracker.redo()
    // A loaded graph settles in the frames after: nodes grow to fit, types of slots are inferred. What it settles to
    // is given to the tracker, or that would be a second step.
    for (let frame = 0; frame < SETTLE_FRAMES; frame++) await new Promise(requestAnimationFrame)
    if (tracker === active()) tracker.activeState = serialized() // else another tab is shown by now
  } finally {
    tracker.afterChange()
  }
}

/** The workflow as it would be saved. */
const serialized = () => JSON.parse(JSON.stringify(app.rootGraph.serialize()))

/** The id of the definition that a graph is shown from; null for the workflow itself. */
const idOf = (graph) => (graph === app.rootGraph ? null : graph?.id)

/** Select the nodes that changed, as far as they are in the graph shown. */
function select(changes) {
  const { graph } = app.canvas
  const shown = changes.filter((change) => change.graph === idOf(graph))
  const nodes = shown.map(({ nodes }) => graph.getNodeById(nodes.at(-1)))
  if (nodes.length) app.canvas.selectItems(nodes)
}

/** A node type's name in the user's language. */
const displayName = (type) => LiteGraph.registered_node_types[type]?.nodeData?.display_name ?? NAMES[type] ?? type

/** Translates into the user's language what locales/ holds; the rest stays English. */
async function translator() {
  const locales = await api.getCustomNodesI18n().catch(() => ({}))
  const texts = locales[app.extensionManager.setting.get('Comfy.Locale')]?.asyncFramePipeline
  return (text) => texts?.[text] ?? text
}
