exports.handler = async (context, event) => 'Hello from nodejs'
