// Shows the choices of our nodes in the user's language, which the frontend has no place for. Their values stay.
import { app } from '../../../scripts/app.js'
import { OUR_TYPES } from './our_nodes.js'
import { choice } from './user_language.js'

app.registerExtension({
  name: 'async-frame-pipeline.choices',
  nodeCreated(node) {
    if (!OUR_TYPES.includes(node.comfyClass)) return
    for (const widget of node.widgets ?? []) if (widget.type === 'combo') widget.options.getOptionLabel = choice
  }
})
