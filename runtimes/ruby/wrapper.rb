# frozen_string_literal: true

# nuclio-shim-protocol: 2
#
# Runs a user's Ruby handler for the processor, which started this file as a child process.
#
# The two talk shim protocol 2 over one Unix stream socket: little-endian frames with a fixed header of 16 bytes. Started
# with the arguments of the Go processor's wrapper (`--handler`, `--socket-path`) it speaks that one's protocol 1: a line of
# JSON per event. Reading order: the end of the file, `Shim`, `Two` (frames) or `One` (lines), `Answer` (what a value means).

require 'date'
require 'json'

# compat: the Go processor's wrapper loads these, so that handlers may use them.
autoload :Base64, 'base64'
autoload :OptionParser, 'optparse'
autoload :Socket, 'socket'
autoload :UNIXSocket, 'socket'

# Everything of the shim but what handlers name.
module NuclioShim
  DEBUG = 0
  INFO = 1
  WARN = 2
  ERROR = 3

  # Flags of an answer.
  NO_ACK = 0x04
  CANCELLED = 0x10

  TEXT = 'text/plain'
  JSON_TYPE = 'application/json'
  PIECE_BYTES_MAX = 64 * 1024 # of one piece of a stream
  LOG_TEXT_MAX = 64 * 1024 # characters of a message
  LOG_FIELDS_MAX = 256 * 1024 # of all fields of a record together; beyond, long values are cut
  LOG_FIELD_MAX = 4 * 1024
  LOGS_HELD_BYTES_MAX = 32 * 1024
  LOGS_HELD_MICROS_MAX = 100_000

  # The other side does what the protocol does not know.
  class ProtocolFault < StandardError; end

  # The handler cannot be found.
  class LoadFault < StandardError; end

  module_function

  def monotonic
    Process.clock_gettime(Process::CLOCK_MONOTONIC, :microsecond)
  end

  # Any text as UTF-8.
  def utf8(text)
    text = text.to_s
    text = text.dup.force_encoding(Encoding::UTF_8) if text.encoding == Encoding::BINARY
    text = text.encode(Encoding::UTF_8, invalid: :replace, undef: :replace) unless text.encoding == Encoding::UTF_8
    text.valid_encoding? ? text : text.scrub
  end

  # An exception as Ruby shows it, without our own frames.
  def describe(error)
    frames = (error.backtrace || []).take_while { |frame| !frame.start_with?("#{__FILE__}:") }
    lines = frames.drop(1).map { |frame| "\tfrom #{utf8(frame)}\n" }
    place = frames.empty? ? '' : "#{utf8(frames.first)}: "
    "#{place}#{message_of(error)} (#{error.class})\n#{lines.join}"
  end

  # Its message, or why it has none: that is a method of the user's, which may fail.
  def message_of(error)
    utf8(error.message)
  rescue SystemExit, SignalException
    raise
  rescue Exception => fault
    "(its message raised #{fault.class})"
  end

  # The fields of a record as JSON: whatever the values are, and however large.
  def fields_json(fields)
    begin
      text = JSON.generate(fields)
      return text if text.bytesize <= LOG_FIELDS_MAX
    rescue StandardError, SystemStackError
      nil # One of them is odd: one by one.
    end
    left = LOG_FIELDS_MAX
    safe = {}
    fields.each do |name, value|
      text = field_json(value)
      name = utf8(name)
      left -= name.bytesize + [text.length, LOG_FIELD_MAX].min
      break if left.negative?

      long = text.length > LOG_FIELD_MAX
      safe[name] = long ? "#{text[0, LOG_FIELD_MAX]}... (#{text.length} characters)" : JSON.parse("[#{text}]").first
    end
    JSON.generate(safe)
  end

  def field_json(value)
    utf8(JSON.generate([value]))[1..-2]
  rescue StandardError, SystemStackError
    JSON.generate(value.is_a?(String) ? utf8(value) : utf8(value.inspect))
  end

  # Where an event comes from.
  class Trigger
    attr_reader :kind, :name, :class_name

    def initialize(kind, name)
      @kind = kind
      @name = name
      @class_name = nil # compat: nobody fills it
    end
  end

  # What a handler gets.
  class Event
    attr_accessor :body, :content_type, :headers, :fields, :id, :method, :path, :url, :trigger, :version,
                  :type, :type_version, :topic, :shard_id, :num_shards, :offset
    attr_writer :timestamp

    def initialize(micros)
      @micros = micros
    end

    def timestamp
      @timestamp ||= Time.at(@micros / 1_000_000, @micros % 1_000_000).utc.to_datetime
    end

    def size
      body.to_s.bytesize
    end

    # compat: it is a Struct there.
    MEMBERS = %i[body content_type headers fields id method path url timestamp trigger version].freeze

    def to_h
      MEMBERS.map { |name| [name, public_send(name)] }.to_h
    end

    def [](name)
      to_h.fetch(name.to_sym)
    end
  end

  # `context.logger`.
  class Logger
    def initialize(shim)
      @shim = shim
    end

    def debug(message, **with)
      @shim.log(DEBUG, message, with)
    end

    def info(message, **with)
      @shim.log(INFO, message, with)
    end

    def warn(message, **with)
      @shim.log(WARN, message, with)
    end

    def error(message, **with)
      @shim.log(ERROR, message, with)
    end

    def inspect
      '#<Logger>'
    end
  end

  # One per worker. The members after `user_data` are ours.
  class Context
    attr_accessor :logger, :user_data
    attr_reader :worker_id, :trigger, :function_name, :function_version
    attr_reader :drain_callback, :termination_callback

    def initialize(logger, settings)
      @logger = logger
      @user_data = nil
      @worker_id = settings['worker_id'].to_i
      @trigger = Trigger.new(settings['trigger_kind'].to_s, settings['trigger_name'].to_s)
      @function_name = settings['function_name'].to_s
      @function_version = settings['function_version'].to_s
    end

    # Called when the processor stops, after the last event.
    def set_termination_callback(callback = nil, &block)
      @termination_callback = callback || block
    end

    # Called when the worker shall take no more events for a while.
    def set_drain_callback(callback = nil, &block)
      @drain_callback = callback || block
    end
  end

  # What a handler may answer with: `Response.new` in handlers.
  class Response < Struct.new(:body, :headers, :content_type, :status_code, :body_encoding)
    def initialize(body = '', headers: {}, content_type: TEXT, status_code: 200, body_encoding: 'text')
      super(body, headers, content_type, status_code, body_encoding)
    end
  end

  # Bytes that are no text: `ByteBuffer.new` in handlers. A String answers as its bytes, too.
  class ByteBuffer
    attr_reader :bytes

    def initialize(bytes)
      @bytes = bytes
    end

    def to_s
      @bytes.is_a?(Array) ? @bytes.pack('C*') : @bytes.to_s
    end
  end

  # What a value means as an answer.
  class Answer
    attr_accessor :status, :type, :pairs, :body, :flags
    attr_reader :stream

    def initialize(status, body, type = TEXT)
      @status = status
      @body = body
      @type = type
      @pairs = []
      @flags = 0
      @stream = nil
    end

    def self.of(value)
      case value
      when Response then response(value)
      when Array
        return new(200, value.to_json, JSON_TYPE) unless value.length == 2

        answer = of_body(value[1])
        answer.status = checked(value[0])
        answer
      else of_body(value)
      end
    end

    def self.of_body(value)
      case value
      when String then new(200, value)
      when ByteBuffer then new(200, value.to_s)
      when Enumerator, IO then new(200, '').streamed(value)
      else new(200, value.to_json, JSON_TYPE)
      end
    end

    def self.response(value)
      case value.body
      when String, ByteBuffer, Enumerator, IO then answer = of_body(value.body)
      else raise TypeError, "the body of a Response is #{article(value.body.class)}, want a String, a ByteBuffer or a stream"
      end
      answer.body = answer.body.unpack1('m') if value.body_encoding == 'base64' && !answer.stream
      answer.type = value.content_type.to_s.delete("\0")
      answer.status = checked(value.status_code)
      answer.add_headers(value.headers) if value.headers
      answer
    end

    def self.article(name)
      name.to_s.match?(/\A[AEIOU]/) ? "an #{name}" : "a #{name}"
    end

    def self.checked(status)
      return status if status.is_a?(Integer) && status.between?(100, 999)

      raise TypeError, "the answer's status is #{status.inspect}, want an Integer from 100 to 999"
    end

    def streamed(source)
      @stream = source
      self
    end

    def add_headers(headers)
      headers.each do |name, value|
        name = name.to_s
        if name.casecmp('x-nuclio-stream-no-ack')&.zero? # The other one wants texts in order.
          @flags |= NO_ACK if value == true || value == 1 || value.to_s.casecmp?('true')
          next
        end
        (value.is_a?(Array) ? value : [value]).each do |one|
          next if one.nil?

          text = one.is_a?(Hash) ? one.to_json : one.to_s
          @pairs << name << text unless name.include?("\0") || text.include?("\0")
        end
      end
    end

    # Items of a stream as bytes.
    def each_piece
      if @stream.is_a?(IO)
        begin
          while (piece = @stream.read(PIECE_BYTES_MAX))
            yield piece
          end
        ensure
          @stream.close
        end
      else
        @stream.each do |item|
          yield(item.is_a?(Hash) || item.is_a?(Array) ? item.to_json : item.to_s)
        end
      end
    end
  end

  # The user's code.
  class Handler
    # Loads the file; `text` is `file:method`.
    def initialize(directory, text)
      file, entry, more = text.to_s.split(':')
      if file.nil? || file.empty? || entry.nil? || entry.empty? || more
        raise LoadFault, "handler #{text.inspect} does not have the form file:method; correct spec.handler"
      end

      path = find(File.expand_path(file, directory), text)
      before = Object.private_instance_methods(false)
      require path
      # compat: the methods of the file itself are methods of every object.
      @main = TOPLEVEL_BINDING.receiver
      defined = Object.private_instance_methods(false) - before
      unless @main.respond_to?(entry, true)
        found = defined.empty? ? 'no method at all' : defined.sort.join(', ')
        raise LoadFault, "no method #{entry.inspect} is defined by #{path}; it defines: #{found}; correct spec.handler"
      end
      @method = @main.method(entry)
    end

    def find(path, text)
      file = path.end_with?('.rb') ? path : "#{path}.rb"
      return file if File.file?(file)

      raise LoadFault, "no file #{file} (for handler #{text.inspect}); correct spec.handler, or name the folder in " \
                       'NUCLIO_HANDLER_DIR'
    end

    def prepare(context)
      @main.send(:init_context, context) if @main.respond_to?(:init_context, true)
    end

    def call(context, event)
      @method.call(context, event)
    end
  end

  # What both protocols have in common: one event through the handler.
  class Shim
    attr_reader :context, :stopping

    def initialize
      @lock = Mutex.new
      @logger = Logger.new(self)
      @level = DEBUG # lowest wanted now
      @worker_level = DEBUG
      @current = nil # what the protocol knows the event by
      @stopping = false
      @busy = false
      @pid = Process.pid
      @forked = false # This is a process that a handler has forked.
      @traps = {}
      @worst = 0 # exit code of a forked process that comes back from the handler
    end

    # Loads the handler and prepares the context. What it raises says what went wrong.
    def load(directory, settings)
      @context = Context.new(@logger, settings)
      @handler = Handler.new(directory, settings['handler'])
    end

    # Handles an event, whatever comes of it.
    def handle(event)
      @busy = true
      @worst = 0
      @started = NuclioShim.monotonic
      begin
        answer = Answer.of(@handler.call(@context, event))
      rescue SystemExit, SignalException
        raise
      rescue Exception => error
        @worst = 1
        answer = failed(error)
      end
      answer
    end

    TELLS_OF_FORKS = Process.respond_to?(:_fork) # Ruby 3.1 and newer

    # Keeps what the handler forks away from the connection, which has one reader and one writer.
    def watch_forks
      shim = self
      if TELLS_OF_FORKS
        hook = Module.new do
          define_method(:_fork) do
            before = shim.stopping
            pid = super()
            shim.forked(before) if pid.zero?
            pid
          end
        end
        return Process.singleton_class.prepend(hook)
      end
      hook = Module.new do
        define_method(:fork) do |&block|
          before = shim.stopping
          pid = block ? super() { shim.forked(before) || block.call } : super()
          shim.forked(before) if pid.nil?
          pid
        end
      end
      [Process, Kernel].each { |owner| owner.singleton_class.prepend(hook) }
      Object.include(hook.dup.tap { |private_hook| private_hook.send(:private, :fork) })
    end

    # In a process that has just been forked: it has no part in the connection, and signals mean what they mean to others.
    def forked(was_stopping)
      return if @forked

      @forked = true
      disconnect
      @traps.each do |name, ours|
        now = trap(name, 'DEFAULT')
        trap(name, now) unless now.equal?(ours) # The handler's own.
      end
      # It was sent to this process, before it could mean anything here.
      Process.kill('TERM', Process.pid) if @stopping && !was_stopping
      nil
    end

    def failed(error, message = 'Exception caught in handler')
      text = NuclioShim.describe(error)
      log(ERROR, message, err: NuclioShim.message_of(error), stack: text)
      Answer.new(500, text)
    end

    # After the answer.
    def finish
      # It came back from the handler as if the event were its own. There is nobody to answer, and no next event.
      exit!(@worst) if @forked
      @busy = false
      leave if @stopping
    end

    def log(level, message, with)
      return if level < @level

      text = NuclioShim.utf8(message)
      text = "#{text[0, LOG_TEXT_MAX]}... (#{text.length} characters)" if text.length > LOG_TEXT_MAX
      return STDERR.write("#{text} #{NuclioShim.fields_json(with)}\n") if @forked

      write_log(level, text, with)
    end

    def leave
      exit(0)
    end

    def set_traps
      set_trap('INT') {} # A terminal sends it to everybody.
      set_trap('TERM') do
        @stopping = true
        leave unless @busy
      end
      set_trap('ABRT') do
        STDERR.syswrite("nuclio shim: the handler does not return; it is at\n" + caller.map { |frame| "\t#{frame}\n" }.join)
        exit!(134)
      end
      watch_forks
    end

    def set_trap(name, &ours)
      trap(name, ours) # As a value: the same object comes back when it is asked for.
      @traps[name] = ours
    end
  end

  # Protocol 2.
  class Two < Shim
    # Kinds of frames.
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
    # Flags of EVENT, of ANSWER, of DATA, of any frame.
    MORE_IN = 0x01
    TYPED = 0x20
    NOT_UTF8 = 0x40
    MORE = 0x01
    LAST = 0x01
    ABORT = 0x02
    OPTIONAL = 0x80
    # Codes of FAILED, of CONTROL.
    LOAD_FAILED = 1
    INIT_FAILED = 2
    PROTOCOL_FAULT = 3
    DRAIN = 1
    TERMINATE = 3

    HEADER = 'VCCvVV'
    ANSWER_FRAME = 'VCCvVVVvv'
    EVENT_HEAD = 'q<q<l<l<Vvv'
    HEADER_BYTES = 16
    EVENT_TEXTS = 12
    PREFETCH = 32 # events that may wait here
    READ_BYTES = 64 * 1024
    WHOLE_BYTES_MAX = 16 * 1024 # bodies above this are not copied to their head
    SPLAT_MAX = 1024 # texts that become a table in one call
    NO_TRIGGER = Trigger.new('', '')

    def initialize(io)
      super()
      @io = io
      @io.sync = true
      @io.binmode
      @io.close_on_exec = true # Not for programs that the handler starts.
      @data = String.new # what has been read
      @at = 0 # the first byte of it that has not been used
      @out = String.new # whole frames that go out with the next write
      @written = 0
      @waiting = [] # events that came while a stream was under way
      @max_frame = 1 << 30
      @credit_window = 256 * 1024
      @triggers = []
      @settings = nil
      @stream = 0 # id of the event whose answer is being streamed
    end

    def run
      at_exit { flush if Process.pid == @pid }
      @out << 'NSH2'
      pairs(HELLO, 2, language: 'ruby', version: RUBY_VERSION, sdk: 'none', protocol_min: 2, protocol_max: 2,
                      capabilities: 'cancel,stream-out,control', max_inflight: 1, prefetch: PREFETCH, pid: @pid)
      flush
      set_traps
      receive until @settings
      set_up
      serve
    rescue ProtocolFault => error
      fail_with(PROTOCOL_FAULT, error.message)
    end

    private

    def disconnect
      @out.clear
      @io.close
    end

    # From INIT to READY.
    def set_up
      begin
        load(@settings['handler_dir'] || '/opt/nuclio', @settings)
      rescue LoadFault => error
        fail_with(LOAD_FAILED, error.message)
      rescue SystemExit, SignalException
        raise
      rescue Exception => error
        fail_with(LOAD_FAILED, "failed to load handler #{@settings['handler'].inspect}: #{NuclioShim.describe(error)}")
      end
      begin
        @handler.prepare(@context)
      rescue SystemExit, SignalException
        raise
      rescue Exception => error
        fail_with(INIT_FAILED, "init_context failed: #{NuclioShim.describe(error)}")
      end
      list_sources
      pairs(READY, 0, handler_async: 0, max_inflight: 1)
      flush
    end

    def serve
      loop do
        receive while @waiting.empty?
        id, level, event = @waiting.shift
        @current = id
        @level = level
        answer = handle(event)
        if answer.stream
          stream(id, answer)
        else
          @lock.synchronize { put_answer(id, answer, 0) }
        end
        @level = @worker_level
        # Written before the next begins, which may be slow or the last.
        flush
        finish
      end
    end

    # ---------------------------------------------------------------------------------------------- frames in

    # Takes one frame and does what it says.
    def receive
      fill(HEADER_BYTES)
      size, kind, flags, code, id, head = @data.byteslice(@at, HEADER_BYTES).unpack(HEADER)
      if head > size || size > @max_frame
        raise ProtocolFault, "bad frame header #{@data.byteslice(@at, HEADER_BYTES).unpack1('H*')}"
      end

      fill(HEADER_BYTES + size)
      start = @at + HEADER_BYTES
      @at = start + size
      case kind
      when EVENT then arrive(flags, code, id, start, head, size)
      when CREDIT then @credit += @data.byteslice(start, 4).unpack1('V') if id == @stream
      when CANCEL then cancel(id)
      when CONTROL then control(code, id)
      when INIT then initialize_with(code, text(start, size))
      when PING
        put(PONG, 0, code, id, '', @data.byteslice(start + head, size - head))
        flush
      else
        raise ProtocolFault, "unexpected frame of kind 0x#{kind.to_s(16)}" if (flags & OPTIONAL).zero?
      end
    end

    # Reads until that many bytes are there.
    def fill(bytes)
      missing = @at + bytes - @data.bytesize
      return if missing <= 0

      rest = @data.byteslice(@at, @data.bytesize - @at)
      @at = 0
      if missing > READ_BYTES
        # A large frame: the rest of it at once, into a string of its size.
        tail = @io.read(missing)
        leave if tail.nil? || tail.bytesize < missing
        @data = rest << tail
        return
      end
      while rest.bytesize < bytes
        piece = @io.readpartial(READ_BYTES)
        rest = rest.empty? ? piece : rest << piece
      end
      @data = rest
    rescue EOFError, SystemCallError
      leave # The processor has closed its end.
    end

    # Whether the next frame is here, without waiting.
    def frame_here?
      until whole_frame?
        return false unless IO.select([@io], nil, nil, 0)

        begin
          piece = @io.readpartial(READ_BYTES)
        rescue EOFError, SystemCallError
          leave
        end
        @data = @data.byteslice(@at, @data.bytesize - @at) << piece
        @at = 0
      end
      true
    end

    def whole_frame?
      have = @data.bytesize - @at
      have >= HEADER_BYTES && have >= HEADER_BYTES + @data.byteslice(@at, 4).unpack1('V')
    end

    def text(start, size)
      @data.byteslice(start, size).force_encoding(Encoding::UTF_8)
    end

    def initialize_with(version, text)
      raise ProtocolFault, "want one INIT of protocol 2, got version #{version}" if version != 2 || @settings

      texts = text.split("\0", -1)
      @settings = table(texts, 0, texts.length / 2)
      @max_frame = @settings['max_frame'].to_i if @settings['max_frame']
      @credit_window = @settings['credit'].to_i if @settings['credit']
      @worker_level = @level = @settings['log_level'].to_i
      @triggers = Array.new(@settings['triggers'].to_i) do |index|
        Trigger.new(@settings["trigger.#{index}.kind"].to_s, @settings["trigger.#{index}.name"].to_s)
      end
    end

    def arrive(flags, code, id, start, head, size)
      raise ProtocolFault, "event #{id}: request streams were not offered" if flags & MORE_IN != 0

      wanted = code >> 12
      level = wanted.zero? ? @worker_level : wanted - 1
      @waiting << [id, level, decode(flags, code, start, head, size)]
    end

    def decode(flags, code, start, head, size)
      micros, offset, shard, shards, _timeout, headers, fields = @data.byteslice(start, 32).unpack(EVENT_HEAD)
      texts = texts_of(flags, start + 32, head - 32)
      wanted = EVENT_TEXTS + 2 * (headers + fields)
      raise ProtocolFault, "event has #{texts.length} texts, want #{wanted}" if texts.length < wanted

      event = Event.new(micros)
      event.id, event.method, event.path, _query, event.url, event.content_type, event.topic,
        event.type, event.type_version, event.version, kind, name = texts
      trigger = @triggers[code & 0xfff] || NO_TRIGGER
      trigger = Trigger.new(kind, name) unless kind.empty?
      event.trigger = trigger
      event.headers = table(texts, EVENT_TEXTS, headers)
      event.fields = table(texts, EVENT_TEXTS + 2 * headers, fields)
      event.body = @data.byteslice(start + head, size - head)
      event.offset = offset
      event.shard_id = shard
      event.num_shards = shards
      event
    end

    def texts_of(flags, start, size)
      if flags & TYPED != 0
        typed_items(start, start + size)
      elsif flags & NOT_UTF8 != 0
        @data.byteslice(start, size).split("\0".b, -1).map { |text| text.force_encoding(Encoding::UTF_8).scrub }
      else
        text(start, size).split("\0", -1)
      end
    end

    # Texts of an event that carries more than plain text: each has a type and a length.
    def typed_items(start, stop)
      items = []
      while start < stop
        type, length = @data.byteslice(start, 5).unpack('aV')
        raise ProtocolFault, 'a text of an event is cut off' if length.nil? || start + 5 + length > stop

        items << typed(type, start + 5, length)
        start += 5 + length
      end
      items
    end

    def typed(type, start, length)
      bytes = @data.byteslice(start, length)
      case type
      when 's' then bytes.force_encoding(Encoding::UTF_8).scrub
      when 'i' then bytes.unpack1('q<')
      when 'f' then bytes.unpack1('E')
      when 't' then bytes != "\0".b
      when 'n' then nil
      when 'l' then typed_items(start, start + length)
      when 'm' then Hash[typed_items(start, start + length).each_slice(2).to_a]
      else bytes
      end
    end

    def table(texts, at, pairs)
      return {} if pairs.zero?

      part = texts[at, 2 * pairs]
      part.length <= SPLAT_MAX ? Hash[*part] : Hash[part.each_slice(2).to_a]
    end

    def cancel(id)
      return @cancelled = true if id == @stream

      place = @waiting.index { |other, _| other == id }
      return unless place # It has been answered.

      @waiting.delete_at(place)
      @lock.synchronize { put_answer(id, Answer.new(500, 'cancelled'), CANCELLED) }
      flush
    end

    def control(code, id)
      callback = { DRAIN => @context.drain_callback, TERMINATE => @context.termination_callback }[code]
      outcome = 0
      text = ''
      begin
        callback&.call
      rescue SystemExit, SignalException
        raise
      rescue Exception => error
        outcome = 1
        text = NuclioShim.describe(error)
        log(ERROR, 'Exception caught in callback', err: NuclioShim.message_of(error), stack: text)
      end
      put(CONTROL_DONE, 0, outcome, id, '', text)
      flush
    end

    # ---------------------------------------------------------------------------------------------- frames out

    # Holds a frame until the next write.
    def put(kind, flags, code, id, head, body)
      @lock.synchronize { hold(kind, flags, code, id, head, body) }
    end

    def hold(kind, flags, code, id, head, body)
      size = head.bytesize + body.bytesize
      @out << [size, kind, flags, code, id, head.bytesize].pack(HEADER) << head.b << body.b
    end

    def pairs(kind, code, names)
      put(kind, 0, code, 0, names.to_a.flatten.join("\0"), '')
    end

    # Holds an answer; writes it if it is large. With the lock held.
    def put_answer(id, answer, flags)
      body = answer.body
      if body.bytesize > @max_frame - READ_BYTES
        body = "an answer of #{body.bytesize} bytes is above the limit; stream it"
        answer = Answer.new(500, body)
      end
      table = answer.type.b
      answer.pairs.each { |text| table << "\0" << text.b }
      micros = [NuclioShim.monotonic - @started.to_i, 0xffffffff].min
      micros = 0 unless @started
      head = 8 + table.bytesize
      @out << [head + body.bytesize, ANSWER, flags | answer.flags, answer.status, id, head, micros,
               answer.pairs.length / 2, 0].pack(ANSWER_FRAME) << table
      @current = 0 unless flags == MORE
      if body.bytesize <= WHOLE_BYTES_MAX
        # As bytes: a text would have to fit the encoding of the rest.
        @out << (body.encoding == Encoding::BINARY ? body : body.b)
      else
        transmit(body)
      end
    end

    # Writes what is held.
    def flush
      @lock.synchronize { transmit(nil) }
    end

    def transmit(body)
      return if @forked || (@out.empty? && body.nil?)

      held = @out
      @out = String.new
      body ? @io.write(held, body) : @io.write(held)
      @written = NuclioShim.monotonic
    rescue SystemCallError, IOError
      leave # The processor is gone.
    end

    def write_log(level, text, with)
      micros = Process.clock_gettime(Process::CLOCK_REALTIME, :microsecond)
      body = with.nil? || with.empty? ? '' : NuclioShim.fields_json(with)
      head = [micros].pack('q<') << text.b
      at_once = level >= WARN || @settings.nil? || @settings['log_flush'] == 'always'
      @lock.synchronize do
        hold(LOG, 0, level, @current.to_i, head, body)
        at_once ||= @out.bytesize > LOGS_HELD_BYTES_MAX || NuclioShim.monotonic - @written > LOGS_HELD_MICROS_MAX
        transmit(nil) if at_once
      end
    end

    # Tells the processor why this process is of no use, and ends it.
    # Lists the user's files that have been loaded, where somebody wants to know them.
    def list_sources
      return unless @settings && @settings['source_list']
      library = RbConfig::CONFIG['rubylibprefix'].to_s + '/'
      ours = $LOADED_FEATURES.select do |file|
        file.start_with?('/') && !file.start_with?(library) && !file.include?('/gems/') && !file.include?("\n")
      end
      File.write(@settings['source_list'], ours.map { |file| "#{file}\n" }.join, mode: 'a') unless ours.empty?
    end

    def fail_with(code, text)
      list_sources
      put(FAILED, 0, code, 0, '', text)
      flush
      exit(1)
    end

    # ---------------------------------------------------------------------------------------------- streams

    # Answers with the items of a stream: head, then pieces as far as the processor's credit goes.
    def stream(id, answer)
      @stream = id
      @credit = @credit_window
      @cancelled = false
      begun = false
      whole = catch(self) do
        answer.each_piece do |bytes|
          unless begun
            begun = true
            @lock.synchronize { put_answer(id, answer, MORE) }
          end
          send_piece(id, bytes)
        end
        true
      end
      if whole
        @lock.synchronize { put_answer(id, answer, MORE) } unless begun
        put(DATA, LAST, 0, id, '', '')
      elsif begun
        put(DATA, ABORT, 0, id, '', 'cancelled')
      else
        @lock.synchronize { put_answer(id, Answer.new(500, 'cancelled'), CANCELLED) }
      end
    rescue SystemExit, SignalException
      raise
    rescue Exception => error
      failure = failed(error, begun ? 'Exception caught in a streamed answer' : 'Exception caught in handler')
      return @lock.synchronize { put_answer(id, failure, 0) } unless begun

      put(DATA, ABORT, 0, id, '', failure.body)
    ensure
      @stream = 0
      @current = 0
    end

    def send_piece(id, bytes)
      bytes = bytes.b
      at = 0
      while at < bytes.bytesize
        receive while frame_here?
        receive until @credit.positive? || @cancelled
        throw self if @cancelled # Leaves the user's loop; what it ensures is done.
        size = [PIECE_BYTES_MAX, @credit, bytes.bytesize - at].min
        put(DATA, 0, 0, id, '', bytes.byteslice(at, size))
        @credit -= size
        at += size
        flush
      end
    end
  end

  # Protocol 1: for the Go processor.
  class One < Shim
    LEVELS = %w[debug info warning error].freeze

    def initialize(path)
      super()
      @path = path
    end

    def run(handler)
      load(File.dirname(File.expand_path(__FILE__)), 'handler' => handler)
      @socket = UNIXSocket.new(@path)
      set_traps
      @handler.prepare(@context)
      write("s#\n")
      while (line = @socket.gets("\n"))
        answer = handle(decode(JSON.parse(line)))
        write('r', encode(answer), 'm', duration: (NuclioShim.monotonic - @started) / 1e6)
        finish
      end
    rescue Errno::ECONNRESET, Errno::EPIPE
      leave
    end

    private

    def disconnect
      @socket.close
    end

    def decode(record)
      event = Event.new(record['timestamp'].to_i * 1_000_000)
      body = record['body']
      # Objects: data of a structured cloud event.
      event.body = body.is_a?(String) ? body.unpack1('m') : body.to_json.b
      %w[content_type id method path url version type type_version topic shard_id num_shards offset].each do |name|
        event.public_send("#{name}=", record[name])
      end
      event.headers = record['headers'] || {}
      event.fields = record['fields'] || {}
      trigger = record['trigger'] || {}
      event.trigger = Trigger.new(trigger['kind'], trigger['name'])
      event
    end

    def encode(answer)
      body = whole_body(answer)
      text = body.dup.force_encoding(Encoding::UTF_8)
      plain = text.valid_encoding?
      headers = {}
      answer.pairs.each_slice(2) do |name, value|
        headers[name] = headers.key?(name) ? [*headers[name], value] : value
      end
      { body: plain ? text : [body].pack('m0'), body_encoding: plain ? 'text' : 'base64', status_code: answer.status,
        content_type: answer.type, headers: headers }
    end

    # This protocol knows no streams.
    def whole_body(answer)
      return answer.body unless answer.stream

      body = String.new
      answer.each_piece { |piece| body << piece.b }
      body
    rescue SystemExit, SignalException
      raise
    rescue Exception => error
      failure = failed(error)
      answer.status = failure.status
      answer.type = failure.type
      failure.body
    end

    # Lines of a letter and JSON, in one write.
    def write(*parts)
      return if @forked

      lines = parts.each_slice(2).map { |letter, value| value ? "#{letter}#{JSON.generate(value)}\n" : letter }
      @lock.synchronize { @socket.write(lines.join) }
    end

    def write_log(level, text, with)
      record = { datetime: Time.now.strftime('%Y-%m-%d %H:%M:%S,%L'), level: LEVELS[level], message: text }
      return STDERR.puts(JSON.generate(record)) unless @socket

      fields = with.nil? || with.empty? ? '{}' : NuclioShim.fields_json(with)
      @lock.synchronize { @socket.write("l#{JSON.generate(record).chop},\"with\":#{fields}}\n") }
    end
  end

  # From the command line and the environment to a shim that serves.
  def start
    $stdout.sync = true
    descriptor = ENV.delete('NUCLIO_SHIM_FD')
    path = ENV.delete('NUCLIO_SHIM_SOCKET')
    # The embedded shim's own file, which programs that the handler starts need not inherit.
    IO.for_fd(Regexp.last_match(1).to_i).close if __FILE__ =~ %r{\A/proc/self/fd/(\d+)\z}
    return Two.new(IO.for_fd(descriptor.to_i, 'r+b')).run if descriptor
    return Two.new(UNIXSocket.new(path)).run if path

    arguments = Hash[*ARGV.take(ARGV.length / 2 * 2)]
    unless arguments['--handler'] && arguments['--socket-path']
      abort 'nuclio shim: neither NUCLIO_SHIM_FD nor NUCLIO_SHIM_SOCKET is set, and there are no arguments ' \
            '--handler FILE:METHOD --socket-path PATH'
    end
    One.new(arguments['--socket-path']).run(arguments['--handler'])
  end
end

# The names that handlers know.
Response = NuclioShim::Response
ByteBuffer = NuclioShim::ByteBuffer

NuclioShim.start
