exports.handler = (context, event) => {
  if (event.path === '/throw') throw new Error('thrown on purpose')
  if (event.path === '/status') return context.callback(new context.Response('x', {}, 'text/plain', 'no number'))
  if (event.path === '/header') return context.callback(new context.Response('x', { 'bad name': '1', 'X-Split': 'a\r\nb: c' }))
  if (event.path === '/text') return context.callback('\ud800!')
  context.callback('well')
}
