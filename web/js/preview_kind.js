// Lets Nodes 2.0 show what Save Video (Streaming) has saved: pictures as pictures, and first what browsers play.
//
// It takes all that a node with a VIDEO input shows for videos, unless told otherwise, and begins with the first file.
// The older renderer finds out by itself, but for a node that has shown a video before: it would go on showing that one.
import { app } from '../../../scripts/app.js'
import { eachOutput, locatorOf } from './outputs.js'

const SAVER = 'SaveVideoStreaming'
const PICTURE = /\.(gif|png|webp)$/

app.registerExtension({
  name: 'async-frame-pipeline.previewKind',
  nodeCreated(node) {
    if (node.comfyClass !== SAVER) return
    const { onExecuted } = node
    node.onExecuted = function (output) {
      removePlayer(this)
      onExecuted?.call(this, output)
      tell(this, output)
      // Newer frontends show a copy of it.
      tell(this, app.nodeOutputs?.[locatorOf(this)])
    }
  },
  // Outputs that were there before: after an undo, a change of tab, or a job opened from the queue.
  afterConfigureGraph: () => tellAll(app.nodeOutputs),
  onNodeOutputsUpdated: tellAll
})

function tellAll(outputs) {
  eachOutput(outputs, tell)
}

function tell(node, output) {
  const files = output?.images
  if (node?.comfyClass !== SAVER || !files?.length) return
  node.previewMediaType = PICTURE.test(files[0].filename) ? 'image' : 'video'
  // The small copy of a file that browsers do not play comes second, for programs that fetch what was saved.
  if (files.length === 2 && files[1].type === 'temp') files.reverse()
}

// The older renderer's; it makes a new one if what was saved is a video that plays.
function removePlayer(node) {
  const at = node.widgets?.findIndex((widget) => widget.name === 'video-preview') ?? -1
  if (at < 0) return
  node.widgets[at].onRemove?.()
  node.widgets.splice(at, 1)
  delete node.videoContainer
}
