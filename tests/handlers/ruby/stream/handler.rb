def pieces(context, event)
  Enumerator.new do |out|
    begin
      (0..Float::INFINITY).each do |number|
        out << (event.path == '/flood' ? 'x' * 100_000 : "#{number}\n")
        break if event.path == '/five' && number == 4

        if event.path == '/broken'
          raise 'broken on purpose' if File.exist?(event.body)

          sleep 0.005
        end
      end
    ensure
      context.logger.warn('stream closed')
    end
  end
end

def handler(context, event)
  Response.new(pieces(context, event), headers: { 'X-Kind' => 'pieces' }, content_type: 'text/csv', status_code: 201)
end
