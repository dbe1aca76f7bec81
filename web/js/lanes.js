// Shows in a node of ours what its lanes are doing, and what they did: the panel of lanes_panel.js as a widget.
//
// The server tells it while a node runs (nodes/live.py). How a run ended also stays in the node's outputs, where
// the frontend keeps it over a change of tab, an undo, and a job opened from the queue.
import { app } from '../../../scripts/app.js'
import { api } from '../../../scripts/api.js'
import { LanesPanel } from './lanes_panel.js'
import { eachOutput, locatorOf } from './outputs.js'

const EVENT = 'async-frame-pipeline.lanes'
const OUTPUT = 'async_frame_pipeline'
// An event may come for a node of another tab's workflow; then the one with its id here is mostly another type.
const NODE_TYPES = ['AsyncVAEDecodeVideo', 'SaveVideoStreaming']
const WIDGET = 'async_frame_pipeline_lanes'
const MARGIN = 10

const panels = new WeakMap() // node -> its panel

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
    }
  ],
  setup() {
    const style = document.createElement('link')
    style.rel = 'stylesheet'
    style.href = new URL('./lanes.css', import.meta.url).href
    document.head.append(style)
    api.addEventListener(EVENT, ({ detail }) => {
      const node = nodeOfExecution(detail.node)
      if (!node) return
      show(node, detail)
      if (detail.state === 'done') keep(node, detail.report)
    })
    api.addEventListener('executed', ({ detail }) => {
      showOutput(nodeOfExecution(detail.display_node || detail.node), detail.output)
    })
  },
  afterConfigureGraph: () => showOutputs(app.nodeOutputs),
  onNodeOutputsUpdated: showOutputs
})

function show(node, event) {
  if (!NODE_TYPES.includes(node.type)) return
  if (!panels.has(node)) panels.set(node, addPanel(node))
  panels.get(node).show(event)
}

function showOutput(node, output) {
  const report = output?.[OUTPUT]?.[0]
  // Reports of versions before there was a verdict have nothing to show.
  if (node && report?.verdict) show(node, { state: 'done', report })
}

function showOutputs(outputs) {
  eachOutput(outputs, showOutput)
}

/** Puts the report where the outputs of savers are; a decoder has none of its own. */
function keep(node, report) {
  const locator = locatorOf(node)
  app.nodeOutputs[locator] = { ...app.nodeOutputs[locator], [OUTPUT]: [report] }
}

/** The node of an execution id: its own id behind those of the subgraph nodes around it, as in "5:12". */
function nodeOfExecution(id) {
  let graph = app.rootGraph
  const path = `${id}`.split(':')
  const last = path.pop()
  for (const step of path) graph = graph?.getNodeById(step)?.subgraph
  return graph?.getNodeById(last)
}

function addPanel(node) {
  const panel = new LanesPanel()
  const hadWidgets = !!node.widgets
  const heightBefore = node.size[1]
  let height = 100 // of the panel; a guess until it has been laid out
  const widget = node.addDOMWidget(WIDGET, 'async-frame-pipeline-lanes', panel.element, {
    serialize: false, // not in prompts
    margin: MARGIN,
    getMinHeight: () => height + 2 * MARGIN,
    getMaxHeight: () => height + 2 * MARGIN,
    // The canvas lets a node grow after having drawn it: else it would stay drawn too small until the next event.
    afterResize: () => node.setDirtyCanvas(true, true)
  })
  widget.serialize = false // not in workflows
  const observer = new ResizeObserver(() => {
    const shrunk = height - panel.content.offsetHeight
    if (shrunk === height) return // not on screen
    height -= shrunk
    if (shrunk > 0) node.setSize([node.size[0], Math.max(heightBefore, node.size[1] - shrunk)])
    node.setDirtyCanvas(true, true)
  })
  observer.observe(panel.content)
  const { onSerialize, onRemoved } = node
  node.onSerialize = function (data) {
    onSerialize?.call(this, data)
    if (!hadWidgets) {
      delete data.widgets_values
      delete data.widgets_values_named
    }
    // The room that the panel takes is no part of the workflow either.
    data.size[1] = Math.max(Math.min(heightBefore, data.size[1]), data.size[1] - height - 2 * MARGIN)
  }
  node.onRemoved = function () {
    observer.disconnect()
    onRemoved?.call(this)
  }
  return panel
}
