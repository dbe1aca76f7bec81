// The panel in a node that shows its lanes: figures, a chart and a verdict. Plain DOM; knows nothing of ComfyUI.
//
// Event states and figures: nodes/live.py. Colours come from the theme, and no meaning from a colour alone.

import { make } from './elements.js'
import { moreAfter, told } from './job_texts.js'
import { Language, joined } from './language.js'
import { SavedFiles } from './saved_files.js'
import { Stage } from './stage.js'

const LANES = ['decode', 'copy', 'write']
// A screen reader hears how it goes this often, and of the end at once.
const SECONDS_BETWEEN_ANNOUNCEMENTS = 10
const LOWEST_BAR = 12
const SVG = 'http://www.w3.org/2000/svg'

export class LanesPanel {
  /**
   * @param language of its texts.
   * @param urlOf the address of a file in a report.
   */
  constructor(language = new Language(), urlOf = () => '') {
    this.urlOf = urlOf
    this.element = make('div', 'afp-lanes')
    this.element.setAttribute('role', 'group')
    // Apart from `element`, which the host stretches: this one has the height of what is in it.
    this.content = make('div', 'afp-lanes-content', this.element)
    this.stage = new Stage(this.content)
    const head = make('div', 'afp-lanes-head', this.content)
    this.title = make('strong', '', head)
    this.pace = make('span', '', head)
    this.bar = make('div', 'afp-job-bar', this.content)
    this.bar.setAttribute('aria-hidden', 'true') // the title says it
    this.done = make('div', '', this.bar)
    this.chart = make('div', 'afp-lanes-chart', this.content)
    this.chart.setAttribute('role', 'img')
    this.chart.tabIndex = 0 // else the keyboard never gets to its description
    this.rows = Object.fromEntries(LANES.map((lane) => [lane, makeRow(this.chart, lane)]))
    this.axis = make('div', 'afp-lanes-axis', this.content)
    this.verdict = make('p', 'afp-lanes-verdict', this.content)
    this.decoder = make('p', 'afp-lanes-decoder', this.content)
    this.notes = make('div', 'afp-lanes-notes', this.content)
    this.files = new SavedFiles(this.content, urlOf)
    this.status = make('div', 'afp-lanes-status', this.content)
    this.status.setAttribute('role', 'status')
    this.status.setAttribute('aria-live', 'polite')
    this.announcedAt = -Infinity
    this.speak(language)
  }

  /** From the next event on. */
  speak(language) {
    this.language = this.files.language = language
    this.stage.speak(language)
    this.element.dir = language.direction
    this.element.lang = language.code
    this.element.setAttribute('aria-label', language.say('Frame pipeline'))
  }

  /**
   * Shows one event of nodes/live.py; or {state: "failed", message} after an error; or {state, job, more, saved}: a job
   * of a farm, how many more the node has there, and a report of the video that is to be seen with it. With a report at
   * the end there may be `more`, too.
   */
  show(event) {
    const stopped = this.element.dataset.state === 'stopped'
    this.element.dataset.state = event.state
    this.bar.hidden = true
    if (event.job) this.showJob(event)
    else if (event.state === 'stock') this.showStock(event)
    else if (event.state === 'done') this.showReport(event)
    else if (event.state === 'failed') this.showError(event, stopped)
    else this.showProgress(event)
  }

  showProgress(now) {
    const { language } = this
    const stopped = now.state === 'stopped'
    const counts = { written: language.number(now.written), total: language.frames(now.total) }
    this.title.textContent = language.say(
      stopped ? 'Stopped after %written% of %total%' : '%written% of %total%',
      counts
    )
    const left = now.left != null && language.say('%time% left', { time: language.duration(now.left) })
    this.pace.textContent = stopped ? '' : joined(language.apart(language.rate(now.fps)), left)
    if (!stopped && now.size) this.stage.showFrame(now.frame, now.size)
    else this.stage.clear()
    this.setChart(now, { decode: now.decoded, copy: now.copied, write: now.written }, 'frames')
    this.setTexts({ decoder: now.decoder, texts: now.texts })
    this.files.show()
    this.announce(joined(this.title.textContent, this.pace.textContent), stopped)
  }

  showReport({ report, more }) {
    const { language } = this
    const count = report.frames || report.total_frames
    this.title.textContent = language.say('%frames% in %time%', {
      frames: language.frames(count),
      time: language.seconds(report.total_seconds)
    })
    this.pace.textContent = language.rate(count / report.total_seconds)
    this.showSaved(report)
    const busy = {
      decode: language.seconds(report.span_seconds * report.busy_share),
      copy: language.seconds(report.copy_seconds),
      write: language.seconds(report.write_seconds)
    }
    if (report.frames) this.setChart(report, busy, 'busy')
    else this.chart.hidden = this.axis.hidden = true // there were no lanes
    this.setTexts(report)
    if (more) make('p', '', this.notes, moreAfter(more, language))
    this.files.show(report.files)
    const title = language.say('%text%.', { text: this.title.textContent })
    this.announce(`${title} ${this.verdict.textContent}`, true)
  }

  /** What was saved as browsers can show it: the file, or its small copy. */
  showSaved({ files, preview, total_seconds: stamp }) {
    if (!files) return // the report of the node is still to come
    const [file] = files
    const seen = file?.plays ? file : preview
    if (!seen) return this.stage.clear()
    const kind = /\.(gif|png|webp)$/.test(seen.filename) ? 'image' : 'video'
    this.stage.showSaved(kind, this.urlOf(seen, stamp), file.width, file.height)
  }

  showJob({ job, more, saved }) {
    const { title, pace, share, note, reasons } = told(job, more, this.language)
    this.title.textContent = title
    this.pace.textContent = pace
    if (saved) this.showSaved(saved)
    else this.stage.clear()
    this.chart.hidden = this.axis.hidden = true
    this.bar.hidden = share === null
    this.done.style.width = `${100 * share}%`
    this.setTexts(job.state === 'completed' ? (saved ?? {}) : {})
    if (note) this.decoder.textContent = note
    this.showErrors(reasons)
    this.files.show(job.state === 'completed' ? saved?.files?.filter(({ path }) => path) : [])
    this.announce(joined(title, pace, ...reasons), job.state !== 'in_progress')
  }

  showStock({ decoder, texts }) {
    this.title.textContent = this.language.say(
      decoder === 'tiled' ? 'Decoding in tiles' : 'Decoding the stock way, nothing overlaps'
    )
    this.pace.textContent = ''
    this.stage.clear()
    this.chart.hidden = this.axis.hidden = true
    this.setTexts({ decoder, texts })
    this.files.show()
    this.announce(joined(this.title.textContent, this.decoder.textContent), true)
  }

  /** What went wrong, and what is to be done now; above it how far it came, where the lanes had begun and stopped. */
  showError({ message }, stopped) {
    if (!stopped) {
      this.title.textContent = this.language.say('Failed')
      this.chart.hidden = this.axis.hidden = true
    }
    this.pace.textContent = ''
    this.stage.clear()
    this.setTexts({ texts: { verdict: [] } })
    this.files.show()
    this.showErrors(message.trim().split(/\n\n+/))
    this.announce(message, true)
  }

  showErrors([error = '', ...more]) {
    this.notes.replaceChildren(
      ...[shortened(error), ...more].filter(Boolean).map((text) => make('p', 'afp-lanes-error', null, text))
    )
  }

  /** The sentences under the chart: which decoder ran and why, what limited it, and what else there is to say. */
  setTexts({ decoder, texts = {} }) {
    const { language } = this
    const reason = texts.reason && language.tell(texts.reason)
    this.decoder.textContent = decoder
      ? language.say('Decoder: %decoder%', { decoder: withReason(decoder, reason) })
      : ''
    this.verdict.textContent = (texts.verdict ?? []).map((text) => language.tell(text)).join(' ')
    const notes = (texts.notes ?? []).map((note) => language.say('%text%.', { text: capital(language.tell(note)) }))
    this.notes.replaceChildren(...notes.map((note) => make('p', '', null, note)))
  }

  /** Draws the lanes with one figure each, and says the same in words. */
  setChart({ chart, device, already_decoded: alreadyDecoded, busy_share, limit }, figures, unit) {
    const { language } = this
    this.chart.hidden = false
    const words = []
    for (const lane of LANES) {
      const row = this.rows[lane]
      row.element.hidden = lane === 'copy' && device === 'cpu' // nothing is copied there
      if (row.element.hidden) continue
      const isLimit = lane === limit && !(alreadyDecoded && lane === 'decode')
      const name = language.say(laneName(lane, alreadyDecoded))
      row.name.textContent = name
      row.figure.textContent = unit === 'frames' ? language.number(figures[lane]) : figures[lane]
      row.element.classList.toggle('afp-lanes-limit', isLimit)
      row.bars.setAttribute('d', bars(chart?.[lane] ?? []))
      row.svg.setAttribute('viewBox', `0 0 ${chart?.[lane].length || 1} 100`)
      const figure = unit === 'frames' ? language.frames(figures[lane]) : figures[lane]
      words.push(`${name} ${figure}${isLimit ? `, ${language.say('the limit')}` : ''}`)
    }
    const idle = alreadyDecoded || (chart && !chart.seconds) // nothing is decoded, or yet
    const busy = device === 'cpu' ? 'Decoder busy %share%' : 'GPU busy %share%'
    const share = idle ? '' : language.say(busy, { share: `${language.number(100 * busy_share)}%` })
    const ends = chart
      ? [language.say('%count% s', { count: language.number(0) }), language.seconds(chart.seconds)]
      : ['', '']
    this.axis.replaceChildren(...[ends[0], share, ends[1]].map((text) => make('span', '', null, text)))
    this.axis.hidden = chart ? !chart.seconds : idle
    this.chart.setAttribute('aria-label', joined(`${language.say('Lanes')}: ${words.join('; ')}`, share))
  }

  announce(text, now) {
    const time = performance.now() / 1000
    if (!now && time - this.announcedAt < SECONDS_BETWEEN_ANNOUNCEMENTS) return
    this.announcedAt = now ? -Infinity : time
    if (this.status.textContent !== text) this.status.textContent = text
  }
}

function makeRow(parent, lane) {
  const element = make('div', `afp-lanes-row afp-lanes-${lane}`, parent)
  const name = make('span', 'afp-lanes-name', element)
  const svg = element.appendChild(document.createElementNS(SVG, 'svg'))
  svg.setAttribute('preserveAspectRatio', 'none')
  svg.setAttribute('aria-hidden', 'true')
  const bars = svg.appendChild(document.createElementNS(SVG, 'path'))
  const figure = make('span', 'afp-lanes-figure', element)
  return { element, name, svg, bars, figure }
}

/** The outline of one bar a column, `shares` in percent, in a box 100 high; short work shows, too. */
function bars(shares) {
  const steps = shares.map((share, column) => `V${100 - (share && Math.max(share, LOWEST_BAR))}H${column + 1}`)
  return `M0 100${steps.join('')}V100Z`
}

function laneName(lane, alreadyDecoded) {
  if (lane === 'decode') return alreadyDecoded ? 'Convert' : 'Decode'
  return lane === 'copy' ? 'Copy' : 'Write'
}

/** An error's text may be the whole of a library's. What is to be done is often said at the end. */
export const shortened = (text) => (text.length > 800 ? `${text.slice(0, 500)} … ${text.slice(-300)}` : text)

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1)

const withReason = (decoder, reason) => (reason ? `${decoder} (${reason})` : decoder)
