// The picture in the panel of a saver: the latest frame while it runs, then what was saved. Plain DOM.
//
// All of them in one box that has the frames' proportions from the start, so that nothing jumps and nothing old is
// left under something new.
import { make } from './elements.js'

export class Stage {
  /** @param parent where the box goes. */
  constructor(parent) {
    this.element = make('div', 'afp-stage', parent)
    this.frame = make('img', 'afp-stage-frame', this.element)
    this.hiddenByUser = false
    this.shown = null // the element of what was saved
    this.clear()
  }

  speak(language) {
    this.language = language
    this.frame.alt = language.say('The latest frame')
  }

  /** Whether the user wants no pictures of what was saved. */
  hide(hidden) {
    this.hiddenByUser = hidden
    if (hidden) this.removeSaved()
    else if (this.saved) this.showSaved(...this.saved)
    this.update()
  }

  /** Show nothing, and take no room. */
  clear() {
    this.setFrame(null)
    this.saved = null
    this.removeSaved()
    this.update()
  }

  /** Show a frame of the running node, or the one before it if there is no new one; none yet, and there is its room. */
  showFrame(url, [width, height]) {
    this.saved = null
    this.removeSaved()
    this.element.style.aspectRatio = `${width} / ${height}`
    if (url) this.setFrame(url)
    this.live = true
    this.update()
  }

  /**
   * Show what was saved.
   *
   * @param kind "video" or "image".
   * @param width not given, with the height, where that is not known before it is loaded.
   */
  showSaved(kind, url, width, height) {
    this.setFrame(null)
    this.saved = [kind, url, width, height]
    if (!this.hiddenByUser && this.shown?.getAttribute('src') !== url) {
      this.removeSaved()
      if (width) this.element.style.aspectRatio = `${width} / ${height}`
      this.shown = kind === 'video' ? this.makeVideo(url) : this.makeImage(url)
    }
    this.update()
  }

  makeImage(url) {
    const image = make('img', 'afp-stage-saved', this.element)
    image.alt = this.language.say('What was saved')
    image.src = url
    return image
  }

  /** It plays by itself, but for who wants no motion; without sound, but with the pointer on it. */
  makeVideo(url) {
    const video = make('video', 'afp-stage-saved', this.element)
    video.setAttribute('aria-label', this.language.say('What was saved'))
    Object.assign(video, { muted: true, loop: true, controls: true, playsInline: true })
    video.autoplay = !matchMedia('(prefers-reduced-motion: reduce)').matches
    video.addEventListener('pointerenter', () => (video.muted = false))
    video.addEventListener('pointerleave', () => (video.muted = true))
    video.addEventListener('loadedmetadata', () => {
      if (video === this.shown) this.element.style.aspectRatio = `${video.videoWidth} / ${video.videoHeight}`
    })
    video.src = url
    return video
  }

  removeSaved() {
    if (this.shown?.tagName === 'VIDEO') {
      // Else it would go on loading, and with sound on play on.
      this.shown.removeAttribute('src')
      this.shown.load()
    }
    this.shown?.remove()
    this.shown = null
  }

  setFrame(url) {
    if (!url) {
      this.live = false
      this.frame.removeAttribute('src')
    } else if (this.frame.src !== url) this.frame.src = url
  }

  update() {
    this.frame.hidden = !this.frame.hasAttribute('src')
    this.element.hidden = !this.live && !this.shown
  }
}
