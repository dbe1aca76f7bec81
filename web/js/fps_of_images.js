// Greys out fps on Save Video (Streaming) while a video is connected: a video has its own, and this one is not used.
import { app } from '../../../scripts/app.js'

app.registerExtension({
  name: 'async-frame-pipeline.fpsOfImages',
  nodeCreated(node) {
    if (node.comfyClass !== 'SaveVideoStreaming') return
    // Also when it is opened: the frontend may give a node of an id that it has seen what the one before had.
    for (const event of ['onConnectionsChange', 'onAdded', 'onConfigure']) {
      const before = node[event]
      node[event] = function (...args) {
        before?.apply(this, args)
        const fps = this.widgets?.find((widget) => widget.name === 'fps')
        const video = this.inputs?.find((input) => input.name === 'video')
        if (fps) fps.disabled = video?.link != null
      }
    }
  }
})
