// The answer may come from anywhere: `context.callback` is of this event, whenever it is called. Such a handler gets one
// event at a time, unless the trigger's mode is async.
const fs = require('fs')

exports.handler = (context, event) => {
  fs.stat(__filename, (error, found) => {
    if (error) return context.callback([500, String(error)])
    context.callback(new context.Response({ bytes: found.size }, { 'X-File': 'callback.js' }))
  })
}
