// Fills in %date:yyyy-MM-dd% and %Node title.widget% in the file name prefix of Save Video (Streaming).
//
// The frontend does that when a prompt is queued, but only for the savers on a list of its own.
import { app } from '../../../scripts/app.js'
import { applyTextReplacements } from '../../../scripts/utils.js'

app.registerExtension({
  name: 'async-frame-pipeline.filenamePrefix',
  nodeCreated(node) {
    if (node.comfyClass !== 'SaveVideoStreaming') return
    const prefix = node.widgets?.find((widget) => widget.name === 'filename_prefix')
    if (prefix) prefix.serializeValue = () => applyTextReplacements(app.rootGraph ?? app.graph, prefix.value)
  }
})
