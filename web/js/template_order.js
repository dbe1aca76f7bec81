// Lists our templates by name in the template browser.
//
// The server gives the files of a pack in the order in which they lie on its disk, and the browser keeps it.
import { api } from '../../../scripts/api.js'

// Where this file comes from: /extensions/<folder of the pack>/js/
const PACK = decodeURIComponent(new URL(import.meta.url).pathname.split('/').at(-3))
const { getWorkflowTemplates } = api

if (getWorkflowTemplates)
  api.getWorkflowTemplates = async function () {
    const templates = await getWorkflowTemplates.call(api)
    templates[PACK]?.sort()
    return templates
  }
