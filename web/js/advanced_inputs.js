// Folds away the inputs of our nodes that few need, until "Show Advanced" in the node's menu.
//
// The nodes mark them as advanced, and the frontend's newer node renderer goes by that. The older one does not draw
// widgets with a property of that name, but nothing gives it to them, and it keeps their room free.
import { app } from '../../../scripts/app.js'

const NODES = ['SaveVideoStreaming']

app.registerExtension({
  name: 'async-frame-pipeline.advancedInputs',
  nodeCreated(node) {
    if (!NODES.includes(node.comfyClass)) return
    for (const widget of node.widgets ?? []) widget.advanced ??= widget.options?.advanced
    const layoutWidgets = node.getLayoutWidgets
    if (layoutWidgets)
      node.getLayoutWidgets = () => layoutWidgets.call(node).filter((widget) => node.showAdvanced || !widget.advanced)
    // A stored node brings its own size later.
    node.setSize(node.computeSize())
  }
})
