// The language that the user has chosen in ComfyUI, with what locales/ holds for it. English until that is there.
import { app } from '../../../scripts/app.js'
import { api } from '../../../scripts/api.js'
import { Language } from './language.js'

let locales = {}

/** Fetched once: it holds all languages. */
export const languagesLoaded = api
  .getCustomNodesI18n()
  .then((fetched) => (locales = fetched))
  .catch(() => {}) // English, then

const code = () => app.extensionManager.setting.get('Comfy.Locale') ?? 'en'

/** The user's language, for what has no place of its own in the frontend. */
export const userLanguage = () => new Language(code(), locales[code()]?.asyncFramePipeline)

/** An entry of a node's menu: the frontend translates them in one of its two menus. */
export const menuEntry = (text) => locales[code()]?.contextMenu?.[text] ?? text

/** A value of one of our nodes' choices. */
export const choice = (text) => locales[code()]?.asyncFramePipelineChoices?.[text] ?? text

/** Call a function when the user has chosen another language. */
export const onLanguageChange = (changed) => app.ui.settings.addEventListener('Comfy.Locale.change', changed)
