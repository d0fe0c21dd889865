# `init_context` runs once per worker, before the first event; what it leaves in `user_data` stays there.
def init_context(context)
  context.user_data = ENV['GREETING'] || 'Hello'
end

def handler(context, event)
  "#{context.user_data}, #{event.body.empty? ? 'world' : event.body}"
end
