// Where the frontend keeps what nodes have put out: in `app.nodeOutputs`, by node.
import { app } from '../../../scripts/app.js'

/** The key of a node: its id, in a subgraph behind the subgraph's own. */
export const locatorOf = (node) => (node.graph.isRootGraph === false ? `${node.graph.id}:${node.id}` : `${node.id}`)

/** Call a function with each node that has an output, or undefined for one that is gone, and its output. */
export function eachOutput(outputs, show) {
  for (const [locator, output] of Object.entries(outputs ?? {})) show(nodeAt(locator), output)
}

function nodeAt(locator) {
  const [id, subgraph] = locator.split(':').reverse()
  return (subgraph ? app.rootGraph.subgraphs.get(subgraph) : app.rootGraph)?.getNodeById(id)
}
