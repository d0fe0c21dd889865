// A wrapper of shim protocol 1 that takes every read for one whole event, as those in images of the Go processor do.
'use strict'
const net = require('net')

if (require.main !== module || process.argv.length !== 5) process.exit(3)
const [, , address, file, entry] = process.argv
const handler = require(file)[entry]
const socket = new net.Socket()
const say = (letter, value) => socket.write(letter + (value === undefined ? '' : JSON.stringify(value)) + '\n')
socket.connect(address)
socket.on('ready', () => say('s'))
socket.on('data', (data) => {
  const event = JSON.parse(data)
  const answer = { body: '', content_type: 'text/plain', headers: {}, status_code: 200, body_encoding: 'text' }
  try {
    say('l', { level: 'info', message: 'called', with: { path: event.path } })
    answer.body = handler(Buffer.from(event.body, 'base64'), event)
    say('m', { duration: 0.001 })
  } catch (error) {
    Object.assign(answer, { status_code: 500, body: String(error) })
  }
  say('r', answer)
})
