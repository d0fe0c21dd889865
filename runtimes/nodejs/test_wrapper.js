// Tests of the Node.js shim: a scripted processor talks to a real child process over a real socket.
//
//     node --test test_wrapper.js                                     # in this folder
//     SHIM_TEST_NODE=/path/to/node node --test test_wrapper.js
//
// SHIM_TEST_NODE is the interpreter the shim runs under (default: the one that runs the tests).
'use strict'

const assert = require('node:assert')
const { spawn } = require('node:child_process')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')
const { test } = require('node:test')

const NODE = process.env.SHIM_TEST_NODE || process.execPath
const WRAPPER = path.join(__dirname, 'wrapper.js')
const INIT = 0x01, EVENT = 0x02, CREDIT = 0x04, CANCEL = 0x05, CONTROL = 0x06, PING = 0x08
const HELLO = 0x81, READY = 0x82, ANSWER = 0x83, DATA = 0x84, LOG = 0x86, CONTROL_DONE = 0x87, PONG = 0x8b, FAILED = 0x8f
const MORE = 1, END = 1, ABORT = 2, CANCELLED = 0x10

function frame (kind, { flags = 0, code = 0, id = 0, head = '', body = '' } = {}) {
  head = Buffer.from(head)
  body = Buffer.from(body)
  const header = Buffer.alloc(16)
  header.writeUInt32LE(head.length + body.length, 0)
  header[4] = kind
  header[5] = flags
  header.writeUInt16LE(code, 6)
  header.writeUInt32LE(id, 8)
  header.writeUInt32LE(head.length, 12)
  return Buffer.concat([header, head, body])
}

function u32 (number) {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(number)
  return bytes
}

function event (id, { path = '/', body = 'hi', headers = [], fields = [], flags = 0, code = 0, texts } = {}) {
  const fixed = Buffer.alloc(32)
  fixed.writeBigInt64LE(1735689600123000n, 0)
  fixed.writeBigInt64LE(-5n, 8)
  fixed.writeInt32LE(-1, 16)
  fixed.writeUInt16LE(headers.length, 28)
  fixed.writeUInt16LE(fields.length, 30)
  const table = texts || Buffer.from(['e' + id, 'POST', path, '', '', 'text/plain', '', '', '', '', '', '',
    ...headers.flat(), ...fields.flat()].join('\0'))
  return frame(EVENT, { flags, code, id, head: Buffer.concat([fixed, table]), body })
}

/** The processor's side of one child process. */
class Shim {
  static async start (source, { settings = {}, handler = 'main.js:handler', wait = true, files = {}, embedded = false } = {}) {
    const shim = new Shim()
    shim.folder = fs.mkdtempSync(path.join(os.tmpdir(), 'shim-'))
    for (const [name, text] of Object.entries({ 'main.js': source, ...files })) fs.writeFileSync(path.join(shim.folder, name), text)
    const program = embedded
      ? ['--input-type=commonjs', '-e', fs.readFileSync(path.join(__dirname, 'bootstrap.js'), 'utf8')]
      : [WRAPPER]
    const extra = embedded ? [fs.openSync(WRAPPER, 'r')] : []
    shim.child = spawn(NODE, program, {
      stdio: ['ignore', 'pipe', 'pipe', 'pipe', ...extra], env: { ...process.env, NUCLIO_SHIM_FD: '3' }
    })
    extra.forEach((descriptor) => fs.closeSync(descriptor))
    shim.socket = shim.child.stdio[3]
    shim.socket.on('error', () => {})
    shim.data = Buffer.alloc(0)
    shim.chunks = 0
    shim.ended = false
    shim.waiting = null
    const wake = () => { if (shim.waiting) shim.waiting() }
    shim.socket.on('data', (data) => { shim.chunks++; shim.data = Buffer.concat([shim.data, data]); wake() })
    shim.socket.on('close', () => { shim.ended = true; wake() })
    shim.errors = ''
    shim.child.stderr.on('data', (data) => { shim.errors += data })
    shim.exit = new Promise((resolve) => shim.child.on('exit', (code, signal) => resolve(signal || code)))
    assert.strictEqual((await shim.take(4)).toString(), 'NSH2')
    const hello = await shim.next()
    assert.deepStrictEqual([hello.kind, hello.code], [HELLO, 2])
    shim.hello = pairs(hello.head)
    const init = {
      handler, handler_dir: shim.folder, worker_id: 3, max_inflight: 1, max_inflight_for: 'any', max_frame: 1 << 30,
      triggers: 1, 'trigger.0.kind': 'http', 'trigger.0.name': 'web', log_level: 0, credit: 1000, ...settings
    }
    shim.send(frame(INIT, { code: 2, head: Object.entries(init).flat().join('\0') }))
    if (wait) {
      const ready = await shim.next()
      assert.strictEqual(ready.kind, READY, ready.body.toString())
      shim.ready = pairs(ready.head)
    }
    return shim
  }

  send (...frames) {
    this.socket.write(Buffer.concat(frames))
  }

  async take (count) {
    while (this.data.length < count) {
      if (this.ended) throw new Error('the shim has closed: ' + this.errors)
      await new Promise((resolve) => { this.waiting = resolve })
    }
    const taken = this.data.subarray(0, count)
    this.data = this.data.subarray(count)
    return taken
  }

  async next () {
    const header = await this.take(16)
    const payload = await this.take(header.readUInt32LE(0))
    const head = header.readUInt32LE(12)
    return {
      kind: header[4], flags: header[5], code: header.readUInt16LE(6), id: header.readUInt32LE(8),
      head: payload.subarray(0, head), body: payload.subarray(head), text: payload.subarray(head).toString()
    }
  }

  /** The next frame that is no log record. */
  async answer () {
    for (;;) {
      const found = await this.next()
      if (found.kind !== LOG) return found
    }
  }

  async stop () {
    this.socket.end()
    assert.strictEqual(await this.exit, 0)
    fs.rmSync(this.folder, { recursive: true })
  }
}

function pairs (head) {
  const texts = head.toString().split('\0')
  return Object.fromEntries(texts.map((_, i) => texts.slice(i, i + 2)).filter((_, i) => i % 2 === 0))
}

/** Runs a test with a shim that must end well. */
function shimTest (name, source, options, body) {
  test(name, { timeout: 20000 }, async () => {
    const shim = await Shim.start(source, options)
    try {
      await body(shim)
      await shim.stop()
    } finally {
      shim.child.kill('SIGKILL')
    }
  })
}

const ECHO = 'exports.handler = (context, event) => context.callback(event.path + event.body)'
const ASYNC = { settings: { max_inflight: 8, max_inflight_for: 'async' } }

shimTest('it offers what it can', ECHO, {}, async (shim) => {
  assert.strictEqual(shim.hello.language, 'nodejs')
  for (const offered of ['cancel', 'stream-out', 'control', 'deadline', 'client-gone']) {
    assert.ok(shim.hello.capabilities.split(',').includes(offered), offered)
  }
  assert.deepStrictEqual(shim.ready, { handler_async: '0', max_inflight: '1' })
})

shimTest('frames may be cut at every byte', ECHO, {}, async (shim) => {
  const bytes = Buffer.concat([event(1, { path: '/a' }), event(2, { path: '/b', body: '' })])
  shim.socket.setNoDelay?.(true)
  for (const byte of bytes) {
    shim.send(Buffer.from([byte]))
    await new Promise((resolve) => setImmediate(resolve))
  }
  assert.strictEqual((await shim.answer()).text, '/ahi')
  assert.strictEqual((await shim.answer()).text, '/b')
})

shimTest('ten events in one read are answered in order', ECHO, {}, async (shim) => {
  shim.send(...Array.from({ length: 10 }, (_, i) => event(i + 1, { path: '/' + i })))
  for (let i = 0; i < 10; i++) {
    const { id, text } = await shim.answer()
    assert.deepStrictEqual([id, text], [i + 1, `/${i}hi`])
  }
})

shimTest('large frames arrive whole, among small ones', 'exports.handler = (context, event) => context.callback(event.body)', {}, async (shim) => {
  const sizes = [0, 1, 16383, 16384, 16385, 65535, 65536, 70000, 3000000, 5]
  const bodies = sizes.map((size, i) => Buffer.alloc(size, 'abcdefghij'[i]))
  shim.send(...bodies.map((body, i) => event(i + 1, { body })))
  for (const [i, body] of bodies.entries()) {
    const found = await shim.answer()
    assert.strictEqual(found.id, i + 1)
    assert.ok(found.body.equals(body), `body of ${body.length} bytes`)
  }
})

shimTest('a body that is kept is not overwritten by the next event', `const kept = []
  exports.handler = (context, event) => { kept.push(event.body); context.callback(kept.join()) }`, {}, async (shim) => {
  for (const [i, body] of ['one', 'two', 'six'].entries()) {
    shim.send(event(i + 1, { body }))
    assert.strictEqual((await shim.answer()).text, ['one', 'one,two', 'one,two,six'][i])
  }
})

shimTest('kinds that are optional are skipped', ECHO, {}, async (shim) => {
  shim.send(frame(0x70, { flags: 0x80, body: 'whatever' }), event(1))
  assert.strictEqual((await shim.answer()).text, '/hi')
  shim.send(frame(PING, { id: 9, code: 4, body: 'back' }))
  const pong = await shim.next()
  assert.deepStrictEqual([pong.kind, pong.id, pong.code, pong.text], [PONG, 9, 4, 'back'])
})

for (const [name, bytes] of [
  ['a kind that is not known', frame(0x70)],
  ['a head larger than its frame', Buffer.concat([u32(1), Buffer.from([EVENT, 0, 0, 0]), u32(1), u32(2), Buffer.from('x')])],
  ['an event with too few texts', event(1, { texts: Buffer.from('a\0b') })]
]) {
  test(name + ' ends the shim, which says so', { timeout: 20000 }, async () => {
    const shim = await Shim.start(ECHO)
    shim.send(bytes)
    const failed = await shim.answer()
    assert.deepStrictEqual([failed.kind, failed.code], [FAILED, 3])
    assert.strictEqual(await shim.exit, 1)
  })
}

shimTest('an event has all its members', 'exports.handler = (context, event) => context.callback(event)', {}, async (shim) => {
  shim.send(event(1, { headers: [['A', '1'], ['__proto__', 'p']], fields: [['x', 'ü']] }))
  const found = JSON.parse((await shim.answer()).text)
  assert.deepStrictEqual(found.fields, { x: 'ü' })
  assert.deepStrictEqual(Object.entries(found.headers), [['A', '1'], ['__proto__', 'p']])
  assert.deepStrictEqual(found.trigger, { kind: 'http', name: 'web' })
  assert.deepStrictEqual([found.timestamp, found.offset, found.shard_id, found.size],
    ['2025-01-01T00:00:00.123Z', -5, -1, 2])
})

shimTest('typed events hold any text and any value', 'exports.handler = (context, event) => context.callback([event.path, event.headers])', {}, async (shim) => {
  const item = (type, bytes) => Buffer.concat([Buffer.from(type), u32(bytes.length), bytes])
  const number = Buffer.alloc(8)
  number.writeBigInt64LE(-7n)
  const texts = ['e1', 'POST', '/a\0b', '', '', '', '', '', '', '', '', '', 'H'].map((text) => item('s', Buffer.from(text)))
  const list = item('l', Buffer.concat([item('i', number), item('t', Buffer.from([1])), item('n', Buffer.alloc(0))]))
  shim.send(event(1, { flags: 0x20, headers: [['H', '']], texts: Buffer.concat([...texts, list]) }))
  assert.deepStrictEqual(JSON.parse((await shim.answer()).text), ['/a\0b', { H: [-7, true, null] }])
})

shimTest('bytes that are no UTF-8 are replaced', 'exports.handler = (context, event) => context.callback(event.path)', {}, async (shim) => {
  const texts = Buffer.concat([Buffer.from('e1\0GET\0/'), Buffer.from([0xff, 0xfe]), Buffer.from('\0'.repeat(9))])
  shim.send(event(1, { flags: 0x40, texts }))
  assert.strictEqual((await shim.answer()).text, '/\ufffd\ufffd')
})

const HOLD = `const held = {}
  exports.handler = async (context, event) => {
    if (event.path === '/release') return held[event.body](), 'released'
    await new Promise((resolve) => { held[event.body] = resolve })
    return 'held ' + event.body
  }`

shimTest('several events of an async handler end in any order', HOLD, ASYNC, async (shim) => {
  assert.deepStrictEqual(shim.ready, { handler_async: '1', max_inflight: '8' })
  shim.send(event(1, { body: 'a' }), event(2, { body: 'b' }), event(3, { path: '/release', body: 'b' }))
  const first = [await shim.answer(), await shim.answer()].map(({ id, text }) => [id, text]).sort()
  assert.deepStrictEqual(first, [[2, 'held b'], [3, 'released']])
  shim.send(event(4, { path: '/release', body: 'a' }))
  const second = [await shim.answer(), await shim.answer()].map(({ id }) => id).sort()
  assert.deepStrictEqual(second, [1, 4])
})

shimTest('no more events begin than were agreed', `let running = 0
  exports.handler = async () => {
    running++
    await new Promise((resolve) => setTimeout(resolve, 20))
    return String(running--)
  }`, { settings: { max_inflight: 2 } }, async (shim) => {
  shim.send(...[1, 2, 3, 4, 5].map((id) => event(id)))
  for (let i = 0; i < 5; i++) assert.ok(Number((await shim.answer()).text) <= 2)
})

shimTest('answers of one turn share a write', 'exports.handler = async () => "x"', ASYNC, async (shim) => {
  const before = shim.chunks
  shim.send(...[1, 2, 3, 4, 5].map((id) => event(id)))
  for (let i = 0; i < 5; i++) await shim.answer()
  assert.strictEqual(shim.chunks - before, 1)
})

shimTest('an event that has not begun is taken back, one that has may be too late', HOLD, { settings: { max_inflight: 1 } }, async (shim) => {
  shim.send(event(1, { body: 'a' }), event(2, { body: 'b' }), frame(CANCEL, { id: 2, code: 1 }))
  const cancelled = await shim.answer()
  assert.deepStrictEqual([cancelled.id, cancelled.flags], [2, CANCELLED])
  shim.send(frame(CANCEL, { id: 2, code: 1 }), frame(CANCEL, { id: 77, code: 2 }), frame(CANCEL, { id: 1, code: 2 }))
  const late = await shim.answer()
  assert.deepStrictEqual([late.id, late.flags], [1, CANCELLED])
  shim.send(event(3, { path: '/release', body: 'a' }))
  assert.deepStrictEqual([(await shim.answer()).id], [3], 'the given-up event is not answered twice')
})

shimTest('a stream keeps to its credit and goes on with more', `exports.handler = async function * () {
    yield 'a'.repeat(1500); yield Buffer.from('b')
  }`, ASYNC, async (shim) => {
  shim.send(event(1))
  // An async generator is not a promise: its head comes with the first piece.
  const head = await shim.answer()
  assert.deepStrictEqual([head.kind, head.flags], [ANSWER, MORE])
  const first = await shim.answer()
  assert.deepStrictEqual([first.kind, first.body.length], [DATA, 1000])
  shim.send(frame(PING))
  assert.strictEqual((await shim.next()).kind, PONG, 'nothing comes without credit')
  shim.send(frame(CREDIT, { id: 1, head: u32(600) }))
  const rest = [await shim.answer(), await shim.answer(), await shim.answer()]
  assert.deepStrictEqual(rest.map(({ flags, body }) => [flags, body.length]), [[0, 500], [0, 1], [END, 0]])
})

shimTest('a handler learns whether its time is over or it was taken back', `exports.handler = (context) =>
  new Promise(() => context.signal.addEventListener('abort', () => {
    context.logger.warn(context.signal.reason.message)
  }))`, ASYNC, async (shim) => {
  for (const [flags, text] of [[0, 'the event has passed its deadline'], [1, 'the event was taken back']]) {
    shim.send(event(1), frame(CANCEL, { id: 1, code: 2, flags }))
    const found = [await shim.next(), await shim.next()]
    assert.deepStrictEqual(found.filter(({ kind }) => kind === ANSWER).map(({ flags }) => flags), [CANCELLED])
    assert.deepStrictEqual(found.filter(({ kind }) => kind === LOG).map(({ head }) => head.subarray(8).toString()), [text])
  }
})

shimTest('a stream that is cancelled ends at once and is closed', `exports.handler = (context) => {
    const { Readable } = require('stream')
    return new Readable({
      read () { this.push('x'.repeat(400)) },
      destroy (error, done) { context.logger.warn('destroyed'); done(error) }
    })
  }`, {}, async (shim) => {
  shim.send(event(1))
  for (let bytes = 0; bytes < 1000;) bytes += (await shim.answer()).body.length
  shim.send(frame(CANCEL, { id: 1, code: 1 }))
  const end = await shim.answer()
  assert.deepStrictEqual([end.kind, end.flags, end.id], [DATA, ABORT, 1])
  const record = await shim.next()
  assert.deepStrictEqual([record.kind, record.head.subarray(8).toString()], [LOG, 'destroyed'])
})

shimTest('records below the wanted level are not sent, the level is per event', `exports.handler = (context) => {
    context.logger.debug('d'); context.logger.info('i'); context.logger.warn('w', { n: 1 }); context.callback()
  }`, { settings: { log_level: 2 } }, async (shim) => {
  for (const [code, expected] of [[0, ['w']], [0x1000, ['d', 'i', 'w']], [0x4000, []]]) {
    shim.send(event(1, { code }))
    const found = []
    for (;;) {
      const record = await shim.next()
      if (record.kind !== LOG) break
      assert.strictEqual(record.id, 1)
      found.push(record.head.subarray(8).toString())
    }
    assert.deepStrictEqual(found, expected)
  }
})

shimTest('control callbacks run and their failure is told', `exports.initContext = (context) => {
    context.setDrainCallback(async () => {}); context.setTerminationCallback(() => { throw new Error('no way') })
  }
  exports.handler = () => {}`, {}, async (shim) => {
  const done = []
  for (const [code, id] of [[1, 5], [3, 6]]) {
    shim.send(frame(CONTROL, { code, id, head: u32(100) }))
    done.push(await shim.answer())
  }
  assert.deepStrictEqual(done.map(({ kind, code, id }) => [kind, code, id]),
    [[CONTROL_DONE, 0, 5], [CONTROL_DONE, 1, 6]])
  assert.match(done[1].text, /no way/)
})

shimTest('the end of the connection ends the shim, with an event in work', HOLD, ASYNC, async (shim) => {
  shim.send(event(1, { body: 'a' }))
  shim.send(event(2, { path: '/release', body: 'none' }))
  assert.strictEqual((await shim.answer()).code, 500)
})

test('SIGTERM lets the event in work end, SIGINT is ignored', { timeout: 20000 }, async () => {
  const shim = await Shim.start(HOLD, ASYNC)
  shim.child.kill('SIGINT')
  shim.send(event(1, { body: 'a' }), event(2, { path: '/release', body: 'none' }))
  await shim.answer()
  shim.child.kill('SIGTERM')
  await new Promise((resolve) => setTimeout(resolve, 100))
  assert.strictEqual(shim.child.exitCode, null)
  shim.send(event(3, { path: '/release', body: 'a' }))
  shim.send(frame(CANCEL, { id: 1, code: 2 }))
  assert.strictEqual((await shim.answer()).id, 1)
  assert.strictEqual(await shim.exit, 0)
})

test('failures to load are told', { timeout: 30000 }, async () => {
  for (const [source, code, text] of [
    ['throw new Error("at import")', 1, /at import[^]*main\.js:1/],
    ['const = 1', 1, /SyntaxError/],
    ['exports.handler = 1; exports.initContext = 2; exports.other = () => {}', 1, /no function "handler"[^]*other/],
    ['exports.handler = () => {}; exports.initContext = () => { throw new Error("in init") }', 2, /in init/]
  ]) {
    const shim = await Shim.start(source, { wait: false })
    const failed = await shim.answer()
    assert.deepStrictEqual([failed.kind, failed.code], [FAILED, code])
    assert.match(failed.text, text)
    assert.strictEqual(await shim.exit, 1)
  }
})

shimTest('the embedded shim leaves no trace of how it was started', `exports.handler = (context) => context.callback([
    process.argv.length, process.execArgv.length, require.main.filename, typeof globalThis.fs, typeof globalThis.require,
    typeof globalThis.shim, 'NUCLIO_SHIM_FD' in process.env])`, { embedded: true }, async (shim) => {
  shim.send(event(1))
  assert.strictEqual((await shim.answer()).text, '[2,0,"/opt/nuclio/wrapper.js","undefined","undefined","undefined",false]')
})

shimTest('many events, also failed and unanswered ones, leave nothing behind', `require('v8').setFlagsFromString('--expose_gc')
  const gc = require('vm').runInNewContext('gc')
  exports.handler = async (context, event) => {
    context.logger.debug('seen')
    context.signal.addEventListener('abort', () => {})
    if (event.path === '/throw') throw new Error('thrown')
    if (event.path === '/hang') return new Promise(() => {})
    if (event.path !== '/memory') return 'x'
    await new Promise((resolve) => setImmediate(resolve))
    gc()
    return [200, { bytes: process.memoryUsage().heapUsed, listeners: process.eventNames().length }]
  }`, { settings: { max_inflight: 64, log_level: 4 } }, async (shim) => {
  let id = 0
  const memory = async () => {
    shim.send(event(++id, { path: '/memory' }))
    return JSON.parse((await shim.answer()).text)
  }
  const round = async (path, cancelled) => {
    const ids = Array.from({ length: 30 }, () => ++id)
    shim.send(...ids.map((id) => event(id, { path })))
    if (cancelled) shim.send(...ids.map((id) => frame(CANCEL, { id, code: 2 })))
    for (const _ of ids) await shim.answer()
  }
  const rounds = async (count) => {
    for (let i = 0; i < count; i++) {
      await round('/')
      await round('/throw')
      await round('/hang', true)
    }
  }
  await rounds(20)
  const before = await memory()
  await rounds(60)
  const after = await memory()
  assert.ok(after.bytes - before.bytes < 2e6, `${after.bytes - before.bytes} bytes more after 5400 events`)
  assert.strictEqual(after.listeners, before.listeners)
})

test('without a socket it says so', async () => {
  const child = spawn(NODE, [WRAPPER], { stdio: ['ignore', 'ignore', 'pipe'] })
  let said = ''
  child.stderr.on('data', (data) => { said += data })
  assert.strictEqual(await new Promise((resolve) => child.on('close', resolve)), 2)
  assert.match(said, /NUCLIO_SHIM_FD/)
})
