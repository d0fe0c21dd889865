// Runs the Node.js wrapper of the Go processor, which takes every read for one whole event: a line longer than a read
// would end it. Here its socket's data comes line by line. Everything else of the wrapper stays as it is.
//
// Given to `node -e`; the wrapper and its arguments follow. As old as the oldest Node.js that images of it have: 10.
'use strict'

function run (Module) {
  const prototype = Module._load('net', null, false).Socket.prototype
  const connect = prototype.connect

  /** The first connection to the processor is the wrapper's own. */
  prototype.connect = function (to) {
    const options = Array.isArray(to) ? to[0] : to
    if (options === process.argv[2] || (options && options.path === process.argv[2])) {
      prototype.connect = connect
      byLines(this)
    }
    return connect.apply(this, arguments)
  }

  function byLines (socket) {
    const emit = socket.emit
    let pieces = [] // of a line that has not ended
    socket.emit = function (name, data) {
      if (name !== 'data') return emit.apply(socket, arguments)
      let start = 0
      for (let end; (end = data.indexOf(10, start)) >= 0; start = end + 1) {
        const line = pieces.concat(data.slice(start, end + 1))
        pieces = []
        emit.call(socket, 'data', Buffer.concat(line))
      }
      if (start < data.length) pieces.push(data.slice(start))
      return true
    }
  }

  process.argv[1] = Module._load('path', null, false).resolve(process.argv[1])
  Module.runMain(process.argv[1])
}

if (typeof require === 'function') run(require('module'))
else import('module').then(function (module) { run(module.default) })
