// What the user is told of a swap. Knows nothing of the editor.
import { Workflow } from './swap_graph.js'
import { OURS, REASONS, TILES_COME_BACK, WON, isWithoutItsTiles } from './swap_rules.js'

/**
 * What was changed and what is won by it, and what was left alone and why; alike ones counted together.
 *
 * @param changes as `swap` and `restore` return them.
 * @param displayName a node type's name, in the user's language.
 * @param translated a text in the user's language.
 * @returns lines of text.
 */
export function explain(changes, displayName, translated) {
  const named = (types) => types.map(displayName).join(' + ')
  const lines = changes.map(({ before, after, reason, won, vae }) => {
    if (reason) return `${named(before)} ${translated('left alone')}: ${inUsersLanguage(reason, translated)}`
    const notes = won ? [translated(WON[won]).replace('%name%', () => vae)] : []
    if (isWithoutItsTiles(before, after)) notes.push(translated(TILES_COME_BACK))
    return `${named(before)} → ${named(after)}${notes.length ? ` (${notes.join('; ')})` : ''}`
  })
  const counts = new Map()
  for (const line of lines) counts.set(line, (counts.get(line) ?? 0) + 1)
  return [...counts].map(([line, count]) => (count > 1 ? `${count} × ${line}` : line)).join('\n')
}

/** {summary, detail} where nothing of a workflow was to be changed nor had to be left alone. */
export function nothingToChange(workflow, translated) {
  const types = new Workflow(workflow).graphs.flatMap(({ nodes }) => [...nodes.values()].map(({ type }) => type))
  const isDone = types.some((type) => Object.hasOwn(OURS, type))
  return {
    summary: translated('Nothing to change'),
    detail: isDone ? translated('The decodes of this workflow are streamed already') : ''
  }
}

/** A reason, which may have a name in it that is not to be translated. */
function inUsersLanguage(reason, translated) {
  for (const text of Object.values(REASONS)) {
    const [start, end] = text.split('%name%')
    if (end !== undefined && reason.startsWith(start) && reason.endsWith(end))
      return translated(text).replace('%name%', () => reason.slice(start.length, -end.length))
  }
  return translated(reason)
}
