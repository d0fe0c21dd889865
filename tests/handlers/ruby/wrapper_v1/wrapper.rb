# A wrapper of shim protocol 1: its start notice has a sign more, it logs every answer, and says durations afterwards.
require 'json'
require 'socket'

arguments = Hash[*ARGV]
file, function = arguments['--handler'].split(':')
require_relative file
socket = UNIXSocket.new(arguments['--socket-path'])
sleep 0.2
socket.puts 's#'
while (line = socket.gets)
  event = JSON.parse(line)
  answer = { body: send(function, event['body'].unpack1('m'), event), body_encoding: 'text', status_code: 200 }
  socket.puts "l#{JSON.generate(level: 'debug', message: 'Response is', with: answer)}"
  socket.puts "r#{JSON.generate(answer)}"
  socket.puts 'm{"duration": 12.5}'
end
