// Switches keep_frames on when somebody connects the frames output of Save Video (Streaming).
//
// Without it there are no frames, and the server refuses the prompt. A stored workflow is as it was: its widgets get
// their values after its links.
import { app } from '../../../scripts/app.js'

app.registerExtension({
  name: 'async-frame-pipeline.keepFrames',
  nodeCreated(node) {
    if (node.comfyClass !== 'SaveVideoStreaming') return
    const onConnectionsChange = node.onConnectionsChange
    node.onConnectionsChange = function (kind, index, connected, ...rest) {
      onConnectionsChange?.call(this, kind, index, connected, ...rest)
      if (kind !== LiteGraph.OUTPUT || !connected || this.outputs[index]?.name !== 'frames') return
      const keep = this.widgets?.find((widget) => widget.name === 'keep_frames')
      if (keep) keep.value = true
    }
  }
})
