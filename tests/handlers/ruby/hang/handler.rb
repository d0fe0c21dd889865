def handler(context, event)
  loop {} if event.path == '/hang'
  'back'
end
