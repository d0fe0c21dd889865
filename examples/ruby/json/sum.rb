# `[1, 2]` is answered with `{"sum": 3}`. Bodies are binary Strings, whatever their type. An Array of two is status and body; a Hash is answered as JSON.
def handler(context, event)
  { sum: JSON.parse(event.body).sum }
rescue JSON::ParserError => error
  [400, { error: error.message }]
end
