// What the panel of a saver says of the files that it saved, and what can be done with them. Plain DOM.
import { make } from './elements.js'
import { joined } from './language.js'

const SECONDS_COPIED = 2

export class SavedFiles {
  /**
   * @param parent where the lines go.
   * @param urlOf the address of a file in the report.
   */
  constructor(parent, urlOf) {
    this.urlOf = urlOf
    this.element = make('div', 'afp-files', parent)
  }

  /** Show these, `files` of the report (nodes/saved_file.py). */
  show(files = []) {
    this.element.replaceChildren(...files.map((file) => this.makeFile(file)))
    this.element.hidden = !files.length
  }

  makeFile(file) {
    const { language } = this
    const element = make('div', 'afp-file')
    const name = file.path.split(/[\\/]/).pop()
    make('strong', '', element, language.ltr(name)).title = file.path
    make('span', 'afp-file-facts', element, facts(file, language))
    const actions = make('span', 'afp-file-actions', element)
    const open = make('a', '', actions, language.say('Open'))
    Object.assign(open, { href: this.urlOf(file), target: '_blank', rel: 'noopener' })
    open.title = language.say('Open in a new tab')
    const copy = make('button', '', actions, language.say('Copy path'))
    copy.type = 'button'
    copy.addEventListener('click', async () => {
      const copied = await copyText(file.path, copy)
      copy.textContent = language.say(copied ? 'Copied' : 'It could not be copied')
      setTimeout(() => (copy.textContent = language.say('Copy path')), 1000 * SECONDS_COPIED)
    })
    return element
  }
}

/** Size, length and codecs in a row, no number apart from its unit. */
export function facts(file, language) {
  const texts = [
    language.ltr(`${file.width}×${file.height}`),
    language.frames(file.frames),
    language.say('%count% fps', { count: language.number(file.fps, Number.isInteger(file.fps) ? 0 : 2) }),
    language.seconds(file.seconds),
    file.codec,
    file.bit_depth > 8 && language.say('%count% bit', { count: language.number(file.bit_depth) }),
    file.sound && language.say('sound %codec%', { codec: file.sound }),
    language.bytes(file.bytes)
  ]
  return joined(...texts.map((text) => text && language.apart(text.replaceAll(' ', '\u00a0'))))
}

/** Whether it is in the clipboard; browsers have the newer way for encrypted or local pages only. */
async function copyText(text, near) {
  try {
    await navigator.clipboard.writeText(text)
    return true
  } catch {
    const field = Object.assign(document.createElement('textarea'), { value: text })
    near.after(field)
    field.select()
    const copied = document.execCommand('copy')
    field.remove()
    near.focus()
    return copied
  }
}
