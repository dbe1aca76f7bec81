// Nodes, by the names that the frontend and the server have for them, and where the frontend keeps their outputs: in
// `app.nodeOutputs`, by node.
import { app } from '../../../scripts/app.js'

/** The key of what our nodes put into their outputs (nodes/live.py). */
export const OUTPUT = 'async_frame_pipeline'

/** The report in a node's output; undefined where there is none. */
export function reportIn(output) {
  const [text] = output?.[OUTPUT] ?? []
  return typeof text === 'string' ? JSON.parse(text) : undefined
}

/** The key of a node: its id, in a subgraph behind the subgraph's own. */
export const locatorOf = (node) => (node.graph.isRootGraph === false ? `${node.graph.id}:${node.id}` : `${node.id}`)

/** Call a function with each node that has an output, or undefined for one that is gone, and its output. */
export function eachOutput(outputs, show) {
  for (const [locator, output] of Object.entries(outputs ?? {})) show(nodeAt(locator), output)
}

/** The nodes of the workflow, those in subgraphs too. */
export const everyNode = () => [app.rootGraph, ...app.rootGraph.subgraphs.values()].flatMap((graph) => graph.nodes)

/** The node of an execution id: its own id behind those of the subgraph nodes around it, as in "5:12". */
export function nodeOfExecution(id) {
  let graph = app.rootGraph
  const path = `${id}`.split(':')
  const last = path.pop()
  for (const step of path) graph = graph?.getNodeById(step)?.subgraph
  return graph?.getNodeById(last) ?? undefined
}

function nodeAt(locator) {
  const [id, subgraph] = locator.split(':').reverse()
  return (subgraph ? app.rootGraph.subgraphs.get(subgraph) : app.rootGraph)?.getNodeById(id)
}
