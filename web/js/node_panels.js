// The panel in a node (lanes_panel.js): one for all that there is to show, made when there is something.
import { api } from '../../../scripts/api.js'
import { LanesPanel } from './lanes_panel.js'
import { everyNode } from './outputs.js'
import { addPanel } from './panel_widget.js'
import { userLanguage } from './user_language.js'

const HIDES_PREVIEW = 'async_frame_pipeline_hides_preview' // a node's property

// node -> its panel, and the event that it shows. Weak, since nobody says that a node in a subgraph is gone when the
// workflow is cleared.
const panels = new WeakMap()

/** The event that a node's panel shows; undefined where it has none. */
export const shownIn = (node) => panels.get(node)?.event

/** Show an event, see `LanesPanel.show`. */
export function show(node, event) {
  if (!panels.has(node)) {
    const panel = new LanesPanel(userLanguage(), urlOf)
    const remove = addPanel(node, panel, () => panels.delete(node))
    panels.set(node, { panel, remove })
  }
  const shown = panels.get(node)
  shown.event = event
  shown.panel.stage.hide(hidesPreview(node))
  shown.panel.show(event)
}

/** Take a node's panel away. */
export const hide = (node) => panels.get(node)?.remove()

export const hidesPreview = (node) => !!node.properties[HIDES_PREVIEW]

export function hidePreview(node, hidden) {
  if (hidden) node.setProperty(HIDES_PREVIEW, true)
  else delete node.properties[HIDES_PREVIEW]
  panels.get(node)?.panel.stage.hide(hidden)
}

/** Show everything in the language that is now the user's. */
export function showAgain() {
  const language = userLanguage()
  for (const node of everyNode()) {
    const shown = panels.get(node)
    shown?.panel.speak(language)
    shown?.panel.show(shown.event)
  }
}

/** Where the server hands out a file; with a stamp of the run, since a later one may have a file of the same name. */
function urlOf({ filename, subfolder, type }, stamp) {
  const query = new URLSearchParams({ filename, subfolder, type, ...(stamp && { run: stamp }) })
  return api.apiURL(`/view?${query}`)
}
