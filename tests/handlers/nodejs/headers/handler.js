exports.handler = (context, event) => {
  const headers = { 'X-Seen': event.headers['X-Ask'], 'X-Number': 7, 'X-Twice': ['a', 'b'] }
  context.callback(new context.Response('<p>', headers, 'text/html'))
}
