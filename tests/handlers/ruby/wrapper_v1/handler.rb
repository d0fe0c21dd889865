def run(body, event)
  "#{event['path']} #{body.bytesize}"
end
