def handler(context, event)
  'Hello from ruby'
end
