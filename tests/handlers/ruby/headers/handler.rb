def handler(context, event)
  headers = { 'X-Seen' => event.headers['X-Ask'], 'X-Number' => 7, 'X-Twice' => %w[a b] }
  Response.new('<p>', headers: headers, content_type: 'text/html')
end
