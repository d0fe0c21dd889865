exports.handler = (context, event) => context.callback(event.body)
