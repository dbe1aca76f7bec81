// The panel in a node that shows its lanes: figures, a chart and a verdict. Plain DOM; knows nothing of ComfyUI.
//
// Event states and figures: nodes/live.py. Colours come from the theme, and no meaning from a colour alone.

const LANES = ['decode', 'copy', 'write']
// A screen reader hears how it goes this often, and of the end at once.
const SECONDS_BETWEEN_ANNOUNCEMENTS = 10
const LOWEST_BAR = 12
const SVG = 'http://www.w3.org/2000/svg'

export class LanesPanel {
  constructor() {
    this.element = make('div', 'afp-lanes')
    this.element.setAttribute('role', 'group')
    this.element.setAttribute('aria-label', 'Frame pipeline')
    // Apart from `element`, which the host stretches: this one has the height of what is in it.
    this.content = make('div', 'afp-lanes-content', this.element)
    const head = make('div', 'afp-lanes-head', this.content)
    this.title = make('strong', '', head)
    this.pace = make('span', '', head)
    this.frame = make('img', 'afp-lanes-frame', this.content)
    this.frame.alt = 'The latest frame'
    this.chart = make('div', 'afp-lanes-chart', this.content)
    this.chart.setAttribute('role', 'img')
    this.chart.tabIndex = 0 // else the keyboard never gets to its description
    this.rows = Object.fromEntries(LANES.map((lane) => [lane, makeRow(this.chart, lane)]))
    this.axis = make('div', 'afp-lanes-axis', this.content)
    this.verdict = make('p', 'afp-lanes-verdict', this.content)
    this.status = make('div', 'afp-lanes-status', this.content)
    this.status.setAttribute('role', 'status')
    this.status.setAttribute('aria-live', 'polite')
    this.announcedAt = -Infinity
  }

  /** Shows one event of nodes/live.py. */
  show(event) {
    this.element.dataset.state = event.state
    if (event.state === 'stock') this.showStock(event)
    else if (event.state === 'done') this.showReport(event.report)
    else this.showProgress(event)
  }

  showProgress(now) {
    const stopped = now.state === 'stopped'
    this.title.textContent = stopped
      ? `Stopped after ${now.written} of ${frames(now.total)}`
      : `${now.written} of ${frames(now.total)}`
    this.pace.textContent = stopped ? '' : joined(rate(now.fps), now.left != null && `${duration(now.left)} left`)
    this.setFrame(stopped ? null : (now.frame ?? this.frame.src))
    this.setChart(now, { decode: now.decoded, copy: now.copied, write: now.written }, 'frames')
    this.verdict.textContent = ''
    this.announce(joined(this.title.textContent, this.pace.textContent), stopped)
  }

  showReport(report) {
    this.title.textContent = `${frames(report.frames)} in ${seconds(report.total_seconds)}`
    this.pace.textContent = rate(report.frames / report.total_seconds)
    this.setFrame(null)
    const busy = {
      decode: seconds(report.span_seconds * report.busy_share),
      copy: seconds(report.copy_seconds),
      write: seconds(report.write_seconds)
    }
    this.setChart(report, busy, 'busy')
    this.verdict.textContent = report.verdict
    this.announce(`${this.title.textContent}. ${report.verdict}`, true)
  }

  showStock({ reason }) {
    this.title.textContent = 'Decoded the stock way'
    this.pace.textContent = ''
    this.setFrame(null)
    this.chart.hidden = this.axis.hidden = true
    this.verdict.textContent = `${reason[0].toUpperCase()}${reason.slice(1)}.`
    this.announce(joined(this.title.textContent, reason), true)
  }

  setFrame(url) {
    this.frame.hidden = !url
    if (!url) this.frame.removeAttribute('src')
    else if (this.frame.src !== url) this.frame.src = url
  }

  /** Draws the lanes with one figure each, and says the same in words. */
  setChart({ chart, device, already_decoded: alreadyDecoded, busy_share, limit }, figures, unit) {
    this.chart.hidden = false
    const words = []
    for (const lane of LANES) {
      const row = this.rows[lane]
      row.element.hidden = lane === 'copy' && device === 'cpu' // nothing is copied there
      if (row.element.hidden) continue
      const name = laneName(lane, alreadyDecoded)
      row.name.textContent = name
      row.figure.textContent = figures[lane]
      row.element.classList.toggle('afp-lanes-limit', lane === limit)
      row.bars.setAttribute('d', bars(chart?.[lane] ?? []))
      row.svg.setAttribute('viewBox', `0 0 ${chart?.[lane].length || 1} 100`)
      words.push(`${name} ${figures[lane]}${unit === 'frames' ? ' frames' : ''}${lane === limit ? ', the limit' : ''}`)
    }
    const idle = alreadyDecoded || (chart && !chart.seconds) // nothing is decoded, or yet
    const share = idle ? '' : `${device === 'cpu' ? 'Decoder' : 'GPU'} busy ${Math.round(100 * busy_share)}%`
    this.axis.replaceChildren(...[chart ? '0 s' : '', share, chart ? seconds(chart.seconds) : ''].map(span))
    this.axis.hidden = chart ? !chart.seconds : idle
    this.chart.setAttribute('aria-label', joined(`Lanes: ${words.join('; ')}`, share))
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

function frames(number) {
  return `${number} frame${number === 1 ? '' : 's'}`
}

function rate(fps) {
  return fps ? `${fps >= 10 ? Math.round(fps) : fps.toFixed(1)} frames/s` : ''
}

function seconds(value) {
  return value < 0.95 ? `${value.toFixed(2)} s` : value < 99.95 ? `${value.toFixed(1)} s` : duration(value)
}

function duration(value) {
  const whole = Math.ceil(value)
  const [minutes, rest] = [Math.floor(whole / 60), whole % 60]
  return [minutes && `${minutes} min`, (rest || !minutes) && `${rest} s`].filter(Boolean).join(' ')
}

function joined(...texts) {
  return texts.filter(Boolean).join(' · ')
}

function make(tag, className, parent) {
  const element = document.createElement(tag)
  if (className) element.className = className
  parent?.append(element)
  return element
}

function span(text) {
  const element = document.createElement('span')
  element.textContent = text
  return element
}
