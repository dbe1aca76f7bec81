// Folds away the inputs of our nodes that few need, until "Show Advanced" in the node's menu.
//
// The nodes mark them as advanced, and the frontend's newer node renderer goes by that. The older one does not draw
// widgets with a property of that name, but nothing gives it to them, and it keeps their room free.
import { app } from '../../../scripts/app.js'
import { OUR_TYPES } from './our_nodes.js'

app.registerExtension({
  name: 'async-frame-pipeline.advancedInputs',
  nodeCreated(node) {
    if (!OUR_TYPES.includes(node.comfyClass)) return
    for (const widget of node.widgets ?? []) if (widget.options?.advanced) widget.advanced = true
    const layoutWidgets = node.getLayoutWidgets
    if (layoutWidgets)
      node.getLayoutWidgets = () => layoutWidgets.call(node).filter((widget) => node.showAdvanced || !widget.advanced)
    giveRoomBack(node)
    // As wide as the frontend has made it. A stored node brings its own size later.
    node.setSize([node.size[0], node.computeSize()[1]])
  }
})

/** Let the node grow and shrink by what is shown and hidden: both renderers only let it grow. */
function giveRoomBack(node) {
  let shown = node.showAdvanced
  Object.defineProperty(node, 'showAdvanced', {
    configurable: true,
    enumerable: true,
    get: () => shown,
    set(show) {
      const before = node.computeSize()[1]
      shown = show
      node.setSize([node.size[0], Math.max(0, node.size[1] + node.computeSize()[1] - before)])
    }
  })
}
