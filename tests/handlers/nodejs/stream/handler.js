const fs = require('fs')
const { setTimeout } = require('timers/promises')

async function * pieces (context, { path, body }) {
  try {
    for (let number = 0; ; number++) {
      yield path === '/flood' ? Buffer.alloc(100000, 'x') : `${number}\n`
      if (path === '/five' && number === 4) return
      if (path === '/broken') {
        if (fs.existsSync(String(body))) throw new Error('broken on purpose')
        await setTimeout(5)
      }
    }
  } finally {
    context.logger.warn('stream closed')
  }
}

exports.handler = (context, event) => new context.Response(pieces(context, event), { 'X-Kind': 'pieces' }, 'text/csv', 201)
