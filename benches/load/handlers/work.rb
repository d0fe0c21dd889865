# The harness' questions to Ruby; the path says what (see ../workload.rs).
require 'json'

def burn(seconds)
  ending = Process.clock_gettime(Process::CLOCK_THREAD_CPUTIME_ID) + seconds
  nil while Process.clock_gettime(Process::CLOCK_THREAD_CPUTIME_ID) < ending
end

def detect(body)
  data = body.is_a?(Hash) ? body : JSON.parse(body)
  data['image'].unpack1('m0')
  burn(0.02)
  '[]'
end

def empty(context, event)
  'hello'
end

def handler(context, event)
  case event.path
  when '/echo' then return event.body
  when '/stream' then return Enumerator.new { |out| 10.times { out << 'x' * 1024 } }
  when '/detect' then return detect(event.body)
  when '/cpu' then burn(0.0001)
  when '/sleep' then sleep 0.01
  when '/log'
    context.logger.info('first')
    context.logger.info('second', number: 7)
    context.logger.info('third')
  end
  'hello'
end
