// `initContext` runs once per worker, before the first event; what it puts on the context stays there.
exports.initContext = async (context) => {
  context.userData.greeting = process.env.GREETING || 'Hello'
}

exports.handler = async (context, event) => `${context.userData.greeting}, ${event.body.length ? event.body : 'world'}`
