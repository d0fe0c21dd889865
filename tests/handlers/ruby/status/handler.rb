def handler(context, event)
  [event.path[1..-1].to_i, 'as asked']
end
