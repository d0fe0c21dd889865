def handler(context, event)
  event.body
end
