sleep 0.7

def init_context(context)
  sleep 0.3
  context.user_data = 'ready'
end

def handler(context, event)
  context.user_data
end
