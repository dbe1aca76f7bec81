// What the page knows of the jobs of a farm, and which of a node's is told. Knows nothing of ComfyUI.
import { isOpen } from './job_texts.js'

export class JobList {
  constructor() {
    this.byId = new Map() // the oldest first
    this.times = new Map() // by id, when it was heard of last; counted, not measured
    this.now = 0
  }

  get all() {
    return [...this.byId.values()]
  }

  /** Take in an event: the newest there is. */
  note(job, time = ++this.now) {
    // What was not told this time, such as the video, is as it was.
    const told = Object.entries(job).filter(([key, value]) => value != null || key !== 'ui')
    this.byId.set(job.job_id, { ...this.byId.get(job.job_id), ...Object.fromEntries(told) })
    this.times.set(job.job_id, time)
  }

  /** Take in what a node's output tells. It may be long ago that the node ran. */
  noteOutput(job) {
    const known = this.byId.get(job.job_id)
    if (!known || isOpen(known) || !isOpen(job)) this.note(job)
  }

  /**
   * To be called when the server is asked; gives a function for its answer: all jobs, the oldest first. What was heard
   * of a job after the server was asked is newer than the answer.
   */
  ask() {
    const asked = ++this.now
    const isNewer = (id) => this.times.get(id) > asked
    return (answer) => {
      const answered = answer.map(({ job_id: id }) => id)
      const others = [...this.byId.keys()].filter((id) => !answered.includes(id))
      for (const job of answer) {
        const { job_id: id } = job
        if (isNewer(id)) this.byId.set(id, { ...job, ...this.byId.get(id) })
        else this.note(job, asked)
      }
      const inOrder = [...others.filter((id) => !isNewer(id)), ...answered, ...others.filter(isNewer)]
      this.byId = new Map(inOrder.map((id) => [id, this.byId.get(id)]))
    }
  }
}

/** Of open jobs, the one that is told: what is being decoded, or will be next. */
export const first = (open) =>
  open.find(({ state }) => state === 'in_progress') ??
  open.reduce((one, other) => ((other.before ?? Infinity) < (one.before ?? Infinity) ? other : one))

/**
 * What a node tells of its jobs, the oldest first and at least one: {job, more}, `more` the others that are open.
 */
export function toTell(all) {
  const open = all.filter(isOpen)
  const newest = all.at(-1)
  // What was decoded here after all is the node's last result, whatever waits since before.
  const job = open.length && newest.state !== 'here' ? first(open) : newest
  return { job, more: open.filter((each) => each !== job).length }
}
