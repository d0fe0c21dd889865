def handler(context, event)
  case event.path
  when '/throw' then raise 'thrown on purpose'
  when '/status' then Response.new('x', status_code: 'no number')
  when '/header' then Response.new('x', headers: { 'bad name' => '1', 'X-Split' => "a\r\nb: c" })
  # Strings are sent as their bytes: what is no text, the handler has to mend.
  when '/text' then "\xff!".scrub
  else 'well'
  end
end
