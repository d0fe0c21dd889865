// Tests of the Node.js shim over shim protocol 1: a scripted Go processor starts a real child process with its arguments
// and talks to it over a real socket.
//
//     node --test test_v1.js                                          # in this folder
//     SHIM_TEST_NODE=/path/to/node node --test test_v1.js
'use strict'

const assert = require('node:assert')
const { spawn } = require('node:child_process')
const fs = require('node:fs')
const net = require('node:net')
const os = require('node:os')
const path = require('node:path')
const { test } = require('node:test')

const NODE = process.env.SHIM_TEST_NODE || process.execPath

function event (where = '/', body = 'hi', more = {}) {
  return {
    body: Buffer.from(body).toString('base64'), 'content-type': 'text/plain', content_type: 'text/plain', fields: { x: '1' },
    headers: { 'X-Y': 'ü' }, id: 'e1', method: 'POST', num_shards: 0, offset: 0, path: where, shard_id: -1, size: 2,
    timestamp: 1735689600, topic: '', trigger: { kind: 'http', name: 'web' }, type: '', type_version: '', url: '',
    version: '', ...more
  }
}

/** A child process, and the processor's end of its connection. */
class Shim {
  static async start (source, { environment = {}, tcp = false } = {}) {
    const shim = new Shim()
    shim.folder = fs.mkdtempSync(path.join(os.tmpdir(), 'shim-'))
    fs.writeFileSync(path.join(shim.folder, 'main.js'), source)
    const listener = net.createServer()
    const connected = new Promise((resolve) => listener.once('connection', resolve))
    await new Promise((resolve) => tcp
      ? listener.listen(0, '127.0.0.1', resolve)
      : listener.listen(path.join(shim.folder, 'socket'), resolve))
    const address = tcp ? `127.0.0.1:${listener.address().port}` : listener.address()
    shim.child = spawn(NODE, [path.join(__dirname, 'wrapper.js'), address, path.join(shim.folder, 'main.js'), 'handler'], {
      stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...environment }
    })
    shim.errors = ''
    shim.child.stderr.on('data', (data) => { shim.errors += data })
    shim.exit = new Promise((resolve) => shim.child.on('exit', (code, signal) => resolve(signal || code)))
    shim.socket = await connected
    listener.close()
    shim.lines = []
    shim.waiting = null
    let rest = ''
    shim.socket.setEncoding('utf8')
    shim.socket.on('error', () => {})
    shim.socket.on('data', (data) => {
      const lines = (rest + data).split('\n')
      rest = lines.pop()
      shim.lines.push(...lines)
      if (shim.waiting) shim.waiting()
    })
    return shim
  }

  send (event) {
    this.socket.write(JSON.stringify(event) + '\n')
  }

  /** The next line: its letter, and what its JSON says. */
  async line (wanted) {
    while (this.lines.length === 0) await new Promise((resolve) => { this.waiting = resolve })
    const line = this.lines.shift()
    if (wanted !== undefined) assert.strictEqual(line[0], wanted, line)
    return [line[0], line.length > 1 && line[0] !== 'b' ? JSON.parse(line.slice(1)) : line.slice(1)]
  }

  /** After its duration. */
  async answer () {
    assert.ok((await this.line('m'))[1].duration > 0)
    return (await this.line('r'))[1]
  }

  async end () {
    this.socket.destroy()
    this.child.kill('SIGKILL')
    await this.exit
    fs.rmSync(this.folder, { recursive: true })
  }
}

function shimTest (name, source, options, body) {
  test(name, { timeout: 30000 }, async () => {
    const shim = await Shim.start(source, options)
    try {
      await body(shim)
    } finally {
      await shim.end()
    }
  })
}

const ECHO = 'exports.handler = (context, event) => context.callback(event.body)'

for (const tcp of [false, true]) {
  shimTest(`events are answered over ${tcp ? 'TCP' : 'a socket file'} however they are cut`, ECHO, { tcp }, async (shim) => {
    await shim.line('s')
    for (const byte of Buffer.from(JSON.stringify(event('/', 'cut')) + '\n')) shim.socket.write(Buffer.from([byte]))
    assert.deepStrictEqual(await shim.answer(), {
      body: Buffer.from('cut').toString('base64'), body_encoding: 'base64', content_type: 'text/plain', headers: {}, status_code: 200
    })
    const large = 'x'.repeat(2000000)
    shim.send(event('/', large))
    assert.strictEqual(Buffer.from((await shim.answer()).body, 'base64').toString(), large)
  })
}

shimTest('an event has what the wrapper of the Go processor gives', `exports.handler = (context, event) =>
  context.callback({ ...event, body: event.body.toString(), timestamp: event.timestamp instanceof Date && event.timestamp.getTime() })`,
{}, async (shim) => {
  await shim.line('s')
  shim.send(event('/a'))
  const wanted = { ...event('/a'), body: 'hi', timestamp: 1735689600000 }
  assert.deepStrictEqual(JSON.parse((await shim.answer()).body), wanted)
  // As from other triggers than HTTP, and as the data of a cloud event comes.
  shim.send({ ...event(''), fields: null, headers: null, body: { a: [1, 'ü'] } })
  const found = JSON.parse((await shim.answer()).body)
  assert.deepStrictEqual([found.path, found.fields, found.headers, found.body], ['/', {}, {}, '{"a":[1,"ü"]}'])
})

shimTest('responses keep status, type and headers', `exports.handler = async (context, event) => {
  context.logger.warnWith('careful', { n: 1 })
  context.logger.info('plain', 'text')
  return new context.Response('ü', { a: ['1', '2'], b: 3, 'x-nuclio-stream-no-ack': true }, 'text/x', 201)
}`, {}, async (shim) => {
  await shim.line('s')
  shim.send(event())
  const record = (await shim.line('l'))[1]
  assert.match(record.datetime, /^\d{4}-\d\d-\d\dT/)
  assert.deepStrictEqual([record.level, record.message, record.with], ['warning', 'careful', { n: 1 }])
  assert.deepStrictEqual((await shim.line('l'))[1].with, { data: 'text' })
  assert.deepStrictEqual(await shim.answer(), {
    body: 'ü', body_encoding: 'text', content_type: 'text/x', status_code: 201,
    headers: { a: ['1', '2'], b: '3', 'X-Nuclio-Stream-No-Ack': true }
  })
})

shimTest('what fails, fails alone', `exports.handler = async (context, event) => {
  if (event.path === '/throw') throw new Error('thrown')
  return 'ok'
}`, {}, async (shim) => {
  await shim.line('s')
  shim.send(event('/throw'))
  assert.strictEqual((await shim.line('l'))[1].level, 'error')
  const failed = await shim.answer()
  assert.strictEqual(failed.status_code, 500)
  assert.match(failed.body, /^Error in handler: Error: thrown\n/)
  shim.socket.write('no json\n')
  assert.match((await shim.line('r'))[1].body, /^Cannot read the event/)
  shim.send(event())
  assert.strictEqual((await shim.answer()).body, 'ok')
})

const STREAM = `exports.handler = async function * (context, event) {
  yield 'one'
  yield Buffer.from([0xff])
  if (event.path === '/throw') throw new Error('midway')
}`

shimTest('a stream is one answer for a processor that knows no pieces', STREAM, {}, async (shim) => {
  await shim.line('s')
  shim.send(event())
  const answer = await shim.answer()
  assert.deepStrictEqual([...Buffer.from(answer.body, 'base64')], [...Buffer.from('one'), 0xff])
  shim.send(event('/throw'))
  await shim.line('l')
  const failed = (await shim.line('r'))[1]
  assert.strictEqual(failed.status_code, 500)
  assert.match(failed.body, /midway/)
  shim.send(event())
  assert.strictEqual((await shim.answer()).body, answer.body)
})

shimTest('a stream comes in pieces where the processor takes them', STREAM, { environment: { NUCLIO_SHIM_STREAM_LINES: '1' } }, async (shim) => {
  await shim.line('s')
  for (const where of ['/', '/throw', '/']) {
    shim.send(event(where))
    const [, head] = await shim.line('c')
    assert.deepStrictEqual([head.body, head.status_code], ['', 200])
    for (const piece of ['b25l', '/w==']) assert.deepStrictEqual(await shim.line('b'), ['b', piece])
    if (where === '/throw') {
      await shim.line('l')
      assert.strictEqual((await shim.line('r'))[1].status_code, 500)
    } else {
      await shim.line('e')
      await shim.line('m')
    }
  }
})

test('a handler that cannot be loaded is said on standard error', { timeout: 30000 }, async () => {
  const shim = await Shim.start('throw new Error("not today")')
  assert.strictEqual(await shim.exit, 1)
  assert.match(shim.errors, /not today/)
  await shim.end()
})

shimTest('the end of the connection ends the process', ECHO, {}, async (shim) => {
  await shim.line('s')
  shim.socket.end()
  assert.strictEqual(await shim.exit, 0)
})
