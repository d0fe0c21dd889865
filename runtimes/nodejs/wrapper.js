// nuclio-shim-protocol: 2
//
// Runs a user's Node.js handler for the processor, which started this file as a child process.
//
// The two talk shim protocol 2 over one Unix stream socket: little-endian frames with a fixed header of 16 bytes.
// A Go processor starts it with arguments and speaks protocol 1, lines of JSON: see `Lines`.
// Reading order: `main`, `received` (cuts what arrives into frames), `start` (one event), `convert` (what a value
// means), `stream`.
//
// Where a package.json beside it makes a module of this file, it has no `require`; so everything is in one function.
'use strict'

function shim (require) {
  const fs = require('fs')
  const net = require('net')
  const path = require('path')
  const { AsyncLocalStorage } = require('async_hooks')

  // Kinds of frames.
  const INIT = 0x01, EVENT = 0x02, CREDIT = 0x04, CANCEL = 0x05, CONTROL = 0x06, PING = 0x08
  const HELLO = 0x81, READY = 0x82, ANSWER = 0x83, DATA = 0x84, LOG = 0x86, CONTROL_DONE = 0x87, PONG = 0x8b
  const FAILED = 0x8f
  // Flags of EVENT, of ANSWER, of DATA, of any frame.
  const MORE_IN = 0x01, NO_BODY = 0x02, BODY_JSON = 0x04, TYPED = 0x20
  const MORE = 0x01, NO_ACK = 0x04, CANCELLED = 0x10
  const END = 0x01, ABORT = 0x02
  const OPTIONAL = 0x80
  // Codes of FAILED, of CANCEL, of CONTROL.
  const LOAD_FAILED = 1, INIT_FAILED = 2, PROTOCOL_FAULT = 3
  const DEADLINE = 2
  const TAKEN_BACK = 0x01 // flag of a CANCEL for the deadline
  const DRAIN = 1, TERMINATE = 3
  const DEBUG = 0, INFO = 1, WARN = 2, ERROR = 3

  const HEADER_BYTES = 16
  const IN_FLIGHT_MAX = 16384
  const PREFETCH = 32 // events that may wait here
  const READ_BYTES = 64 * 1024
  const LARGE_BYTES = 16 * 1024 // frames above this get a buffer of their own while they arrive; bodies are not copied
  const PIECE_BYTES_MAX = 64 * 1024 // of one DATA frame
  const LOG_TEXT_MAX = 64 * 1024 // characters of a message
  const LOG_FIELDS_MAX = 256 * 1024 // of all fields of a record together; beyond, long values are cut
  const LOG_FIELD_MAX = 4 * 1024
  const LOGS_HELD_MS_MAX = 100
  const EXPORT_LOOKS = 40 // compat: how often, and every how many ms, a missing export is looked for
  const EXPORT_LOOK_MS = 250
  const SILENT_MS = 5000 // a handler that has returned without an answer is mentioned after this time
  const TEXT = 'text/plain'
  const JSON_TYPE = 'application/json'

  // ------------------------------------------------------------------------------------------------ frames out

  let socket = null
  let descriptor = -1 // of the socket, -1 unknown
  let closed = false
  let out = Buffer.allocUnsafeSlow(READ_BYTES) // whole frames that go out with the next write
  let outEnd = 0
  let flushing = false // at the end of this turn of the event loop
  let written = 0 // when something was last written, roughly

  /** Writes what is held. */
  function flush () {
    if (outEnd === 0) return
    const end = outEnd
    outEnd = 0
    transmit(out.subarray(0, end), null)
  }

  /** Writes what is held once the running callbacks and promises are done, so that all of it shares one write. */
  function flushLater () {
    if (flushing) return
    flushing = true
    process.nextTick(flushTick)
  }

  function flushTick () {
    flushing = false
    flush()
  }

  /** Straight into the socket while it takes everything; what it does not take waits in Node's own queue. */
  function transmit (first, second) {
    if (closed) return
    let sent = 0
    if (descriptor >= 0 && socket.writableLength === 0) {
      try {
        sent = second === null ? fs.writeSync(descriptor, first) : fs.writevSync(descriptor, [first, second])
      } catch (error) {
        if (error.code !== 'EAGAIN' && error.code !== 'EINTR') {
          closed = true // the read side notices it as well
          return
        }
      }
    }
    // Copied: the first is our buffer, the second is the user's, who may write to it.
    if (sent < first.length) socket.write(Buffer.from(first.subarray(sent)))
    const rest = Math.max(sent - first.length, 0)
    if (second !== null && rest < second.length) socket.write(Buffer.from(second.subarray(rest)))
  }

  /** Makes room for a frame; false: it is too large to be held. */
  function room (bytes) {
    if (outEnd + bytes > READ_BYTES) flush()
    return bytes <= READ_BYTES
  }

  function header (to, at, size, kind, flags, code, id, head) {
    to.writeUInt32LE(size, at)
    to[at + 4] = kind
    to[at + 5] = flags
    to.writeUInt16LE(code, at + 6)
    to.writeUInt32LE(id, at + 8)
    to.writeUInt32LE(head, at + 12)
  }

  /** Holds a frame, or writes it if it is large. `head` and `body`: Buffers or null. */
  function put (kind, flags, code, id, head, body) {
    if (lines !== null) return lines.put(kind, flags, code, id, head, body)
    const headBytes = head === null ? 0 : head.length
    const size = headBytes + (body === null ? 0 : body.length)
    const holdable = room(HEADER_BYTES + size)
    const to = holdable ? out : Buffer.allocUnsafe(HEADER_BYTES + headBytes)
    const at = holdable ? outEnd : 0
    header(to, at, size, kind, flags, code, id, headBytes)
    if (head !== null) head.copy(to, at + HEADER_BYTES)
    if (!holdable) return transmit(to, body)
    if (body !== null) out.set(body, at + HEADER_BYTES + headBytes)
    outEnd = at + HEADER_BYTES + size
  }

  function putPairs (kind, code, pairs) {
    put(kind, 0, code, 0, Buffer.from(Object.entries(pairs).flat().join('\0')), null)
  }

  /** Holds an ANSWER. */
  function putAnswer (call, answer, flags) {
    if (lines !== null) return lines.putAnswer(call, answer, flags)
    const { body, type, pairs } = answer
    const table = pairs.length === 0 ? type : type + '\0' + pairs.join('\0')
    const micros = Math.min(Math.max(0, Math.round((performance.now() - call.started) * 1000)), 0xffffffff)
    const text = typeof body === 'string'
    if ((table.length + body.length) * 3 + 64 <= LARGE_BYTES) {
      // Small: encoded straight into the buffer, lengths filled in afterwards.
      room(LARGE_BYTES)
      const at = outEnd
      let end = at + HEADER_BYTES + 8
      end += out.write(table, end)
      const head = end - at - HEADER_BYTES
      if (text) end += out.write(body, end)
      else { out.set(body, end); end += body.length }
      header(out, at, end - at - HEADER_BYTES, ANSWER, flags | answer.flags, answer.status, call.id, head)
      answerHead(out, at + HEADER_BYTES, micros, pairs.length / 2)
      outEnd = end
      return
    }
    const texts = Buffer.from(table)
    const head = Buffer.allocUnsafe(8 + texts.length)
    answerHead(head, 0, micros, pairs.length / 2)
    texts.copy(head, 8)
    put(ANSWER, flags | answer.flags, answer.status, call.id, head, text ? Buffer.from(body) : body)
  }

  function answerHead (to, at, micros, pairs) {
    to.writeUInt32LE(micros, at)
    to.writeUInt32LE(pairs, at + 4) // a u16, and a u16 that is zero
  }

  // ------------------------------------------------------------------------------------------------ frames in

  let settings = null // of INIT
  let maxFrame = 1 << 30
  const inbox = Buffer.allocUnsafeSlow(READ_BYTES)
  let inStart = 0
  let inEnd = 0
  let reading = null // what the next read goes into
  let large = null // the payload of a frame that is still arriving…
  let largeHead = null // …its header…
  let largeEnd = 0 // …and how much of it is there

  /** Where the next read goes. Undefined: where the last went. */
  function nextBuffer () {
    if (large !== null) return (reading = large.subarray(largeEnd))
    if (inEnd > 0) return (reading = inbox.subarray(inEnd))
    if (reading === inbox) return undefined
    return (reading = inbox)
  }

  /** Something has been read. */
  function received (bytes) {
    try {
      if (large !== null) {
        largeEnd += bytes
        if (largeEnd === large.length) {
          const payload = large
          large = null
          frame(largeHead, 0, payload, 0, payload.length, true)
        }
      } else {
        inEnd += bytes
        cut()
      }
    } catch (error) {
      if (!(error instanceof ProtocolFault)) throw error
      fail(PROTOCOL_FAULT, error.message)
    }
    return true
  }

  /** Takes all whole frames out of what has been read. */
  function cut () {
    while (inEnd - inStart >= HEADER_BYTES) {
      const size = inbox.readUInt32LE(inStart)
      const head = inbox.readUInt32LE(inStart + 12)
      if (head > size || size > maxFrame) {
        throw new ProtocolFault('bad frame header ' + inbox.toString('hex', inStart, inStart + HEADER_BYTES))
      }
      const start = inStart + HEADER_BYTES
      if (inEnd - start < size) {
        if (size > LARGE_BYTES) {
          largeHead = Buffer.from(inbox.subarray(inStart, start))
          large = Buffer.allocUnsafeSlow(size)
          largeEnd = inbox.copy(large, 0, start, inEnd)
          inStart = inEnd = 0
        }
        break
      }
      inStart = start + size
      frame(inbox, start - HEADER_BYTES, inbox, start, size, false)
    }
    if (inStart === inEnd) inStart = inEnd = 0
    else if (inStart > 0) {
      inbox.copyWithin(0, inStart, inEnd)
      inEnd -= inStart
      inStart = 0
    }
  }

  /** One frame. `own`: the payload's buffer may be kept. */
  function frame (head, at, data, start, size, own) {
    const kind = head[at + 4]
    const flags = head[at + 5]
    const code = head.readUInt16LE(at + 6)
    const id = head.readUInt32LE(at + 8)
    const body = start + head.readUInt32LE(at + 12)
    const end = start + size
    switch (kind) {
      case EVENT: return arrive(flags, code, id, data, start, body, end, own)
      case CREDIT: return credited(open.get(id), data.readUInt32LE(start))
      case CANCEL: return cancel(id, code, flags)
      case CONTROL: return void control(code, id)
      case INIT: return initialize(code, data.toString('utf8', start, end))
      case PING:
        put(PONG, 0, code, id, null, data.subarray(body, end))
        return flush()
      default:
        if (!(flags & OPTIONAL)) throw new ProtocolFault('unexpected frame of kind 0x' + kind.toString(16))
    }
  }

  class ProtocolFault extends Error {}

  // ------------------------------------------------------------------------------------------------ events

  /** Texts of an event that carries more than plain text: each has a type and a length. */
  function typedTexts (data, at, end) {
    const texts = []
    while (at < end) {
      const next = at + 5 + data.readUInt32LE(at + 1)
      texts.push(typed(data, String.fromCharCode(data[at]), at + 5, next))
      at = next
    }
    return texts
  }

  function typed (data, type, at, end) {
    switch (type) {
      case 's': return data.toString('utf8', at, end)
      case 'l': return typedTexts(data, at, end)
      case 'i': return Number(data.readBigInt64LE(at))
      case 'f': return data.readDoubleLE(at)
      case 't': return data[at] !== 0
      case 'n': return null
      default: return Buffer.from(data.subarray(at, end))
    }
  }

  function table (texts, at, pairs) {
    const object = {}
    for (const end = at + 2 * pairs; at < end; at += 2) {
      const name = texts[at]
      if (name !== '__proto__') object[name] = texts[at + 1]
      else Object.defineProperty(object, name, { value: texts[at + 1], enumerable: true, configurable: true, writable: true })
    }
    return object
  }

  function int64 (data, at) {
    return data.readInt32LE(at + 4) * 4294967296 + data.readUInt32LE(at)
  }

  /** The event of an EVENT frame: a plain object, which JSON can encode. */
  function decode (flags, code, data, at, bodyAt, end, own) {
    const headers = data.readUInt16LE(at + 28)
    const fields = data.readUInt16LE(at + 30)
    const texts = flags & TYPED
      ? typedTexts(data, at + 32, bodyAt)
      : data.toString('utf8', at + 32, bodyAt).split('\0')
    if (texts.length < 12 + 2 * (headers + fields)) {
      throw new ProtocolFault(`event has ${texts.length} texts, want ${12 + 2 * (headers + fields)}`)
    }
    const of = triggers[code & 0xfff] || NO_TRIGGER
    return {
      // A large body keeps the buffer it arrived in, others are copied out of the one that is used again.
      body: own ? data.subarray(bodyAt, end) : Buffer.from(data.subarray(bodyAt, end)),
      'content-type': texts[5],
      content_type: texts[5],
      fields: table(texts, 12 + 2 * headers, fields),
      headers: table(texts, 12, headers),
      id: texts[0],
      method: texts[1],
      num_shards: data.readInt32LE(at + 20),
      offset: int64(data, at + 8),
      path: texts[2] || '/',
      shard_id: data.readInt32LE(at + 16),
      size: flags & (NO_BODY | BODY_JSON) ? 0 : end - bodyAt,
      timestamp: new Date(int64(data, at) / 1000),
      topic: texts[6],
      trigger: { kind: texts[10] || of.kind, name: texts[11] || of.name },
      type: texts[7],
      type_version: texts[8],
      url: texts[4],
      version: texts[9]
    }
  }

  // ------------------------------------------------------------------------------------------------ what handlers see

  const NO_TRIGGER = { kind: '', name: '' }
  const DONE = Promise.resolve()
  let triggers = []
  let workerLevel = DEBUG

  class Response {
    constructor (body = null, headers = null, contentType = TEXT, statusCode = 200, bodyEncoding = 'text') {
      if (typeof body !== 'string' && !isStream(body)) {
        // compat: Buffers too; one that is assigned to `body` afterwards is sent as it is.
        body = JSON.stringify(body)
        contentType = JSON_TYPE
      }
      this.body = body
      this.headers = headers
      this.content_type = contentType
      this.status_code = statusCode
      this.body_encoding = bodyEncoding
    }
  }

  const baseLogger = makeLogger(null)

  /** What the contexts of all events share: their enumerable members, and whatever the user puts there. */
  const shared = {
    userData: {},
    callback () {
      baseLogger.warn('context.callback was called outside of an event')
      return DONE
    },
    Response,
    logger: baseLogger
  }

  /** Members that the reference does not have do not show up when somebody lists the members. */
  function hidden (members) {
    for (const [name, value] of Object.entries(members)) {
      Object.defineProperty(shared, name, { value, writable: true, configurable: true, enumerable: false })
    }
  }

  let drainCallback = null
  let terminationCallback = null

  hidden({
    signal: undefined,
    setDrainCallback (callback) { drainCallback = callback },
    setTerminationCallback (callback) { terminationCallback = callback }
  })

  /** The context of an event: `callback`, `logger` and `signal` are its own, everything else is shared. */
  const contextTraps = {
    get (call, name) {
      if (name === 'callback') return call.callback || (call.callback = (value) => callBack(call, value))
      if (name === 'logger') return shared.logger !== baseLogger ? shared.logger : call.logger || (call.logger = makeLogger(call))
      if (name === 'signal') return call.getSignal()
      return shared[name]
    },
    set (call, name, value) {
      if (name === 'callback') call.callback = value // of this event only
      else shared[name] = value
      return true
    },
    has: (call, name) => name in shared,
    deleteProperty: (call, name) => delete shared[name],
    ownKeys: () => Reflect.ownKeys(shared),
    defineProperty: (call, name, descriptor) => Reflect.defineProperty(shared, name, { ...descriptor, configurable: true }),
    getOwnPropertyDescriptor (call, name) {
      const own = Reflect.getOwnPropertyDescriptor(shared, name)
      if (own === undefined) return undefined
      own.configurable = true
      if ('value' in own) own.value = contextTraps.get(call, name)
      return own
    }
  }

  /** One event on its way through the handler. */
  class Call {
    constructor (id, level, event) {
      this.id = id
      this.level = level // lowest wanted
      this.event = event
      this.started = 0
      this.running = false // the handler has not returned yet
      this.given = null // the answer given meanwhile
      this.answered = false
      this.callback = null
      this.logger = null
      this.controller = null
      this.cancelled = 0 // code of CANCEL
      this.takenBack = false // not its deadline: its trigger has something newer
      this.credit = 0
      this.wake = null
      this.stopStream = null
    }

    getSignal () {
      if (this.controller === null) {
        this.controller = new AbortController()
        if (this.cancelled) this.abort()
      }
      return this.controller.signal
    }

    abort () {
      if (this.controller === null) return
      const late = this.takenBack ? 'the event was taken back' : 'the event has passed its deadline'
      const error = new Error(this.cancelled === DEADLINE ? late : 'the client is gone')
      error.name = 'AbortError'
      // Listeners are the user's; Node reports what they throw as an uncaught exception.
      current.run(this, () => this.controller.abort(error))
    }

    [Symbol.for('nodejs.util.inspect.custom')] () {
      return shared
    }
  }

  // ------------------------------------------------------------------------------------------------ logs

  function makeLogger (call) {
    const method = (level) => (message, data) => log(call, level, message, data)
    const [debug, info, warn, error] = [DEBUG, INFO, WARN, ERROR].map(method)
    return { error, warn, info, debug, errorWith: error, warnWith: warn, infoWith: info, debugWith: debug }
  }

  /** Holds a record; it goes out with the next answer, or at the end of this turn, or now. */
  function log (call, level, message, data) {
    if (level < (call === null ? workerLevel : call.level)) return
    let fields = data
    if (typeof message !== 'string') {
      if (message instanceof Error && data === undefined) fields = { stack: message.stack }
      message = textOf(message)
    }
    if (message.length > LOG_TEXT_MAX) message = `${message.slice(0, LOG_TEXT_MAX)}... (${message.length} characters)`
    const text = Buffer.from(message)
    const head = Buffer.allocUnsafe(8 + text.length)
    const micros = Date.now() * 1000
    head.writeUInt32LE(micros % 4294967296, 0)
    head.writeUInt32LE(Math.floor(micros / 4294967296), 4)
    text.copy(head, 8)
    const id = call === null || call.answered ? 0 : call.id
    put(LOG, 0, level, id, head, fields === undefined || fields === null ? null : Buffer.from(fieldsJson(fields)))
    const now = performance.now()
    if (level >= WARN || settings === null || settings.log_flush === 'always' || now - written > LOGS_HELD_MS_MAX) {
      written = now
      flush()
    } else flushLater()
  }

  /** Any value as a message. */
  function textOf (value) {
    try {
      return value !== null && typeof value === 'object' && !(value instanceof Error) ? JSON.stringify(value) : String(value)
    } catch {
      return require('util').inspect(value)
    }
  }

  /** The fields of a record as JSON: whatever the values are, and however large. */
  function fieldsJson (fields) {
    const error = (key, value) => value instanceof Error ? value.stack || String(value) : value
    try {
      const text = JSON.stringify(fields, error)
      if (text !== undefined && text.length <= LOG_FIELDS_MAX) return text
    } catch {} // one of them is odd: one by one
    if (typeof fields !== 'object') return JSON.stringify(textOf(fields).slice(0, LOG_FIELD_MAX))
    const safe = {}
    let left = LOG_FIELDS_MAX
    for (const [name, value] of Object.entries(fields)) {
      let text
      try {
        text = JSON.stringify(value, error)
      } catch {
        text = require('util').inspect(value, { depth: 1 })
      }
      if (text === undefined) continue
      const long = text.length > LOG_FIELD_MAX
      left -= name.length + Math.min(text.length, LOG_FIELD_MAX)
      if (left < 0) break
      safe[name] = long ? `${text.slice(0, LOG_FIELD_MAX)}... (${text.length} characters)` : safeValue(value, text)
    }
    return JSON.stringify(safe)
  }

  function safeValue (value, text) {
    try {
      return JSON.parse(text)
    } catch {
      return text // inspected
    }
  }

  // ------------------------------------------------------------------------------------------------ the handler

  const current = new AsyncLocalStorage() // whose code runs: says which event an uncaught exception belongs to
  const open = new Map() // calls that have begun, by id
  const queue = [] // calls that have not
  let handler = null
  let owner = null // `this` of the handler
  let inFlightMax = 1
  let pumping = false
  let stopping = false
  let silentMentioned = false

  function arrive (flags, code, id, data, at, body, end, own) {
    if (flags & MORE_IN) throw new ProtocolFault(`event ${id}: request streams were not offered`)
    const level = code >> 12 ? (code >> 12) - 1 : workerLevel
    queue.push(new Call(id, level, decode(flags, code, data, at, body, end, own)))
    pump()
  }

  /** Begins events while there is room. */
  function pump () {
    if (pumping) return
    pumping = true
    while (queue.length > 0 && open.size < inFlightMax && !stopping) start(queue.shift())
    pumping = false
    if (stopping && open.size === 0) leave(0)
  }

  function invoke (call) {
    return handler.call(owner, new Proxy(call, contextTraps), call.event)
  }

  function start (call) {
    open.set(call.id, call)
    call.started = written = performance.now()
    call.running = true
    let value
    try {
      value = current.run(call, invoke, call)
    } catch (error) {
      call.running = false
      return failed(call, error) // compat: also after the callback
    }
    call.running = false
    if (call.given !== null) return give(call, call.given)
    if (call.answered || value === undefined) return
    if (isThenable(value)) {
      try {
        value.then((value) => resolved(call, value), (error) => failed(call, error))
      } catch (error) {
        failed(call, error)
      }
    } else if (isAnswer(value)) answer(call, value)
  }

  function isThenable (value) {
    return value !== null && typeof value === 'object' && typeof value.then === 'function'
  }

  function resolved (call, value) {
    if (value !== undefined) return answer(call, value)
    if (call.answered || silentMentioned) return
    silentMentioned = true
    setTimeout(() => {
      if (call.answered) silentMentioned = false
      else log(call, WARN, 'The handler has returned without an answer: call context.callback, or return a value')
    }, SILENT_MS).unref()
  }

  /**
   * Whether a value that the handler returned, other than by a promise, is meant as an answer. Handlers with a callback
   * return whatever their last expression happens to be: numbers, timers, sockets, clients.
   */
  function isAnswer (value) {
    if (typeof value === 'string') return true
    if (value === null || typeof value !== 'object') return false
    if (Array.isArray(value) || value instanceof Uint8Array || value instanceof Response) return true
    if (isStream(value)) return !(value instanceof net.Socket)
    const prototype = Object.getPrototypeOf(value)
    return prototype === null || prototype === Object.prototype
  }

  function callBack (call, value) {
    answer(call, value)
    return DONE
  }

  /** The first answer counts. */
  function answer (call, value) {
    if (call.answered || call.given !== null) return
    let converted
    try {
      converted = convert(value)
    } catch (error) {
      return failed(call, error)
    }
    if (call.running) call.given = converted
    else give(call, converted)
  }

  function give (call, converted) {
    call.given = null
    if (call.answered) return
    if (converted.source !== null) return void stream(call, converted)
    if (converted.body.length > maxFrame - READ_BYTES) {
      return failed(call, new Error(`an answer of ${converted.body.length} bytes is above the limit; stream it`))
    }
    putAnswer(call, converted, 0)
    finish(call)
  }

  function failed (call, error) {
    call.given = null
    if (call.answered) return report(call, error, 'Exception caught after the answer')
    if (call.cancelled === 0) report(call, error, 'Exception caught in handler')
    const stack = stackOf(error)
    const text = 'Error in handler: ' + textOfError(error) + (stack ? '\n' + stack : '')
    putAnswer(call, plain(500, text), call.cancelled ? CANCELLED : 0)
    finish(call)
  }

  function report (call, error, message) {
    const stack = stackOf(error)
    log(call, ERROR, message, stack ? { err: textOfError(error), stack } : { err: textOfError(error) })
  }

  function textOfError (error) {
    try {
      return String(error)
    } catch {
      return require('util').inspect(error)
    }
  }

  function stackOf (error) {
    try {
      return error !== null && typeof error === 'object' && typeof error.stack === 'string' ? error.stack : ''
    } catch {
      return ''
    }
  }

  /** The event is over; whoever works on is not waited for. */
  function finish (call) {
    call.answered = true
    open.delete(call.id)
    // One at a time: written before the next begins, which may be slow or the last. Else all of this turn in one write.
    if (inFlightMax === 1) flush()
    else flushLater()
    if (queue.length > 0 || stopping) pump()
  }

  function cancel (id, code, flags) {
    const call = open.get(id)
    if (call === undefined) {
      const place = queue.findIndex((other) => other.id === id)
      if (place < 0) return
      const [waiting] = queue.splice(place, 1)
      waiting.started = performance.now()
      waiting.answered = true
      putAnswer(waiting, plain(500, 'cancelled'), CANCELLED)
      return flush()
    }
    if (call.cancelled) return
    call.cancelled = code
    call.takenBack = (flags & TAKEN_BACK) !== 0
    if (call.stopStream !== null) call.stopStream()
    else if (code === DEADLINE) {
      // Its caller has been answered. The slot is free; what the handler still does goes nowhere.
      putAnswer(call, plain(500, 'cancelled'), CANCELLED)
      finish(call)
    }
    call.abort()
  }

  // ------------------------------------------------------------------------------------------------ answers

  function plain (status, body, type = TEXT) {
    return { status, flags: 0, type, pairs: [], body, source: null }
  }

  /** What a value means as an answer. */
  function convert (value) {
    if (typeof value === 'string') return plain(200, value)
    if (value instanceof Uint8Array) return plain(200, value)
    if (value instanceof Response) return convertResponse(value)
    if (value instanceof String) return plain(200, String(value))
    if (Array.isArray(value) && value.length === 2 && typeof value[0] === 'number') {
      const converted = isStream(value[1]) ? streamed(value[1]) : convertBody(value[1])
      converted.status = checked(value[0])
      return converted
    }
    return isStream(value) ? streamed(value) : convertBody(value)
  }

  function convertBody (value) {
    if (typeof value === 'string' || value instanceof Uint8Array) return plain(200, value)
    if (value instanceof String) return plain(200, String(value))
    // compat: undefined and functions have no JSON: an empty body with its type.
    return plain(200, JSON.stringify(value) || '', JSON_TYPE)
  }

  function streamed (source) {
    return { ...plain(200, ''), source }
  }

  function convertResponse (response) {
    let { body } = response
    let converted
    if (isStream(body)) converted = streamed(body)
    else {
      if (response.body_encoding === 'base64' && typeof body === 'string') body = Buffer.from(body, 'base64')
      converted = convertBody(body)
    }
    // An empty type leaves it to the headers, or to the trigger's default.
    const type = response.content_type
    converted.type = type === null || type === undefined ? '' : String(type).replace(/\0/g, '')
    converted.status = checked(response.status_code === undefined ? 200 : response.status_code)
    if (response.headers) convertHeaders(converted, response.headers)
    return converted
  }

  function convertHeaders (converted, headers) {
    const entries = typeof headers.entries === 'function' ? headers.entries() : Object.entries(headers)
    for (const [name, value] of entries) {
      if (name.toLowerCase() === 'x-nuclio-stream-no-ack') {
        if (value === true || value === 1 || String(value).toLowerCase() === 'true') converted.flags |= NO_ACK
        continue
      }
      for (const one of Array.isArray(value) ? value : [value]) {
        if (one === null || one === undefined) continue
        const text = typeof one === 'object' && !(one instanceof String) ? JSON.stringify(one) : String(one)
        if (text === undefined) continue
        if (name.includes('\0') || text.includes('\0')) {
          baseLogger.warn('Dropped a header with a NUL byte', { header: name })
        } else converted.pairs.push(name, text)
      }
    }
  }

  function checked (status) {
    const number = typeof status === 'string' && /^\d{3}$/.test(status) ? Number(status) : status
    if (!Number.isInteger(number) || number < 100 || number > 999) {
      throw new Error(`the answer's status is ${textOf(status)}, want an integer from 100 to 999`)
    }
    return number
  }

  /** Readable streams, web streams, generators of both kinds, and whatever else is iterated asynchronously. */
  function isStream (value) {
    if (value === null || typeof value !== 'object') return false
    return typeof value[Symbol.asyncIterator] === 'function' ||
      (typeof value[Symbol.iterator] === 'function' && typeof value.next === 'function')
  }

  /** Answers with the items of a stream: head, then pieces as far as the processor's credit goes. */
  async function stream (call, converted) {
    const { source } = converted
    let iterator = null
    let begun = false
    call.credit = Number(settings.credit) || 256 * 1024
    const close = () => {
      if (typeof source.destroy === 'function') source.destroy()
      else if (iterator !== null && typeof iterator.return === 'function') {
        // Not waited for: it may be in the middle of something.
        new Promise((resolve) => resolve(iterator.return())).catch(() => {})
      }
    }
    call.stopStream = () => {
      if (call.answered) return
      if (begun) put(DATA, ABORT, 0, call.id, null, Buffer.from('cancelled'))
      else putAnswer(call, plain(500, 'cancelled'), CANCELLED)
      finish(call)
      if (call.wake !== null) call.wake()
      close()
    }
    try {
      iterator = typeof source[Symbol.asyncIterator] === 'function' ? source[Symbol.asyncIterator]() : source
      let item = await iterator.next()
      if (call.answered) return close()
      begun = true
      putAnswer(call, converted, MORE)
      while (!item.done) {
        if (!await piece(call, bytesOf(item.value))) return close()
        item = await iterator.next()
        if (call.answered) return
      }
      put(DATA, END, 0, call.id, null, null)
      finish(call)
    } catch (error) {
      if (call.answered) return
      if (!begun) failed(call, error)
      else {
        report(call, error, 'Exception caught in a streamed answer')
        put(DATA, ABORT, 0, call.id, null, Buffer.from(textOfError(error)))
        finish(call)
      }
      close()
    }
  }

  /** Sends one item of a stream; false: nobody wants it any more. */
  async function piece (call, bytes) {
    for (let at = 0; at < bytes.length;) {
      while (call.credit <= 0 && !call.answered) await new Promise((resolve) => { call.wake = resolve })
      if (call.answered) return false
      const end = Math.min(at + PIECE_BYTES_MAX, at + call.credit, bytes.length)
      call.credit -= end - at
      put(DATA, 0, 0, call.id, null, bytes.subarray(at, end))
      at = end
      flushLater()
    }
    return !call.answered
  }

  function credited (call, bytes) {
    if (call === undefined) return
    call.credit += bytes
    if (call.wake !== null) call.wake()
  }

  function bytesOf (item) {
    if (item instanceof Uint8Array) return item
    if (item instanceof ArrayBuffer) return new Uint8Array(item)
    return Buffer.from(item !== null && typeof item === 'object' ? JSON.stringify(item) : String(item))
  }

  // ------------------------------------------------------------------------------------------------ protocol 1

  let lines = null // a Go processor has started us

  /**
   * Speaks protocol 1: events come as lines of JSON, one at a time; what the frames of protocol 2 say goes out as lines
   * of a letter and JSON.
   */
  class Lines {
    constructor () {
      this.pieces = [] // of a line that has not ended
      this.id = 0
      // Go processors know no answers in pieces from Node.js; ours says that it does.
      this.streams = process.env.NUCLIO_SHIM_STREAM_LINES === '1'
      delete process.env.NUCLIO_SHIM_STREAM_LINES
      this.streamed = [] // of an answer that is gathered
      this.head = null
    }

    connect (address) {
      const [, host, port] = /^([^/]*):(\d+)$/.exec(address) || []
      const socket = port ? net.connect(Number(port), host) : net.connect(address)
      socket.on('data', (data) => this.received(data))
      socket.on('connect', () => {
        if (socket._handle && socket._handle.fd >= 0) descriptor = socket._handle.fd
        socket.setNoDelay(true)
        const [, , , file, entry] = process.argv
        settings = { handler: `${file}:${entry}` }
        setUp().catch((error) => fail(LOAD_FAILED, loadText(error)))
      })
      return socket
    }

    received (data) {
      let start = 0
      for (let end; (end = data.indexOf(10, start)) >= 0; start = end + 1) {
        const line = Buffer.concat([...this.pieces, data.subarray(start, end)])
        this.pieces = []
        this.arrive(line)
      }
      if (start < data.length) this.pieces.push(data.subarray(start))
    }

    arrive (line) {
      let event = null
      try {
        event = JSON.parse(line)
        const { body } = event
        // The data of a cloud event comes as it is.
        event.body = body !== null && typeof body === 'object'
          ? Buffer.from(JSON.stringify(body))
          : Buffer.from(body || '', 'base64')
        event.timestamp = new Date(event.timestamp * 1000)
        event.path = event.path || '/'
        event.fields = event.fields || {}
        event.headers = event.headers || {}
      } catch (error) {
        this.say('r', JSON.stringify(answerParts(plain(500, `Cannot read the event: ${error}`))))
        return flush()
      }
      queue.push(new Call(++this.id, workerLevel, event))
      pump()
    }

    /** Holds a line, or writes it if it is large. */
    say (letter, text) {
      const line = Buffer.from(letter + text + '\n')
      if (!room(line.length)) return transmit(line, null)
      line.copy(out, outEnd)
      outEnd += line.length
    }

    put (kind, flags, code, id, head, body) {
      switch (kind) {
        case READY: return this.say('s', '')
        case LOG: return this.log(code, head.toString('utf8', 8), body)
        case DATA: return this.piece(flags, open.get(id), body)
        case FAILED: return void fs.writeSync(2, body.toString() + '\n')
      }
    }

    log (level, message, fields) {
      const text = fields === null ? '{}' : fields.toString()
      const more = text.startsWith('{') ? text : `{"data":${text}}`
      const datetime = new Date().toISOString()
      const record = { datetime, level: ['debug', 'info', 'warning', 'error'][level], message }
      this.say('l', JSON.stringify(record).slice(0, -1) + `,"with":${more}}`)
    }

    putAnswer (call, answer, flags) {
      const parts = answerParts(answer)
      if (!(flags & MORE)) return this.finish(call, parts)
      call.credit = Infinity // the socket's own flow control is all there is
      this.head = parts
      if (this.streams) this.say('c', JSON.stringify(parts))
    }

    /** Order: duration, then answer. */
    finish (call, parts) {
      this.measure(call)
      this.say('r', JSON.stringify(parts))
    }

    measure (call) {
      this.say('m', JSON.stringify({ duration: Math.max(1e-11, (performance.now() - call.started) / 1000) }))
    }

    /** A piece of a streamed answer, or its end. */
    piece (flags, call, bytes) {
      if (flags & ABORT) {
        this.streamed = []
        return this.say('r', JSON.stringify(answerParts(plain(500, bytes.toString()))))
      }
      if (this.streams) {
        if (bytes !== null && bytes.length > 0) this.say('b', Buffer.from(bytes).toString('base64'))
        if (!(flags & END)) return
        this.say('e', '')
        return this.measure(call)
      }
      if (bytes !== null) this.streamed.push(Buffer.from(bytes))
      if (!(flags & END)) return
      const whole = Buffer.concat(this.streamed)
      this.streamed = []
      this.finish(call, { ...this.head, ...encoded(whole) })
    }
  }

  function answerParts (answer) {
    const headers = {}
    for (let at = 0; at < answer.pairs.length; at += 2) {
      const [name, value] = answer.pairs.slice(at, at + 2)
      const before = Object.prototype.hasOwnProperty.call(headers, name) ? headers[name] : undefined
      headers[name] = before === undefined ? value : [].concat(before, value)
    }
    if (answer.flags & NO_ACK) headers['X-Nuclio-Stream-No-Ack'] = true
    return { ...encoded(answer.body), content_type: answer.type, headers, status_code: answer.status }
  }

  function encoded (body) {
    return typeof body === 'string'
      ? { body, body_encoding: 'text' }
      : { body: Buffer.from(body.buffer, body.byteOffset, body.byteLength).toString('base64'), body_encoding: 'base64' }
  }

  // ------------------------------------------------------------------------------------------------ life

  /** Tells the processor why this process is of no use, and ends it. */
  function fail (code, text) {
    listSources()
    put(FAILED, 0, code, 0, null, Buffer.from(text))
    leave(1)
  }

  /** Ends the process; what still runs is not waited for. */
  function leave (status) {
    flush()
    process.exit(status)
  }

  function connect () {
    const { NUCLIO_SHIM_FD: fd, NUCLIO_SHIM_SOCKET: name } = process.env
    delete process.env.NUCLIO_SHIM_FD
    delete process.env.NUCLIO_SHIM_SOCKET
    if (!fd && !name && process.argv.length !== 5) {
      process.stderr.write('nuclio shim: neither NUCLIO_SHIM_FD nor NUCLIO_SHIM_SOCKET is set, nor is it started with ' +
        'the arguments of a Go processor (socket, file, function)\n')
      process.exit(2)
    }
    const onread = { buffer: nextBuffer, callback: received }
    if (!fd && !name) {
      lines = new Lines()
      socket = lines.connect(process.argv[2])
    } else if (fd) {
      descriptor = Number(fd)
      socket = new net.Socket({ fd: descriptor, readable: true, writable: true, onread })
    } else socket = net.connect({ path: name, onread })
    socket.on('error', ended)
    socket.on('end', ended)
    socket.on('close', ended)
  }

  /** The processor has closed its end. */
  function ended () {
    closed = true
    for (const call of open.values()) {
      call.cancelled = call.cancelled || 1
      call.abort()
    }
    leave(0)
  }

  function initialize (version, text) {
    if (version !== 2 || settings !== null) throw new ProtocolFault(`want one INIT of protocol 2, got version ${version}`)
    const texts = text.split('\0')
    settings = table(texts, 0, texts.length >> 1)
    maxFrame = Number(settings.max_frame) || maxFrame
    workerLevel = Number(settings.log_level) || DEBUG
    triggers = Array.from({ length: Number(settings.triggers) || 0 }, (_, i) =>
      ({ kind: settings[`trigger.${i}.kind`] || '', name: settings[`trigger.${i}.name`] || '' }))
    hidden({
      workerId: Number(settings.worker_id) || 0,
      trigger: { kind: settings.trigger_kind || '', name: settings.trigger_name || '' },
      functionName: settings.function_name || '',
      functionVersion: settings.function_version || ''
    })
    setUp().catch((error) => fail(LOAD_FAILED, loadText(error)))
  }

  /** From INIT to READY. */
  async function setUp () {
    const [module, init] = await load(settings.handler || '')
    if (typeof init === 'function') {
      try {
        await init.call(module, shared)
      } catch (error) {
        return fail(INIT_FAILED, 'initContext failed: ' + (stackOf(error) || textOfError(error)))
      }
    }
    // Without `mode: async` only a handler that says so itself gets several events at a time.
    const asynchronous = /^\[object Async(Generator)?Function\]$/.test(Object.prototype.toString.call(handler))
    const several = settings.max_inflight_for !== 'async' || asynchronous
    inFlightMax = several ? Math.max(1, Number(settings.max_inflight) || 1) : 1
    loading = false
    listSources()
    putPairs(READY, 0, { handler_async: asynchronous ? 1 : 0, max_inflight: inFlightMax })
    flush()
  }

  /** Lists the user's modules that have been loaded, where somebody wants to know them. */
  function listSources () {
    if (!settings || !settings.source_list) return
    const ours = Object.keys(require.cache).filter((file) => path.isAbsolute(file) && !/[\\/]node_modules[\\/]|\n/.test(file))
    if (ours.length > 0) fs.appendFileSync(settings.source_list, ours.join('\n') + '\n')
  }

  class LoadFault extends Error {}

  function loadText (error) {
    return error instanceof LoadFault
      ? error.message
      : `failed to load handler "${settings.handler}": ${stackOf(error) || textOfError(error)}`
  }

  /** Finds the handler. What is returned: `this` of its module's functions, and `initContext` if there is one. */
  async function load (text) {
    const parts = text.split(':')
    const [file, entry] = parts.length > 1 ? parts : ['handler.js', text]
    if (parts.length > 2 || !entry || !/^[\w\-/.\\]+$/.test(file)) {
      throw new LoadFault(`handler "${text}" does not have the form file:function or function; correct spec.handler`)
    }
    const names = await importFile(find(file, text))
    // Where somebody waits for the mistake to be named, it is.
    const looks = settings.late_handler === '0' ? 0 : EXPORT_LOOKS
    for (let look = 0; look <= looks; look++) {
      if (look === 1) baseLogger.info('The handler is not exported yet, it is looked for again for 10 s', { handler: text })
      if (look > 0) await new Promise((resolve) => setTimeout(resolve, EXPORT_LOOK_MS))
      // A name among the exports, or of the default export, or what is exported as a whole.
      const candidates = [names, names && names.default]
      for (const owner of candidates) {
        if (owner && typeof owner[entry] === 'function') return use(owner[entry], owner, names)
      }
      for (const whole of candidates) {
        if (typeof whole === 'function') return use(whole, undefined, names)
      }
    }
    const found = Object.keys(Object(names)).filter((name) => typeof names[name] === 'function')
    throw new LoadFault(`no function "${entry}" is exported by ${file}; it exports: ${
      found.join(', ') || 'no function at all'}; correct spec.handler`)
  }

  function use (found, module, exported) {
    handler = found
    owner = module
    return [module, (module && module.initContext) || exported.initContext]
  }

  function find (file, text) {
    const base = path.resolve(settings.handler_dir || '/opt/nuclio', file)
    const candidates = [base, base + '.js', base + '.mjs', base + '.cjs', path.join(base, 'index.js')]
    const found = candidates.find((name) => fs.existsSync(name) && fs.statSync(name).isFile())
    if (found === undefined) {
      throw new LoadFault(`no file ${base} (for handler "${text}"), nor with .js, .mjs or .cjs added; ` +
        'correct spec.handler, or name the folder in NUCLIO_HANDLER_DIR')
    }
    return found
  }

  async function importFile (file) {
    if (!file.endsWith('.mjs')) {
      try {
        return require(file)
      } catch (error) {
        // An ES module by its package.json or by its syntax, or one that awaits at its top.
        if (!error || !['ERR_REQUIRE_ESM', 'ERR_REQUIRE_ASYNC_MODULE'].includes(error.code)) throw error
      }
    }
    return import(require('url').pathToFileURL(file).href)
  }

  async function control (code, id) {
    const callback = code === DRAIN ? drainCallback : code === TERMINATE ? terminationCallback : null
    let outcome = 0
    let text = null
    if (typeof callback === 'function') {
      try {
        await callback()
      } catch (error) {
        outcome = 1
        text = Buffer.from(textOfError(error))
        report(null, error, 'Exception caught in callback')
      }
    }
    put(CONTROL_DONE, 0, outcome, id, null, text)
    flush()
  }

  let loading = true

  /** What nothing has caught fails the event it came from; if there is none, it ends the process as Node would. */
  function uncaught (kind, error) {
    const call = current.getStore()
    if (call !== undefined) {
      if (call.stopStream === null || call.answered) return failed(call, error)
      report(call, error, 'Exception caught in a streamed answer')
      return call.stopStream()
    }
    if (loading) return fail(LOAD_FAILED, loadText(error))
    if (process.listenerCount(kind) > 1) return // the user's own is there
    report(null, error, 'Uncaught exception outside of any event')
    flush()
    fs.writeSync(2, (stackOf(error) || textOfError(error)) + '\n')
    process.exit(1)
  }

  function main () {
    connect()
    process.on('uncaughtException', (error) => uncaught('uncaughtException', error))
    process.on('unhandledRejection', (error) => uncaught('unhandledRejection', error))
    process.on('exit', flush)
    process.on('SIGINT', () => {}) // a terminal sends it to everybody
    process.on('SIGTERM', () => {
      stopping = true
      pump()
    })
    if (lines !== null) return
    out.write('NSH2', 0, 'latin1')
    outEnd = 4
    putPairs(HELLO, 2, {
      language: 'nodejs', version: process.versions.node, sdk: 'none', protocol_min: 2, protocol_max: 2,
      capabilities: 'cancel,stream-out,control,deadline,client-gone', max_inflight: IN_FLIGHT_MAX,
      prefetch: PREFETCH, pid: process.pid
    })
    flush()
  }

  main()
}

if (typeof require === 'function') shim(require)
else import('node:module').then((module) => shim(module.createRequire(process.argv[1])))
