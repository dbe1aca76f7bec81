// What the page knows of a farm's jobs, whatever order it hears of it in: node --test. test_text.py runs this.
import assert from 'node:assert/strict'
import { test } from 'node:test'

import { JobList, toTell } from '../../web/js/job_list.js'

const job = (id, state, more) => ({ job_id: id, state, before: null, ...more })
const known = (jobs) => jobs.all.map(({ job_id: id, state }) => `${id} ${state}`)

test('an event that came while the server was asked is newer than its answer', () => {
  const jobs = new JobList()
  const answered = jobs.ask()
  jobs.note(job('a', 'completed'))
  answered([job('a', 'in_progress', { frames: 29, ui: null }), job('b', 'queued', { before: 0, ui: null })])
  assert.deepEqual(known(jobs), ['a completed', 'b queued'])
})

test('the answer has what the event did not tell', () => {
  const jobs = new JobList()
  const answered = jobs.ask()
  jobs.note(job('a', 'completed'))
  answered([job('a', 'completed', { ui: 'its video' })])
  jobs.note(job('a', 'completed'))
  assert.equal(jobs.all[0].ui, 'its video')
})

test('of two answers the one that was asked for later counts', () => {
  const jobs = new JobList()
  const [one, two] = [jobs.ask(), jobs.ask()]
  two([job('a', 'completed')])
  one([job('a', 'in_progress')])
  assert.deepEqual(known(jobs), ['a completed'])
})

test('a job that is queued again, or that another ComfyUI takes over, is so', () => {
  const jobs = new JobList()
  jobs.note(job('a', 'failed'))
  jobs.note(job('a', 'queued'))
  assert.deepEqual(known(jobs), ['a queued'])
  jobs.note(job('a', 'completed'))
  jobs.ask()([job('a', 'failed')])
  assert.deepEqual(known(jobs), ['a failed'])
})

test('what a node told when it ran does not open what has ended since', () => {
  const jobs = new JobList()
  jobs.note(job('a', 'completed'))
  jobs.noteOutput(job('a', 'queued'))
  jobs.noteOutput(job('b', 'queued'))
  assert.deepEqual(known(jobs), ['a completed', 'b queued'])
})

test('they are in the order of the server, what was sent meanwhile last', () => {
  const jobs = new JobList()
  const answered = jobs.ask()
  jobs.note(job('c', 'queued'))
  jobs.note(job('b', 'queued'))
  answered([job('a', 'queued'), job('b', 'queued')])
  assert.deepEqual(known(jobs), ['a queued', 'b queued', 'c queued'])
})

const told = (...all) => {
  const { job, more } = toTell(all)
  return [job.job_id, more]
}

test('of several jobs the one under way is told, or the next', () => {
  const std = job('std', 'queued', { before: 2 })
  const pro = job('pro', 'queued', { before: 0 })
  const next = job('next', 'queued', { before: 1 })
  const unknown = job('unknown', 'queued')
  assert.deepEqual(told(unknown, std, pro, next), ['pro', 3])
  assert.deepEqual(told(std, pro, job('runs', 'in_progress')), ['runs', 2])
  assert.deepEqual(told(unknown, job('failed', 'failed')), ['unknown', 0])
  assert.deepEqual(told(job('old', 'completed'), job('new', 'failed')), ['new', 0])
})

test('what was decoded here is told, though an older job is open', () => {
  const here = job('here', 'here')
  assert.deepEqual(told(job('old', 'queued', { before: 0 }), here), ['here', 1])
  assert.deepEqual(told(here, job('new', 'queued', { before: 0 })), ['new', 0])
})
