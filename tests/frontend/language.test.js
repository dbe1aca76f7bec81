// What the nodes say in other languages: node --test. test_text.py runs this.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'

import { isOpen, told } from '../../web/js/job_texts.js'
import { shortened } from '../../web/js/lanes_panel.js'
import { Language, joined } from '../../web/js/language.js'
import { facts } from '../../web/js/saved_files.js'

const read = (path) => readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8')
const english = new Language()
const german = new Language('de', {
  "the VAE's weights are patched": 'die Gewichte der VAE sind gepatcht',
  'the fast decoder cannot be used: %reason%': 'der schnelle Decoder geht nicht: %reason%',
  '%count% frames': '%count% Bilder',
  '%count% s': '%count% Sek.',
  '%time% left': 'noch %time%'
})

test('a sentence of the server is said with what is in it', () => {
  const said = {
    text: 'the fast decoder cannot be used: %reason%',
    values: { reason: { text: "the VAE's weights are patched", values: {} } }
  }
  assert.equal(german.tell(said), 'der schnelle Decoder geht nicht: die Gewichte der VAE sind gepatcht')
  assert.equal(english.tell(said), "the fast decoder cannot be used: the VAE's weights are patched")
})

test('what has no translation stays English, an error message as it is', () => {
  assert.equal(german.say('Copy path'), 'Copy path')
  assert.equal(
    english.tell({
      text: '%way% failed: %error%',
      values: { way: { text: 'fast' }, error: { text: '100%way% $& x' } }
    }),
    'fast failed: 100%way% $& x'
  )
  assert.equal(english.tell({ text: 'an error with %percent% in it' }), 'an error with %percent% in it')
  assert.equal(english.tell({ text: 'constructor' }), 'constructor')
  assert.equal(english.tell({ text: 'a file of %constructor%' }), 'a file of %constructor%')
})

test('a sentence ends as those of its language do', () => {
  const end = (code) =>
    new Language(code, JSON.parse(read(`locales/${code}/main.json`)).asyncFramePipeline).say('%text%.', { text: 'x' })
  assert.deepEqual(['en', 'ru', 'ja', 'zh', 'zh-TW'].map(end), ['x.', 'x.', 'x。', 'x。', 'x。'])
})

test('numbers are the language’s own', () => {
  assert.equal(english.seconds(0.456), '0.46 s')
  assert.equal(german.seconds(1.25), '1,3 Sek.')
  assert.equal(english.seconds(125), '2 min 5 s')
  assert.equal(english.frames(1), '1 frame')
  assert.equal(german.frames(1000), '1000 Bilder')
  assert.equal(english.rate(0.61), '0.6 frames/s')
  assert.equal(english.rate(null), '')
  assert.equal(english.bytes(1_234_567), '1.2 MB')
  assert.equal(german.say('%time% left', { time: german.duration(9) }), 'noch 9 Sek.')
})

test('some languages are written from right to left', () => {
  assert.deepEqual(
    ['ar', 'fa', 'he', 'en', 'fr', 'zh-TW'].map((code) => new Language(code).direction === 'rtl'),
    [true, true, true, false, false, false]
  )
})

test('what is read from left to right is so among what is not', () => {
  assert.equal(new Language('he').ltr('480×272'), '\u2066480×272\u2069')
  assert.equal(english.ltr('480×272'), '480×272')
  assert.equal(new Language('ar').apart('16 fps'), '\u206816 fps\u2069')
  assert.equal(english.apart('16 fps'), '16 fps')
})

test('the facts of a file are in a row', () => {
  const file = {
    width: 480,
    height: 272,
    frames: 33,
    fps: 16,
    seconds: 2.0625,
    codec: 'prores',
    bit_depth: 10,
    sound: 'pcm',
    bytes: 5e6
  }
  const plain = (text) => text.replaceAll('\u00a0', ' ')
  assert.equal(
    plain(facts(file, english)),
    '480×272 · 33 frames · 16 fps · 2.1 s · prores · 10 bit · sound pcm · 5.0 MB'
  )
  assert.equal(
    plain(facts({ ...file, fps: 29.97, bit_depth: 8, sound: null }, english)),
    '480×272 · 33 frames · 29.97 fps · 2.1 s · prores · 5.0 MB'
  )
  assert.equal(joined('', null, 'x'), 'x')
})

const job = (state, more) => ({ state, before: null, frames: null, total: null, seconds_left: null, ...more })
const said = (state, more, others = 0) => {
  const { title, pace, share, note, reasons } = told(job(state, more), others, english)
  return [title, pace, share, note, reasons.join('|')]
}

test('a job that waits has its place told', () => {
  assert.deepEqual(said('queued'), ['Queued', '', null, '', ''])
  assert.equal(said('queued', { before: 0 })[0], 'Queued, next to be decoded')
  assert.equal(said('queued', { before: 3 })[0], 'Queued, 3 before it')
  assert.deepEqual(said('queued', { reason: 'its worker was lost' }, 2), [
    'Queued',
    '',
    null,
    '2 more after it',
    'its worker was lost'
  ])
})

test('a job under way has its frames and the time left told', () => {
  assert.deepEqual(said('in_progress'), ['Decoding elsewhere', '', 0, '', ''])
  const running = { frames: 20, total: 80, seconds_left: 61.2 }
  assert.deepEqual(said('in_progress', running), ['20 of 80 frames', '1 min 2 s left', 0.25, 'Decoding elsewhere', ''])
  assert.equal(said('in_progress', { frames: 0, total: 80 })[0], '0 of 80 frames')
  assert.equal(said('in_progress', { frames: 82, total: 80 })[2], 1)
})

test('a job that has ended says how', () => {
  assert.deepEqual(said('completed', { frames: 80, total: 80 }), ['80 frames, decoded elsewhere', '', null, '', ''])
  assert.equal(said('completed')[0], 'Decoded elsewhere')
  assert.deepEqual(said('failed', { reason: 'no VAE\n\nThe latents are there.\n' }), [
    'Failed',
    '',
    null,
    '',
    'no VAE|The latents are there.'
  ])
  assert.deepEqual(said('here', { reason: 'no farm' }), ['Decoded here', '', null, '', 'no farm'])
  assert.equal(said('cancelled')[0], 'Cancelled')
  assert.deepEqual(said('cancelled', { frames: 8, total: 80, reason: 'by whom' }), [
    'Stopped after 8 of 80 frames',
    '',
    null,
    '',
    ''
  ])
  assert.deepEqual(
    ['queued', 'in_progress', 'completed', 'failed', 'cancelled'].map((state) => isOpen({ state })),
    [true, true, false, false, false]
  )
})

test('every text of the panel can be translated', () => {
  const { asyncFramePipeline: texts } = JSON.parse(read('locales/en/main.json'))
  const files = ['lanes_panel', 'job_texts', 'language', 'saved_files', 'stage']
  const said = files.flatMap((file) =>
    [...read(`web/js/${file}.js`).matchAll(/'([A-Z%][^'\n]*)'/g)].map(([, text]) => text)
  )
  assert.ok(said.length > 30)
  assert.deepEqual(
    said.filter((text) => !(text in texts) && text !== text.toUpperCase()),
    []
  )
})

test('of a long error the beginning and the end stay, where the advice is', () => {
  const ours = `${'what happened '.repeat(40)}and what is to be done.`
  assert.equal(shortened(ours), ours)
  const librarys = `CUDA error ${'x'.repeat(5000)} Close what else uses the GPU.`
  assert.match(shortened(librarys), /^CUDA error x+ … x+ Close what else uses the GPU\.$/)
  assert.ok(shortened(librarys).length < 900)
})
