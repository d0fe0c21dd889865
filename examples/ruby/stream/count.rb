# An Enumerator is streamed: each item reaches the client when it is made. When the client leaves, the block ends at its
# next item, and what it ensures is done.
def handler(context, event)
  Enumerator.new do |out|
    (1..5).each do |number|
      out << "#{number}\n"
      sleep 0.2
    end
  ensure
    context.logger.info('done')
  end
end
