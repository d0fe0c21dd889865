def handler(context, event)
  exit(7) if event.path == '/exit'
  Process.kill('KILL', Process.pid) && sleep if event.path == '/signal'
  'alive'
end
