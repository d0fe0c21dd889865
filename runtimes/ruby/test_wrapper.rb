# frozen_string_literal: true

# Tests of the Ruby shim: a scripted processor talks to a real child process over a real socket.
#
#     ruby test_wrapper.rb                                    # in this folder
#     SHIM_TEST_RUBY=/path/to/ruby ruby test_wrapper.rb
#
# SHIM_TEST_RUBY is the interpreter the shim runs under (default: the one that runs the tests).

require 'json'
require 'minitest/autorun'
require 'rbconfig'
require 'socket'
require 'timeout'
require 'tmpdir'

RUBY = ENV['SHIM_TEST_RUBY'] || RbConfig.ruby
WRAPPER = File.expand_path('wrapper.rb', __dir__)

INIT = 0x01
EVENT = 0x02
CREDIT = 0x04
CANCEL = 0x05
CONTROL = 0x06
PING = 0x08
HELLO = 0x81
READY = 0x82
ANSWER = 0x83
DATA = 0x84
LOG = 0x86
CONTROL_DONE = 0x87
PONG = 0x8b
FAILED = 0x8f
MORE = 1
LAST = 1
ABORT = 2
NO_ACK = 4
CANCELLED = 0x10

ECHO = "def main(context, event)\n  event.body\nend\n"

Frame = Struct.new(:kind, :flags, :code, :id, :head, :body) do
  def content_type
    texts.first
  end

  def headers
    texts.drop(1).each_slice(2).to_a
  end

  def texts
    head.byteslice(8, head.bytesize - 8).force_encoding('UTF-8').split("\0", -1)
  end
end

def frame(kind, flags: 0, code: 0, id: 0, head: '', body: '')
  [head.bytesize + body.bytesize, kind, flags, code, id, head.bytesize].pack('VCCvVV') + head.b + body.b
end

def event(id, path: '/', body: 'hi', headers: {}, fields: {}, flags: 0, code: 0, table: nil)
  fixed = [1_735_689_600_123_000, -5, -1, 0, 0, headers.size, fields.size].pack('q<q<l<l<Vvv')
  table ||= ["e#{id}", 'POST', path, '', '', 'text/plain', '', '', '', '', '', '', *headers.flatten, *fields.flatten].join("\0")
  frame(EVENT, flags: flags, code: code, id: id, head: fixed + table.b, body: body)
end

# The processor's side of one child process.
class Peer
  attr_reader :folder, :hello, :pid, :socket

  def initialize(source, settings: {}, handler: 'main:main', wait: true)
    @folder = Dir.mktmpdir
    File.write(File.join(@folder, 'main.rb'), source)
    @socket, theirs = UNIXSocket.pair
    @errors = File.join(@folder, 'stderr')
    @pid = spawn({ 'NUCLIO_SHIM_FD' => '3' }, RUBY, WRAPPER, 3 => theirs, :in => File::NULL, :out => File::NULL, :err => @errors)
    theirs.close
    raise 'no NSH2' unless read(4) == 'NSH2'

    @hello = take
    pairs = { handler: handler, handler_dir: @folder, log_level: 0, max_inflight: 1, credit: 100_000, triggers: 1,
              'trigger.0.kind' => 'http', 'trigger.0.name' => 'web', worker_id: 7 }.merge(settings)
    send_bytes(frame(INIT, code: 2, head: pairs.to_a.flatten.join("\0")))
    raise "not ready: #{last_words}" if wait && take.kind != READY
  end

  def send_bytes(bytes)
    @socket.write(bytes)
  end

  def read(bytes)
    Timeout.timeout(20) { @socket.read(bytes) }
  end

  def take
    head = read(16)
    return nil if head.nil?

    size, kind, flags, code, id, in_head = head.unpack('VCCvVV')
    payload = size.zero? ? ''.b : read(size)
    Frame.new(kind, flags, code, id, payload.byteslice(0, in_head), payload.byteslice(in_head, size - in_head))
  end

  # The next frame that is no record.
  def answer
    loop do
      frame = take
      return frame if frame.nil? || frame.kind != LOG
    end
  end

  def ask(id, **what)
    send_bytes(event(id, **what))
    answer
  end

  def finish
    @socket.close_write
    status
  end

  def status
    Timeout.timeout(20) { Process.wait2(@pid).last }
  end

  def last_words
    File.read(@errors)
  end
end

class WrapperTest < Minitest::Test
  def peer(source = ECHO, **options)
    @peers ||= []
    @peers << Peer.new(source, **options)
    @peers.last
  end

  def teardown
    (@peers || []).each do |peer|
      begin
        Process.kill('KILL', peer.pid)
        Process.wait(peer.pid)
      rescue SystemCallError
        nil
      end
      FileUtils.remove_entry(peer.folder)
    end
  end

  def pairs(frame)
    Hash[frame.head.split("\0", -1).each_slice(2).to_a]
  end

  def test_it_introduces_itself_and_ends_with_the_connection
    shim = peer
    hello = pairs(shim.hello)
    assert_equal [HELLO, 'ruby', '2', '2'], [shim.hello.kind, hello['language'], hello['protocol_min'], hello['protocol_max']]
    assert_equal shim.pid.to_s, hello['pid']
    assert_equal 'hi', shim.ask(1).body
    assert_equal 0, shim.finish.exitstatus
  end

  def test_frames_cut_at_every_byte_are_put_together
    shim = peer
    bytes = event(1, body: 'cut')
    bytes.each_byte { |byte| shim.send_bytes(byte.chr) }
    assert_equal 'cut', shim.answer.body
    (1...bytes.bytesize).step(7) do |at|
      shim.send_bytes(bytes.byteslice(0, at))
      sleep 0.002
      shim.send_bytes(bytes.byteslice(at, bytes.bytesize))
      assert_equal 'cut', shim.answer.body, "cut at #{at}"
    end
  end

  def test_ten_frames_in_one_write_are_answered_in_order
    shim = peer
    shim.send_bytes((1..10).map { |id| event(id, body: id.to_s) }.join)
    assert_equal((1..10).map { |id| [id, id.to_s] }, Array.new(10) { shim.answer }.map { |answer| [answer.id, answer.body] })
  end

  def test_unknown_frames_are_skipped_if_they_may_be
    shim = peer
    shim.send_bytes(frame(0x3f, flags: 0x80, head: 'what', body: 'ever'))
    assert_equal 'hi', shim.ask(1).body
    shim.send_bytes(frame(0x3f))
    failed = shim.answer
    assert_equal [FAILED, 3], [failed.kind, failed.code]
    assert_includes failed.body, '0x3f'
    assert_equal 1, shim.status.exitstatus
  end

  def test_an_impossible_header_is_named
    shim = peer
    shim.send_bytes([4, EVENT, 0, 0, 1, 9].pack('VCCvVV'))
    failed = shim.answer
    assert_equal [FAILED, 3], [failed.kind, failed.code]
    assert_includes failed.body, '0400000002'
  end

  def test_pings_are_answered
    shim = peer
    shim.send_bytes(frame(PING, id: 5, code: 6, body: 'echo'))
    pong = shim.answer
    assert_equal [PONG, 5, 6, 'echo'], [pong.kind, pong.id, pong.code, pong.body]
  end

  def test_the_event_has_everything
    shim = peer(<<~HANDLER)
      def main(context, event)
        { id: event.id, method: event.method, path: event.path, type: event.content_type, headers: event.headers,
          fields: event.fields, offset: event.offset, shard: event.shard_id, time: event.timestamp.iso8601(3),
          trigger: [event.trigger.kind, event.trigger.name], worker: context.worker_id, size: event.size,
          encodings: [event.body.encoding, event.id.encoding].map(&:to_s), frozen: event.body.frozen? }
      end
    HANDLER
    answer = shim.ask(3, path: '/grüß', headers: { 'X-A' => 'b' }, fields: { 'x' => '1' })
    expected = { 'id' => 'e3', 'method' => 'POST', 'path' => '/grüß', 'type' => 'text/plain', 'headers' => { 'X-A' => 'b' },
                 'fields' => { 'x' => '1' }, 'offset' => -5, 'shard' => -1, 'time' => '2025-01-01T00:00:00.123+00:00',
                 'trigger' => %w[http web], 'worker' => 7, 'size' => 2, 'encodings' => %w[ASCII-8BIT UTF-8], 'frozen' => false }
    assert_equal expected, JSON.parse(answer.body)
    assert_equal 'application/json', answer.content_type
  end

  def test_event_and_response_are_used_like_structs
    shim = peer(<<~HANDLER)
      def main(context, event)
        answer = Response.new(event[:body], status_code: 201)
        answer[:body] = [event.to_h.keys.size, event['path'], answer.to_h.keys.size].join(' ')
        answer
      end
    HANDLER
    answer = shim.ask(1, path: '/p')
    assert_equal [201, '11 /p 5'], [answer.code, answer.body]
  end

  def test_texts_that_are_no_utf8_are_mended_and_typed_ones_read
    shim = peer("def main(context, event)\n  [event.path, event.headers]\nend\n")
    table = ['e1', 'POST', "/\xff", *([''] * 9), ''].join("\0")
    answer = shim.ask(1, table: table, flags: 0x40)
    assert_equal 500, answer.code, 'a path is no status'
    shim = peer("def main(context, event)\n  { path: event.path, headers: event.headers }\nend\n")
    answer = shim.ask(1, table: table, flags: 0x40)
    assert_equal "/\u{fffd}", JSON.parse(answer.body)['path']
    item = ->(type, bytes) { [type, bytes.bytesize].pack('aV') + bytes }
    list = item.call('l', item.call('s', 'a') + item.call('i', [-2].pack('q<')))
    items = ['e1', 'POST', "/nul\0", *([''] * 9)].map { |text| item.call('s', text) }
    items << item.call('s', 'X-L') << list << item.call('s', 'X-T') << item.call('t', "\1") << item.call('s', 'X-N') << item.call('n', '')
    fixed = [0, 0, -1, 0, 0, 3, 0].pack('q<q<l<l<Vvv')
    shim.send_bytes(frame(EVENT, flags: 0x20, id: 2, head: fixed + items.map(&:b).join))
    seen = JSON.parse(shim.answer.body)
    assert_equal({ 'path' => "/nul\0", 'headers' => { 'X-L' => ['a', -2], 'X-T' => true, 'X-N' => nil } }, seen)
  end

  def test_a_large_body_goes_both_ways
    shim = peer
    body = Random.new(1).bytes(3_000_000)
    writer = Thread.new { shim.send_bytes(event(1, body: body) + event(2, body: 'small')) }
    assert_equal body, shim.answer.body
    writer.join
    assert_equal 'small', shim.answer.body
  end

  def test_records_come_before_the_answer_with_its_id_and_levels_are_kept
    shim = peer(<<~HANDLER)
      def main(context, event)
        context.logger.debug('dropped')
        context.logger.info('first', number: 1, odd: Float::NAN, bytes: "\\xff".b, long: 'x' * 300_000)
        context.logger.warn("bad \\xff text")
        'done'
      end
    HANDLER
    shim.send_bytes(event(4, code: 2 << 12))
    first, second, answer = Array.new(3) { shim.take }
    assert_equal [LOG, 4, 1, 'first'], [first.kind, first.id, first.code, first.head.byteslice(8..-1)]
    fields = JSON.parse(first.body)
    assert_equal 1, fields['number']
    assert_equal %w[NaN], [fields['odd']]
    assert_operator fields['long'].length, :<, 5000
    assert_equal [LOG, 2, "bad \u{fffd} text"], [second.kind, second.code, second.head.byteslice(8..-1).force_encoding('UTF-8')]
    assert_equal 'done', answer.body
  end

  def test_errors_have_their_trace_without_our_frames
    shim = peer("def helper\n  raise ArgumentError, 'wrong'\nend\n\ndef main(context, event)\n  helper\nend\n")
    shim.send_bytes(event(1))
    record = shim.take
    assert_equal [LOG, 3], [record.kind, record.code]
    answer = shim.take
    assert_equal 500, answer.code
    assert_match(/main\.rb:2:in .*helper.*: wrong \(ArgumentError\)\n\tfrom .*main\.rb:6/, answer.body)
    refute_includes answer.body, 'wrapper.rb'
    assert_includes JSON.parse(record.body)['stack'], 'main.rb:2'
  end

  def test_what_is_no_standard_error_fails_its_event_only
    shim = peer(<<~HANDLER)
      def main(context, event)
        case event.path
        when '/stack' then main(context, event)
        when '/script' then raise NotImplementedError, 'not yet'
        when '/throw' then throw :nobody
        else 'fine'
        end
      end
    HANDLER
    %w[/stack /script /throw].each { |path| assert_equal 500, shim.ask(1, path: path).code, path }
    assert_equal 'fine', shim.ask(2).body
  end

  def test_an_error_whose_message_fails_is_an_error_like_others
    shim = peer(<<~HANDLER)
      class Odd < StandardError
        def message
          raise 'no message'
        end
      end

      def main(context, event)
        raise Odd if event.path == '/odd'

        'fine'
      end
    HANDLER
    failed = shim.ask(1, path: '/odd')
    assert_equal 500, failed.code
    assert_match(/main\.rb:8.*its message raised RuntimeError.*Odd/, failed.body)
    assert_equal 'fine', shim.ask(2).body
  end

  # It has the socket's descriptor, so that it could answer, and take the events of the worker.
  def test_a_process_that_the_handler_forks_has_no_part_in_the_connection
    shim = peer(<<~'HANDLER')
      def main(context, event)
        pid = fork
        if pid
          Process.wait(pid)
          return "parent #{$?.exitstatus}"
        end
        context.logger.error('of the child')
        raise 'in the child' if event.path == '/raise'
        return [1, 2].each if event.path == '/stream'

        'child'
      end
    HANDLER
    %w[/ /raise /stream].zip([0, 1, 0]).each_with_index do |(path, code), at|
      shim.send_bytes(event(2 * at + 1, path: path) + event(2 * at + 2))
      answers = [shim.take, shim.take]
      assert_equal([[ANSWER, 2 * at + 1], [ANSWER, 2 * at + 2]], answers.map { |frame| [frame.kind, frame.id] })
      assert_equal ["parent #{code}", 'parent 0'], answers.map(&:body)
    end
    assert_equal 6, shim.last_words.scan('of the child').size
    assert_includes shim.last_words, 'in the child'
    assert_nil shim.finish.termsig
  end

  def test_a_process_that_the_handler_forks_dies_of_signals_unless_the_handler_has_traps
    shim = peer(<<~'HANDLER')
      def main(context, event)
        trap('INT') { exit!(5) } if event.path == '/own'
        pid = fork { sleep }
        sleep 0.1
        Process.kill(event.path == '/own' ? 'INT' : 'TERM', pid)
        Process.wait(pid)
        ($?.termsig || $?.exitstatus).to_s
      end
    HANDLER
    assert_equal '15', shim.ask(1).body
    assert_equal '5', shim.ask(2, path: '/own').body
  end

  def test_exit_in_a_handler_ends_the_process_after_its_records
    shim = peer("def main(context, event)\n  context.logger.info('last words')\n  exit 7\nend\n")
    shim.send_bytes(event(1))
    assert_equal [LOG, 1], [shim.take].map { |record| [record.kind, record.code] }.first
    assert_nil shim.take
    assert_equal 7, shim.status.exitstatus
  end

  def test_headers_are_printed_and_the_acknowledgement_withheld
    shim = peer(<<~HANDLER)
      def main(context, event)
        headers = { a: :b, 'n' => 7, 'l' => [1, true], 'none' => nil, 'bad' => "a\\0b", 'X-Nuclio-Stream-No-Ack' => true }
        Response.new(ByteBuffer.new([1, 255]), headers: headers, content_type: 'image/x', status_code: 404)
      end
    HANDLER
    answer = shim.ask(1)
    assert_equal [404, NO_ACK, 'image/x', [1, 255]], [answer.code, answer.flags, answer.content_type, answer.body.bytes]
    assert_equal [%w[a b], %w[n 7], %w[l 1], %w[l true]], answer.headers
  end

  def test_a_base64_body_is_decoded
    shim = peer("def main(context, event)\n  Response.new('AP8=', body_encoding: 'base64')\nend\n")
    assert_equal [0, 255], shim.ask(1).body.bytes
  end

  STREAM = <<~HANDLER
    def main(context, event)
      Enumerator.new do |out|
        begin
          3.times do |number|
            out << event.body * number
            raise 'in the middle' if event.path == '/raise' && number == 1
          end
        ensure
          context.logger.warn('closed')
        end
      end
    end
  HANDLER

  def test_a_stream_keeps_to_its_credit
    shim = peer(STREAM)
    shim.send_bytes(event(1, body: 'x' * 60_000))
    head = shim.answer
    assert_equal [ANSWER, MORE, 200], [head.kind, head.flags, head.code]
    received = 0
    received += shim.answer.body.bytesize while received < 100_000
    assert_equal 100_000, received
    assert_nil IO.select([shim.socket], nil, nil, 0.2), 'nothing comes without credit'
    shim.send_bytes(frame(CREDIT, id: 1, head: [500_000].pack('V')))
    last = nil
    loop do
      last = shim.answer
      break if last.flags != 0

      received += last.body.bytesize
    end
    assert_equal [DATA, LAST, 180_000], [last.kind, last.flags, received]
  end

  def test_a_stream_that_fails_is_cut_and_one_nobody_wants_is_left
    shim = peer(STREAM)
    shim.send_bytes(event(1, path: '/raise', body: 'x'))
    kinds = Array.new(3) { shim.answer }
    assert_equal [ABORT, true], [kinds.last.flags, kinds.last.body.include?('in the middle')]
    shim.send_bytes(event(2, body: 'x' * 60_000) + event(3, body: '1') + frame(CANCEL, id: 3, code: 1))
    head = shim.answer
    assert_equal [2, MORE], [head.id, head.flags]
    cancelled = shim.answer while cancelled.nil? || cancelled.id == 2
    assert_equal [3, ANSWER, CANCELLED], [cancelled.id, cancelled.kind, cancelled.flags]
    shim.send_bytes(frame(CANCEL, id: 2, code: 1))
    last = shim.answer
    last = shim.answer until last.flags != 0
    assert_equal [2, DATA, ABORT], [last.id, last.kind, last.flags]
    shim.send_bytes(frame(CANCEL, id: 2, code: 1)) # After the answer: too late, no harm.
    shim.send_bytes(event(4, body: ''))
    assert_equal [4, MORE], [shim.answer].map { |answer| [answer.id, answer.flags] }.first
  end

  def test_a_stream_that_fails_before_its_first_item_is_an_ordinary_failure
    shim = peer("def main(context, event)\n  Enumerator.new { |out| raise 'before' }\nend\n")
    answer = shim.ask(1)
    assert_equal [ANSWER, 0, 500], [answer.kind, answer.flags, answer.code]
  end

  def test_files_are_streamed
    shim = peer("def main(context, event)\n  File.open(__FILE__)\nend\n")
    assert_equal MORE, shim.ask(1).flags
    assert_includes shim.answer.body, 'File.open'
  end

  def test_callbacks_run_when_asked_and_their_failures_are_told
    shim = peer(<<~HANDLER)
      def init_context(context)
        context.set_drain_callback { context.logger.warn('drained') }
        context.set_termination_callback { raise 'not now' }
      end

      def main(context, event)
        'x'
      end
    HANDLER
    shim.send_bytes(frame(CONTROL, code: 1, id: 1, head: [1000].pack('V')))
    assert_equal [LOG, CONTROL_DONE], [shim.take.kind, shim.take.kind]
    shim.send_bytes(frame(CONTROL, code: 3, id: 2, head: [1000].pack('V')))
    done = shim.answer
    assert_equal [CONTROL_DONE, 1, 2], [done.kind, done.code, done.id]
    assert_includes done.body, 'not now'
  end

  def test_what_is_wrong_with_a_handler_is_said
    {
      ['main:main', 'def main('] => [1, /main\.rb:1: syntax error/],
      ['main:main', "raise 'at load'"] => [1, /main\.rb:1:in .*at load \(RuntimeError\)/],
      ['main:main', "require 'no-such-library'"] => [1, /no-such-library/],
      ['main:other', 'def one; end; def two; end'] => [1, /no method "other" .* it defines: one, two/],
      ['absent:main', ''] => [1, /no file .*absent\.rb/],
      ['main', ''] => [1, /does not have the form file:method/],
      ['main:main', "def init_context(context)\n  raise 'in init'\nend\ndef main(context, event); end"] => [2, /init_context failed: .*main\.rb:2.*in init/]
    }.each do |(handler, source), (code, text)|
      shim = peer(source, handler: handler, wait: false)
      failed = shim.answer
      assert_equal [FAILED, code], [failed.kind, failed.code], source
      assert_match text, failed.body
      assert_equal 1, shim.status.exitstatus
    end
  end

  def test_signals_end_it_when_idle_after_the_event_or_at_once_with_its_stack
    shim = peer
    Process.kill('INT', shim.pid)
    assert_equal 'hi', shim.ask(1).body
    Process.kill('TERM', shim.pid)
    assert_equal 0, shim.status.exitstatus

    shim = peer("def main(context, event)\n  context.logger.warn('in work')\n  sleep 0.2\n  'ended'\nend\n")
    shim.send_bytes(event(1) + event(2))
    shim.take
    Process.kill('TERM', shim.pid)
    assert_equal 'ended', shim.answer.body
    assert_equal 0, shim.status.exitstatus

    shim = peer("def main(context, event)\n  context.logger.warn('in work')\n  loop {}\nend\n")
    shim.send_bytes(event(1))
    shim.take
    Process.kill('ABRT', shim.pid)
    refute shim.status.success?
    assert_match(/main\.rb:[23]/, shim.last_words)
  end

  def test_records_of_other_threads_are_whole
    shim = peer(<<~HANDLER)
      def main(context, event)
        8.times.map { |n| Thread.new { 50.times { context.logger.info('x' * 200, n: n) } } }.each(&:join)
        'done'
      end
    HANDLER
    shim.send_bytes(event(1))
    records = 0
    records += 1 while (frame = shim.take).kind == LOG
    assert_equal [400, 'done'], [records, frame.body]
  end

  def test_without_a_connection_it_says_what_it_wants
    _, errors, status = Dir.mktmpdir do |folder|
      path = File.join(folder, 'stderr')
      pid = spawn(RUBY, WRAPPER, err: path)
      [nil, Process.wait2(pid).last, File.read(path)].values_at(0, 2, 1)
    end
    assert_includes errors, 'NUCLIO_SHIM_FD'
    assert_equal 1, status.exitstatus
  end

  # ---- protocol 1: as the Go processor drives it

  def line_of(body, path: '/')
    JSON.generate(body: [body].pack('m0'), content_type: 'text/plain', 'content-type': 'text/plain', fields: nil, headers: { 'X-A' => 'b' },
                  id: 'one', method: 'POST', num_shards: 0, offset: 0, path: path, shard_id: -1, size: body.bytesize,
                  timestamp: 1_735_689_600, topic: '', trigger: { kind: 'http', name: 'web' }, type: '', type_version: '',
                  url: '', version: '')
  end

  def test_protocol_1_is_spoken_over_a_path
    Dir.mktmpdir do |folder|
      File.write(File.join(folder, 'wrapper.rb'), File.read(WRAPPER))
      File.write(File.join(folder, 'main.rb'), <<~HANDLER)
        def main(context, event)
          context.logger.warn('told', a: 1)
          case event.path
          when '/raise' then raise 'on purpose'
          when '/bytes' then "\\xff".b
          when '/stream' then %w[a b].each
          else Response.new(event.body, headers: { 'h' => event.headers['X-A'] }, status_code: 201)
          end
        end
      HANDLER
      path = File.join(folder, 'socket')
      server = UNIXServer.new(path)
      pid = spawn(RUBY, File.join(folder, 'wrapper.rb'), '--handler', 'main:main', '--socket-path', path)
      socket = Timeout.timeout(20) { server.accept }
      assert_equal "s#\n", socket.gets
      ask = lambda do |where, body|
        socket.write("#{line_of(body, path: where)}\n")
        record = socket.gets
        record = socket.gets if where == '/raise' # the record of the failure
        assert_equal 'l', record[0]
        answer = JSON.parse(socket.gets[1..-1])
        assert_operator JSON.parse(socket.gets[1..-1])['duration'], :<, 10, 'seconds'
        answer
      end
      answer = ask.call('/', 'hi')
      assert_equal [201, 'hi', 'text', { 'h' => 'b' }], answer.values_at('status_code', 'body', 'body_encoding', 'headers')
      assert_equal ['/w==', 'base64'], ask.call('/bytes', '').values_at('body', 'body_encoding')
      assert_equal 500, ask.call('/raise', '')['status_code']
      assert_equal 'ab', ask.call('/stream', '')['body']
      socket.close
      assert_equal 0, Timeout.timeout(20) { Process.wait2(pid).last }.exitstatus
    end
  end
end
