def handler(context, event)
  event.method == 'PUT' ? event.body.bytesize.to_s : event.body
end
