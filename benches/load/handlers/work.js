// The harness' questions to Node.js; the path says what (see ../workload.rs).
const { setTimeout } = require('timers/promises')

function burn (micros) {
  const end = process.hrtime.bigint() + BigInt(micros * 1000)
  while (process.hrtime.bigint() < end);
}

function detect (body) {
  const data = Buffer.isBuffer(body) || typeof body === 'string' ? JSON.parse(body) : body
  Buffer.from(data.image, 'base64')
  burn(20000)
  return '[]'
}

async function fanout () {
  for (let number = 0; number < 4; number++) await setTimeout(5)
}

function * pieces () {
  for (let number = 0; number < 10; number++) yield Buffer.alloc(1024, 'x')
}

exports.burn = burn
exports.detect = detect
exports.fanout = fanout
exports.pieces = pieces

exports.empty = (context, event) => 'hello'

exports.handler = async (context, event) => {
  switch (event.path) {
    case '/echo': return event.body
    case '/stream': return pieces()
    case '/detect': return detect(event.body)
    case '/cpu': burn(100); break
    case '/sleep': await setTimeout(10); break
    case '/fanout': await fanout(); break
    case '/log':
      context.logger.info('first')
      context.logger.infoWith('second', { number: 7 })
      context.logger.info('third')
  }
  return 'hello'
}
