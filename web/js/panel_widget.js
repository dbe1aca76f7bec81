// Puts a panel into a node, as a widget that has the panel's height and leaves no trace in workflows and prompts.
import { app } from '../../../scripts/app.js'

const WIDGET = 'async_frame_pipeline_lanes'
const MARGIN = 10

/** Add it; `removed` is called when the node goes. Gives a function that takes it out again. */
export function addPanel(node, panel, removed) {
  const hadWidgets = !!node.widgets
  const heightBefore = node.size[1]
  let isThere = true
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
    // Nodes 2.0 does not see it where nothing else changes, as when a video turns out to be so high. By no more than the
    // panel takes, which `onSerialize` takes off again.
    else if (LiteGraph.vueNodesMode)
      node.setSize([node.size[0], Math.max(node.size[1], heightBefore + height + 2 * MARGIN)])
    node.setDirtyCanvas(true, true)
  })
  observer.observe(panel.content)
  // On a picture, the wheel and the middle button are the canvas's.
  for (const kind of ['wheel', 'pointerdown'])
    panel.content.addEventListener(kind, (event) => {
      if (kind === 'pointerdown' && event.button !== 1)
        event.stopPropagation() // a click is no drag of the node
      else if (!node.graph || !LiteGraph.vueNodesMode) forward(event)
    })
  const { onSerialize, onRemoved } = node
  node.onSerialize = function (data) {
    onSerialize?.call(this, data)
    if (!isThere) return
    if (!hadWidgets) {
      delete data.widgets_values
      delete data.widgets_values_named
    }
    // The room that the panel takes is no part of the workflow either.
    data.size[1] = Math.max(Math.min(heightBefore, data.size[1]), data.size[1] - height - 2 * MARGIN)
  }
  node.onRemoved = function () {
    observer.disconnect()
    removed()
    onRemoved?.call(this)
  }
  return () => {
    observer.disconnect()
    isThere = false
    node.removeWidget(widget)
    node.setSize([node.size[0], Math.max(Math.min(heightBefore, node.size[1]), node.size[1] - height - 2 * MARGIN)])
    removed()
  }
}

function forward(event) {
  event.preventDefault()
  event.stopPropagation()
  app.canvas.canvas.dispatchEvent(new event.constructor(event.type, event))
}
