exports.handler = (context, event) => context.callback(event.method === 'PUT' ? String(event.body.length) : event.body)
