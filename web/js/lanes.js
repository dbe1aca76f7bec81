// Shows in a node what its lanes are doing, and what they did: the panel of lanes_panel.js as a widget.
//
// The server tells it while a node runs (nodes/live.py). How a run ended also stays in the node's outputs, where
// the frontend keeps it over a change of tab, an undo, and a job opened from the queue; and the server after that.
import { app } from '../../../scripts/app.js'
import { api } from '../../../scripts/api.js'
import { earlierOutputs } from './earlier_outputs.js'
import { hasOpenJob, isOfJobs, showJobs } from './jobs.js'
import { hide, hidePreview, hidesPreview, show, showAgain, shownIn } from './node_panels.js'
import { OUR_TYPES, SAVERS } from './our_nodes.js'
import { OUTPUT, eachOutput, locatorOf, nodeOfExecution, reportIn } from './outputs.js'
import { languagesLoaded, menuEntry, onLanguageChange } from './user_language.js'

const EVENT = 'async-frame-pipeline.lanes'

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
      if (detail.report && !SAVERS.includes(node.type)) detail.report.files = []
      show(node, detail)
      if (detail.state === 'done') keep(node, detail.report)
    })
    api.addEventListener('executed', ({ detail }) => {
      if (isOfJobs(detail.output)) return // jobs.js shows it
      const node = nodeOfExecution(detail.display_node || detail.node)
      if (detail.output?.[OUTPUT]) showOutput(node, detail.output)
      else if (shownIn(node)?.report) keep(node, shownIn(node).report) // of a stock saver
    })
    api.addEventListener('execution_error', ({ detail }) => {
      const node = nodeOfExecution(detail.node_id)
      if (node?.type !== detail.node_type) return
      if (shownIn(node) || OUR_TYPES.includes(node.type))
        show(node, { state: 'failed', message: detail.exception_message })
    })
    // How the last run failed is no news once the node runs again, which may end without a word from it.
    api.addEventListener('executing', ({ detail: id }) => {
      const node = nodeOfExecution(id)
      if (node && shownIn(node)?.message) hide(node)
    })
    onLanguageChange(showAgain)
    languagesLoaded.then(showAgain)
  },
  nodeCreated(node) {
    if (!SAVERS.includes(node.comfyClass)) return
    // The panel shows what was saved. The frontend's own preview, in either renderer, would be a second one, with
    // an error in it for what browsers do not play.
    node.hideOutputImages = true
    node.onDrawBackground = () => {}
  },
  getNodeMenuItems(node) {
    if (!SAVERS.includes(node.type)) return []
    const hidden = hidesPreview(node)
    const text = menuEntry(hidden ? 'Show preview' : 'Hide preview')
    return [{ content: text, callback: () => hidePreview(node, !hidden) }]
  },
  afterConfigureGraph() {
    showOutputs(app.nodeOutputs)
    showEarlier()
  },
  onNodeOutputsUpdated: showOutputs
})

function showOutput(node, output) {
  const report = reportIn(output)
  // The frontend may have put it into another tab's node, which has the id of the one that ran.
  if (!node || !(OUR_TYPES.includes(node.type) || report?.type === node.type)) return
  // Reports of versions before there was a verdict have nothing to show.
  if (!report?.verdict) return
  show(node, { state: 'done', report })
  showJobs(node)
}

function showOutputs(outputs) {
  eachOutput(outputs, showOutput)
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
    if (!node || !OUR_TYPES.includes(node.type) || !reportIn(output)) continue
    const shown = shownIn(node)
    if (shown && !(shown.job && !hasOpenJob(node))) continue
    app.nodeOutputs[locatorOf(node)] = output
    showOutput(node, output)
  }
}
