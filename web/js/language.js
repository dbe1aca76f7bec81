// Says things in the user's language: sentences that have a translation, numbers and lengths of time.
//
// A sentence in English is the key of its translation, with %names% for what is filled in. What the server says comes
// in parts (pipeline/text.py). Knows nothing of ComfyUI.

const RIGHT_TO_LEFT = /^(ar|fa|he|ur)\b/

export class Language {
  /**
   * @param code such as "en" or "zh-TW".
   * @param texts English sentence -> its translation; what is missing stays English.
   */
  constructor(code = 'en', texts = {}) {
    this.code = code
    this.texts = texts
    this.direction = RIGHT_TO_LEFT.test(code) ? 'rtl' : 'ltr'
  }

  say(sentence, values = {}) {
    const text = Object.hasOwn(this.texts, sentence) ? this.texts[sentence] : sentence
    return text.replace(/%(\w+)%/g, (whole, name) => (Object.hasOwn(values, name) ? values[name] : whole))
  }

  /** What the server says: {text, values}, each of the values the same. */
  tell({ text, values = {} }) {
    const told = Object.entries(values).map(([name, value]) => [name, this.tell(value)])
    return this.say(text, Object.fromEntries(told))
  }

  /** A name or a formula, which is read from left to right among words that are not. */
  ltr(text) {
    return this.direction === 'rtl' ? `\u2066${text}\u2069` : text
  }

  /** A text in a row of others, whose order it shall not change. */
  apart(text) {
    return text && this.direction === 'rtl' ? `\u2068${text}\u2069` : text
  }

  number(value, digits = 0) {
    return value.toLocaleString(this.code, {
      minimumFractionDigits: digits,
      maximumFractionDigits: digits,
      useGrouping: false
    })
  }

  frames(count) {
    return this.say(count === 1 ? '%count% frame' : '%count% frames', { count: this.number(count) })
  }

  /** A frame rate; "" where it is not known. */
  rate(fps) {
    return fps ? this.say('%count% frames/s', { count: this.number(fps, fps >= 10 ? 0 : 1) }) : ''
  }

  seconds(value) {
    if (value >= 99.95) return this.duration(value)
    return this.say('%count% s', { count: this.number(value, value < 0.95 ? 2 : 1) })
  }

  /** A length of time in minutes and whole seconds. */
  duration(value) {
    const whole = Math.ceil(value)
    const [minutes, rest] = [Math.floor(whole / 60), whole % 60]
    return [
      minutes && this.say('%count% min', { count: this.number(minutes) }),
      (rest || !minutes) && this.say('%count% s', { count: this.number(rest) })
    ]
      .filter(Boolean)
      .join(' ')
  }

  /** The size of a file. */
  bytes(value) {
    const [size, divisor] =
      value >= 1e9 ? ['%count% GB', 1e9] : value >= 1e6 ? ['%count% MB', 1e6] : ['%count% kB', 1e3]
    return this.say(size, { count: this.number(value / divisor, 1) })
  }
}

/** Texts in a row, those that are empty left out. No line begins with a dot. */
export const joined = (...texts) => texts.filter(Boolean).join('\u00a0· ')
