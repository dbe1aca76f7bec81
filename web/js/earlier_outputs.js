// What nodes gave before the page was loaded: the frontend forgets it, the server's history does not.
import { api } from '../../../scripts/api.js'

// Of a graph that was cleared: any such would be taken for any other.
const NO_ID = '00000000-0000-0000-0000-000000000000'
const asked = new Set()

/**
 * The outputs of a workflow's last run.
 *
 * @param workflowId nothing is given for one that was asked for before: since then the frontend itself remembers.
 * @returns node's execution id -> its output.
 */
export async function earlierOutputs(workflowId) {
  if (!workflowId || workflowId === NO_ID || asked.has(workflowId)) return {}
  asked.add(workflowId)
  try {
    const query = new URLSearchParams({ workflow_id: workflowId, status: 'completed', limit: '1' })
    const { jobs } = await (await api.fetchApi(`/jobs?${query}`)).json()
    if (!jobs.length) return {}
    return (await (await api.fetchApi(`/jobs/${jobs[0].id}`)).json()).outputs ?? {}
  } catch {
    return {} // a ComfyUI that has no such list
  }
}
