// The harness' questions to Node's own http server: node server.js PORT
const http = require('http')
const { setTimeout } = require('timers/promises')
const { burn, detect, fanout, pieces } = require('../work.js')

const headers = { 'Content-Type': 'text/plain; charset=utf-8' }

function hello (response) {
  response.writeHead(200, { ...headers, 'Content-Length': 5 })
  response.end('hello')
}

function whole (request) {
  return new Promise((resolve, reject) => {
    const pieces = []
    request.on('data', (piece) => pieces.push(piece))
    request.on('end', () => resolve(Buffer.concat(pieces)))
    request.on('error', reject)
  })
}

async function work (request, response) {
  switch (request.url) {
    case '/echo':
    case '/detect': {
      let body = await whole(request)
      if (request.url === '/detect') body = Buffer.from(detect(body))
      response.writeHead(200, { ...headers, 'Content-Length': body.length })
      return response.end(body)
    }
    case '/stream':
      response.writeHead(200, headers)
      for (const piece of pieces()) response.write(piece)
      return response.end()
    case '/cpu': burn(100); break
    case '/sleep': await setTimeout(10); break
    case '/fanout': await fanout(); break
  }
  hello(response)
}

const server = http.createServer((request, response) => {
  if (request.url === '/') hello(response)
  else work(request, response)
})
server.keepAliveTimeout = 0
server.listen(Number(process.argv[2]), '127.0.0.1')
