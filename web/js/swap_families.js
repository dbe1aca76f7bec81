// Which VAE a decode gets, by the names of files and of nodes; and what is won with it. Its twin, with the
// explanations, is automation/families.py.
import { DECODES, FAMILIES, LONGEST_ROW, REASONS } from './swap_rules.js'

const NUMBER = /^\s*[0-9]+(\.[0-9]+)?\s*$/
const FILE = /\.(safetensors|sft|ckpt|pt|pth|bin|gguf)$|^(light)?tae\w+$/i

/** The family of a VAE that comes out of a node of this type that loads these files; null if that cannot be told. */
export function familyOf(fileNames, type) {
  const bringing = FAMILIES.find(({ nodes }) => nodes?.includes(type))
  if (bringing) return bringing
  const names = fileNames.filter((name) => FILE.test(name)).map((name) => name.split(/[/\\]/).at(-1))
  const withVae = names.filter((name) => name.toLowerCase().includes('vae'))
  const found = new Set()
  for (const name of withVae.length ? withVae : names) {
    const family = FAMILIES.find(({ files }) => files.some((pattern) => new RegExp(pattern, 'i').test(name)))
    if (family) found.add(family)
  }
  return found.size === 1 ? [...found][0] : null
}

/** {standsFor, won, why}: the stock decode whose place is taken, what is won, and why it is left alone. */
export function choose(type, family, tiles, values, inUse) {
  const { without_tiles: untiled } = DECODES[type]
  const inWhole = family ? family.won : 'unknown'
  if (!untiled) return { standsFor: type, won: inWhole, why: '' }
  const fits = family?.fits ?? false
  const enough = family?.without_tiles_from
  const savesNothing =
    Boolean(enough) && Object.entries(enough).every(([name, least]) => numberOf(values[name]) >= least)
  if (tiles === 'without' && inUse) return { standsFor: type, won: '', why: REASONS.tiles_in_use }
  if (tiles === 'without' || (tiles === 'auto' && (fits || savesNothing) && !inUse)) {
    const won = fits ? 'fits' : savesNothing ? 'without_tiles' : `untiled_${inWhole}`
    return { standsFor: untiled, won, why: '' }
  }
  if (!family) return { standsFor: type, won: 'unknown', why: '' }
  if (family.tiles !== 'none' && numberOf(values.temporal_size) <= LONGEST_ROW)
    return { standsFor: type, won: 'in_tiles', why: '' }
  return { standsFor: type, won: family.tiles === 'any' ? 'side_by_side' : 'nothing', why: '' }
}

/** The number that a widget is set to, in text as well; NaN where it is none. */
function numberOf(value) {
  return typeof value === 'number' || (typeof value === 'string' && NUMBER.test(value)) ? Number(value) : NaN
}
