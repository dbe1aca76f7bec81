// The rules of the swap, from ../swap/rules.json, which automation/rules.py reads as well; docs/swap.md explains them.
//
// Fetched, not imported: a browser of 2024 refuses a module that imports JSON. Asked for anew, because ComfyUI lets
// browsers keep a .json, unlike a .js, and the rules of another version would be worse than none.
const answer = await fetch(new URL('../swap/rules.json', import.meta.url), { cache: 'no-cache' })

export const {
  names: NAMES,
  decodes: DECODES,
  ours: OURS,
  defaults: DEFAULTS,
  decode_inputs: DECODE_INPUTS,
  create_video: CREATE_VIDEO,
  families: FAMILIES,
  longest_row: LONGEST_ROW,
  savers: SAVERS,
  our_saver: OUR_SAVER,
  elsewhere: ELSEWHERE,
  video_nodes: VIDEO_NODES,
  frame_types: FRAME_TYPES,
  vae_types: VAE_TYPES,
  relays: RELAYS,
  broadcasts: BROADCASTS,
  reasons: REASONS,
  won: WON,
  tiles_come_back: TILES_COME_BACK,
  memory: MEMORY,
  packs: PACKS,
  pack_properties: PACK_PROPERTIES,
  layout: LAYOUT
} = await answer.json()

/** One of REASONS, with a name in it. */
export const reason = (key, name = '') => REASONS[key].replace('%name%', () => name)

/** Whether what decoded in tiles decodes without now. */
export const isWithoutItsTiles = (before, after) =>
  Boolean(DECODES[before[0]]?.without_tiles && OURS[after[0]] && !OURS[after[0]].widgets.includes('tile_size'))
