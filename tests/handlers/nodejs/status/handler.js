exports.handler = (context, event) => context.callback([Number(event.path.slice(1)), 'as asked'])
