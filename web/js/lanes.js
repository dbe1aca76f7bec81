// Shows in a node what its lanes are doing, and what they did: the panel of lanes_panel.js as a widget.
//
// The server tells it while a node runs (nodes/live.py). How a run ended also stays in the node's outputs, where
// the frontend keeps it over a change of tab, an undo, and a job opened from the queue; and the server after that.
import { app } from '../../../scripts/app.js'
import { api } from '../../../scripts/api.js'
import { LanesPanel } from './lanes_panel.js'
import { OUR_TYPES, SAVER } from './our_nodes.js'
import { eachOutput, everyNode, locatorOf, nodeOfExecution } from './outputs.js'
import { addPanel } from './panel_widget.js'
import { earlierOutputs } from './earlier_outputs.js'
import { languagesLoaded, menuEntry, onLanguageChange, userLanguage } from './user_language.js'

const EVENT = 'async-frame-pipeline.lanes'
const OUTPUT = 'async_frame_pipeline'
const HIDES_PREVIEW = 'async_frame_pipeline_hides_preview' // a node's property

// node -> its panel, and the event that it shows. Weak, since nobody says that a node in a subgraph is gone when the
// workflow is cleared.
const panels = new WeakMap()

app.registerExtension({
  name: 'async-frame-pipeline.lanes',
  settings: [
    {
      id: 'AsyncFramePipeline.ShowLatestFrame', // read by nodes/live.py when a run starts
      name: 'Async Frame Pipeline: show the latest frame while saving',
      category: ['Async Frame Pipeline', 'Saving', 'ShowLatestFrame'],
      tooltip: 'A small picture, once a second, in Save Video (Streaming).',
      type: 'boolean',
      defaultValue: true
    },
    {
      id: 'AsyncFramePipeline.OtherModels', // read by nodes/families/wan.py when a decode begins
      name: 'Async Frame Pipeline: other models while decoding',
      category: ['Async Frame Pipeline', 'Memory', 'OtherModels'],
      tooltip:
        'Where the fast decoder has little GPU memory beside other models: keep them and decode in smaller parts, or ' +
        'unload them. Auto: whatever takes less time, counting that of loading them again.',
      type: 'combo',
      options: [
        { text: 'Auto', value: 'auto' },
        { text: 'Keep them', value: 'keep' },
        { text: 'Unload them', value: 'unload' }
      ],
      defaultValue: 'auto'
    }
  ],
  async setup() {
    const style = document.createElement('link')
    style.rel = 'stylesheet'
    style.href = new URL('./lanes.css', import.meta.url).href
    document.head.append(style)
    api.addEventListener(EVENT, ({ detail }) => {
      const node = nodeOfExecution(detail.node)
      // An event may come for a node of another tab's workflow; then the one with its id here is mostly another type.
      if (node?.type !== detail.type) return
      // What ours has saved comes with its output; others show theirs themselves.
      if (detail.report && node.type !== SAVER) detail.report.files = []
      show(node, detail)
      if (detail.state === 'done') keep(node, detail.report)
    })
    api.addEventListener('executed', ({ detail }) => {
      const node = nodeOfExecution(detail.display_node || detail.node)
      if (detail.output?.[OUTPUT]) showOutput(node, detail.output)
      else if (panels.get(node)?.event.report) keep(node, panels.get(node).event.report) // of a stock saver
    })
    api.addEventListener('execution_error', ({ detail }) => {
      const node = nodeOfExecution(detail.node_id)
      if (node?.type !== detail.node_type) return
      if (panels.has(node) || OUR_TYPES.includes(node.type))
        show(node, { state: 'failed', message: detail.exception_message })
    })
    onLanguageChange(showAgain)
    languagesLoaded.then(showAgain)
  },
  nodeCreated(node) {
    if (node.comfyClass !== SAVER) return
    // The panel shows what was saved. The frontend's own preview, in either renderer, would be a second one, with
    // an error in it for what browsers do not play.
    node.hideOutputImages = true
    node.onDrawBackground = () => {}
  },
  getNodeMenuItems(node) {
    if (node.type !== SAVER) return []
    const hidden = !!node.properties[HIDES_PREVIEW]
    const hide = () => {
      if (hidden) delete node.properties[HIDES_PREVIEW]
      else node.setProperty(HIDES_PREVIEW, true)
      panels.get(node)?.panel.stage.hide(!hidden)
    }
    return [{ content: menuEntry(hidden ? 'Show preview' : 'Hide preview'), callback: hide }]
  },
  afterConfigureGraph() {
    showOutputs(app.nodeOutputs)
    showEarlier()
  },
  onNodeOutputsUpdated: showOutputs
})

function show(node, event) {
  if (!panels.has(node)) {
    const panel = new LanesPanel(userLanguage(), urlOf)
    panels.set(node, { panel })
    addPanel(node, panel, () => panels.delete(node))
  }
  const shown = panels.get(node)
  shown.event = event
  shown.panel.stage.hide(!!node.properties[HIDES_PREVIEW])
  shown.panel.show(event)
}

/** In the language that is now the user's. */
function showAgain() {
  const language = userLanguage()
  for (const node of everyNode()) {
    const shown = panels.get(node)
    shown?.panel.speak(language)
    shown?.panel.show(shown.event)
  }
}

function showOutput(node, output) {
  const report = reportIn(output)
  // The frontend may have put it into another tab's node, which has the id of the one that ran.
  if (!node || !(OUR_TYPES.includes(node.type) || report?.type === node.type)) return
  // Reports of versions before there was a verdict have nothing to show.
  if (report?.verdict) show(node, { state: 'done', report })
}

function showOutputs(outputs) {
  eachOutput(outputs, showOutput)
}

function reportIn(output) {
  const [text] = output?.[OUTPUT] ?? []
  return typeof text === 'string' ? JSON.parse(text) : undefined
}

/** Puts the report where the outputs of savers are; a stock saver has none of its own. */
function keep(node, report) {
  const locator = locatorOf(node)
  const kept = JSON.stringify({ ...report, type: node.type })
  app.nodeOutputs[locator] = { ...app.nodeOutputs[locator], [OUTPUT]: [kept] }
}

/** What the nodes of this workflow gave before the page was loaded. */
async function showEarlier() {
  const { id: workflow } = app.rootGraph
  const outputs = await earlierOutputs(workflow)
  if (app.rootGraph.id !== workflow) return // another tab by now; it is one and the same graph object
  for (const [id, output] of Object.entries(outputs)) {
    const node = nodeOfExecution(id)
    if (!node || !OUR_TYPES.includes(node.type) || panels.has(node) || !reportIn(output)) continue
    app.nodeOutputs[locatorOf(node)] = output
    showOutput(node, output)
  }
}

/** Where the server hands out a file; with a stamp of the run, since a later one may have a file of the same name. */
function urlOf({ filename, subfolder, type }, stamp) {
  const query = new URLSearchParams({ filename, subfolder, type, ...(stamp && { run: stamp }) })
  return api.apiURL(`/view?${query}`)
}
