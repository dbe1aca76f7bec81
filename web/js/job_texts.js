// What is said of a job that a farm has: where it is, how far it came, how it ended. Knows nothing of ComfyUI.
import { joined } from './language.js'

export const isOpen = ({ state }) => state === 'queued' || state === 'in_progress'

/** How many more of the same node wait; '' for none. */
export const moreAfter = (more, language) =>
  more > 0 ? language.say('%count% more after it', { count: language.number(more) }) : ''

/**
 * @param job as the server tells it: {state, before, frames, total, seconds_left, reason}; null where not known.
 * @param more how many of the same node wait besides.
 * @param language to say it in.
 * @returns {title, pace, share, note, reasons}: `share` of its frames done, null where there is nothing to show;
 *     `note` on what comes after it; `reasons` why it failed, waits again or was decoded here.
 */
export function told(job, more, language) {
  const { state, frames, total } = job
  const count = (value) => language.number(value)
  const isRunning = state === 'in_progress'
  const counts = total && frames != null && { written: count(frames), total: language.frames(total) }
  const left = isRunning && job.seconds_left != null && language.duration(job.seconds_left)
  return {
    title: title(job, counts, language),
    pace: left ? language.say('%time% left', { time: left }) : '',
    share: isRunning ? (counts ? Math.min(1, frames / total) : 0) : null,
    note: joined(isRunning && counts && language.say('Decoding elsewhere'), moreAfter(more, language)),
    reasons: state === 'completed' || state === 'cancelled' || !job.reason ? [] : job.reason.trim().split(/\n\n+/)
  }
}

function title({ state, before, total }, counts, language) {
  if (state === 'queued') {
    if (before == null) return language.say('Queued')
    if (!before) return language.say('Queued, next to be decoded')
    return language.say('Queued, %count% before it', { count: language.number(before) })
  }
  if (state === 'in_progress')
    return counts ? language.say('%written% of %total%', counts) : language.say('Decoding elsewhere')
  if (state === 'cancelled')
    return counts ? language.say('Stopped after %written% of %total%', counts) : language.say('Cancelled')
  if (state === 'failed') return language.say('Failed')
  if (state === 'here') return language.say('Decoded here')
  return total
    ? language.say('%frames%, decoded elsewhere', { frames: language.frames(total) })
    : language.say('Decoded elsewhere')
}
