// What a saver's settings are in Save Video (Streaming). Its twin, with the explanations, is automation/savers.py.
import { OUR_SAVER, SAVERS, reason } from './swap_rules.js'

/** {values, links} by the names of our inputs; or {why}, where there is no match. */
export function settingsOf(type, values, links) {
  const saver = SAVERS[type]
  const known = rulesOf(type, values)
  const { by } = saver
  if (by !== null && by in links) return { why: reason('connected', by) }
  if (!known) return noMatch(by, values[by])
  const ours = { ...formatOf(type, values).sets }
  const moved = {}
  for (const [name, rule] of Object.entries(known)) {
    if (name in links) {
      if (rule.link !== links[name] && (links[name] !== null || !('link' in rule) || 'also' in rule))
        return { why: reason('connected', name) }
      moved[name] = rule.to
      if (name in values) ours[rule.to] = values[name]
      continue
    }
    const value = name in values ? values[name] : rule.default
    const translated = translate(rule, value)
    if (!translated) return noMatch(name, value)
    Object.assign(ours, translated)
  }
  const ignored = [by, ...saver.ignored, ...(formatOf(type, values).ignored ?? [])]
  for (const name of Object.keys(values))
    if (!Object.hasOwn(known, name) && !ignored.includes(name)) return noMatch(name, values[name])
  for (const [name, type] of Object.entries(links)) {
    const fits = [saver.frames, ...saver.inputs].includes(name) && [null, '*', OUR_SAVER.inputs[name]].includes(type)
    if (!Object.hasOwn(known, name) && !fits) return { why: reason('connected', name) }
  }
  return { values: ours, links: moved }
}

function formatOf(type, values) {
  const { by, formats } = SAVERS[type]
  const format = by === null ? '' : shown(values[by])
  return Object.hasOwn(formats, format) ? formats[format] : null
}

export function rulesOf(type, values) {
  const found = formatOf(type, values)
  return found && { ...SAVERS[type].settings, ...found.settings }
}

export function translate(rule, value) {
  if ('is' in rule) return Object.hasOwn(rule.is, shown(value)) ? rule.is[shown(value)] : null
  if ('add' in rule || 'within' in rule || 'from' in rule) {
    if (typeof value !== 'number') return null
    const [low, high] = rule.within ?? [0, Infinity]
    if (!(low <= value && value <= high)) return null
    if ('from' in rule) return rule.from.find(([least]) => value >= least)[1]
    return { [rule.to]: value > 0 ? value + (rule.add ?? 0) : value }
  }
  return { [rule.to]: value }
}

export const shown = (value) =>
  value !== null && typeof value === 'object' ? JSON.stringify(value) : String(value ?? null)

const noMatch = (name, value) => ({ why: reason('no_match', `${name}: ${shown(value)}`) })
