// Shows in a node what becomes of the videos that it gave to a farm (farm/): their place in the queue, how far they
// are, and the video, whenever it comes.
//
// The server tells each change, and lists all jobs to a page that was loaded meanwhile (nodes/elsewhere_jobs.py). A job
// outlives its prompt, the page and ComfyUI: by the time of an event another workflow may be open, or the node gone.
import { app } from '../../../scripts/app.js'
import { api } from '../../../scripts/api.js'
import { JobList, first, toTell } from './job_list.js'
import { isOpen } from './job_texts.js'
import { show, shownIn } from './node_panels.js'
import { ELSEWHERE } from './our_nodes.js'
import { everyNode, nodeOfExecution } from './outputs.js'
import { menuEntry, userLanguage } from './user_language.js'

const EVENT = 'async_frame_pipeline.job'
const OUTPUT = 'async_frame_pipeline_job'
const ROUTE = '/async_frame_pipeline/jobs'

const jobs = new JobList()

app.registerExtension({
  name: 'async-frame-pipeline.jobs',
  setup() {
    api.addEventListener(EVENT, ({ detail }) => {
      jobs.note(detail)
      const node = nodeOf(jobs.byId.get(detail.job_id))
      if (node) showJobs(node)
    })
    const { dispatchCustomEvent } = api
    api.dispatchCustomEvent = function (type, detail) {
      if (type === 'executed' && toldIn(detail?.output).length && !receive(detail.output)) return true
      return dispatchCustomEvent.call(api, type, detail)
    }
    api.addEventListener('reconnected', fetchJobs) // another ComfyUI, it may be, that has told nothing yet
    api.addEventListener('status', fetchJobs, { once: true }) // sent when the socket is there: no event is missed since
    fetchJobs()
  },
  getNodeMenuItems(node) {
    const open = jobsOf(node).filter(isOpen)
    if (!open.length) return []
    const cancel = (chosen) => () => chosen.forEach(({ job_id: id }) => cancelJob(id))
    const items = [{ content: menuEntry('Cancel the decode elsewhere'), callback: cancel([first(open)]) }]
    if (open.length > 1)
      items.push({ content: menuEntry('Cancel all decodes elsewhere of this node'), callback: cancel(open) })
    return items
  },
  afterConfigureGraph: showAll
})

/** The jobs that an output tells of, as an event does. */
const toldIn = (output) => (output?.[OUTPUT] ?? []).map((text) => JSON.parse(text)).filter((job) => job.job_id)

/** Whether an output is of a video that was decoded elsewhere, or will be. */
export const isOfJobs = (output) => toldIn(output).some(({ state }) => state !== 'here')

export const hasOpenJob = (node) => jobsOf(node).some(isOpen)

/**
 * Take in what a node tells of its jobs, now or long after it ran.
 *
 * @returns whether it is a node of the workflow shown. The frontend would put the output into any with that id.
 */
function receive(output) {
  const told = toldIn(output)
  if (!isOfJobs(output) && !output.images) return true
  told.forEach((job) => jobs.noteOutput(job))
  const node = nodeOf(told[0])
  if (!output.images) return !!node
  if (told.length === 1) jobs.byId.get(told[0].job_id).ui = output
  else fetchJobs() // which of the videos is whose
  if (!isOfJobs(output)) return true // decoded here: lanes.js shows it
  if (node) showJobs(node)
  return !!node
}

async function fetchJobs() {
  const takeIn = jobs.ask()
  try {
    const answer = await api.fetchApi(ROUTE)
    if (answer.ok) takeIn((await answer.json()).jobs)
  } catch {
    return // a ComfyUI that is just being stopped
  }
  showAll()
}

function showAll() {
  if (jobs.all.length) for (const node of everyNode()) showJobs(node)
}

/** The node that gave a job away, if it is there: in the workflow shown, and of a type that can have done so. */
function nodeOf({ workflow_id: workflow, node_id: id }) {
  if (workflow && workflow !== app.rootGraph.id) return undefined
  const node = nodeOfExecution(id)
  return ELSEWHERE.includes(node?.type) ? node : undefined
}

const jobsOf = (node) => (ELSEWHERE.includes(node.type) ? jobs.all.filter((job) => nodeOf(job) === node) : [])

/** Show what becomes of a node's jobs, where that is newer than what the node did by itself. */
export function showJobs(node) {
  const all = jobsOf(node)
  if (!all.length) return
  const { job, more } = toTell(all)
  const shown = shownIn(node)
  if (job.state === 'here' && shown?.report) {
    if ((shown.more ?? 0) !== more) show(node, { ...shown, more })
    return
  }
  // What the node did by itself meanwhile is newer than any job that has ended.
  if (!isOpen(job) && !more && shown && !shown.job) return
  const video = isOpen(job) ? all.findLast(({ ui }) => ui)?.ui : job.ui
  show(node, { state: job.state, job, more, saved: video && savedIn(video) })
}

/** What a finished video's output says that was saved, as a saver's report does. */
const savedIn = ({ images }) => ({ files: images.map((file) => ({ ...file, plays: true })) })

async function cancelJob(id) {
  const answer = await api.fetchApi(`${ROUTE}/${id}/cancel`, { method: 'POST' }).catch(() => null)
  if (answer?.ok) return // the server tells what became of it
  app.extensionManager.toast.add({
    severity: 'error',
    summary: userLanguage().say('It could not be cancelled'),
    life: 10_000
  })
}
