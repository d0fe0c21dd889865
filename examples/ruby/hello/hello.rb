def handler(context, event)
  "Hello, #{event.fields['name'] || 'world'}"
end
