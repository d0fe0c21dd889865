async function * pieces (context, path) {
  try {
    for (let number = 0; ; number++) {
      yield path === '/flood' ? Buffer.alloc(100000, 'x') : `${number}\n`
      if (path === '/five' && number === 4) return
      if (path === '/broken' && number === 2) throw new Error('broken on purpose')
    }
  } finally {
    context.logger.warn('stream closed')
  }
}

exports.handler = (context, event) => new context.Response(pieces(context, event.path), { 'X-Kind': 'pieces' }, 'text/csv', 201)
