// The swap as the browser has it, for node. As a program, it swaps what it is given:
//
// stdin: a JSON list of {workflow or file, reverse, tiles, everything, savers, elsewhere}; stdout: a list of {after, changes}, or of {error} where it
// throws. `after` is null where nothing changed. Of {settings: [type, values, links]}: what a saver is set to.
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

globalThis.fetch = async (url) => new Response(readFileSync(url)) // node fetches no files

const { partnerType, swap: swapHere } = await import('../../web/js/swap_workflow.js')
const { canGoElsewhere, restoreAll: restore, swapElsewhere } = await import('../../web/js/swap_elsewhere.js')
const { explain, nothingToChange } = await import('../../web/js/swap_message.js')
const { NAMES } = await import('../../web/js/swap_rules.js')
const { settingsOf } = await import('../../web/js/swap_savers.js')
const swap = (workflow, { elsewhere, ...options } = {}) => (elsewhere ? swapElsewhere : swapHere)(workflow, options)
export { NAMES, canGoElsewhere, explain, nothingToChange, partnerType, restore, swap }

function swapped({ workflow, file, reverse, settings, ...options }) {
  if (settings) return settingsOf(...settings)
  const before = workflow ?? JSON.parse(readFileSync(file, 'utf8'))
  try {
    const { workflow: after, changes } = reverse ? restore(before) : swap(before, options)
    return { after: JSON.stringify(after) === JSON.stringify(before) ? null : after, changes }
  } catch (error) {
    return { error: String(error) }
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url))
  process.stdout.write(JSON.stringify(JSON.parse(readFileSync(0, 'utf8')).map(swapped)))
