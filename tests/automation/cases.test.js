// The cases of the swap in the browser's code: node --test. test_cases.py runs this, and the same cases over files.
import assert from 'node:assert/strict'
import { readFileSync, readdirSync } from 'node:fs'
import { test } from 'node:test'

import { NAMES, explain, nothingToChange, partnerType, restore, swap } from './browser_swap.js'

const read = (folder, file) => JSON.parse(readFileSync(new URL(file, folder), 'utf8'))
const casesIn = (path) => {
  const folder = new URL(path, import.meta.url)
  return readdirSync(folder)
    .filter((file) => file.endsWith('.json'))
    .flatMap((file) => read(folder, file))
}

function check({ do: what, options, before, after = before, changes }) {
  const given = JSON.stringify(before)
  const done = (what === 'swap' ? swap : restore)(before, options)
  assert.equal(JSON.stringify(before), given, 'the workflow given was modified')
  assert.deepEqual(done.workflow, after)
  assert.equal(JSON.stringify(done.workflow), JSON.stringify(after), 'the order in the file is another')
  assert.deepEqual(done.changes, changes)
  if (what === 'swap')
    assert.equal(JSON.stringify(restore(done.workflow).workflow), given, 'the reverse must give the same file')
}

for (const each of casesIn('cases/')) test(each.name, () => check(each))

const english = (text) => text
const nameOf = (type) => NAMES[type]

for (const each of casesIn('cases/right_click/'))
  test(`right-click: ${each.name}`, () => {
    check(each)
    if ('partner' in each) assert.equal(partnerType(each.before, each.options.only), each.partner)
    assert.equal(explain(each.changes, nameOf, english), each.toast)
  })

test('where all is streamed already there is nothing to change', () => {
  const told = (workflow) => {
    assert.deepEqual(swap(workflow).changes, [])
    return nothingToChange(workflow, english)
  }
  const workflow = (...types) => ({ nodes: types.map((type, id) => ({ id, type })), links: [] })
  const inside = { ...workflow('AsyncVAEDecodeVideo'), id: 'inner' }
  const already = { summary: 'Nothing to change', detail: 'The decodes of this workflow are streamed already' }
  assert.deepEqual(told(workflow('AsyncVAEDecodeTiledToVideo')), already)
  assert.deepEqual(told({ ...workflow('inner'), definitions: { subgraphs: [inside] } }), already)
  assert.deepEqual(told(workflow('KSampler')), { summary: 'Nothing to change', detail: '' })
})
