exports.handler = async (context, event) => `Hello, ${event.fields.name || 'world'}`
