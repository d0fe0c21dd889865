package nuclioadapter

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Events that the processor may write ahead.
const prefetch = "32"

// What FAILED says.
const (
	failedLoad     = 1
	failedInit     = 2
	failedProtocol = 3
)

// shim is the whole program of a handler in its executable form.
//
// One goroutine reads, and calls the handler itself: nothing is handed over for an ordinary event. While an answer is
// streamed another one reads, because credit and the client's leaving come in between; events that it finds wait.
type shim struct {
	reader *frameReader
	writer *frameWriter
	worker *worker
	// The function's triggers.
	triggers []triggerOfShim
	// Lowest level of the worker's records.
	level int
	// Bytes that a new stream may send.
	credit int64

	lock sync.Mutex
	busy bool
	// The event in work, for its records.
	current      uint32
	currentLevel int
	waiting      []frame
	stream       *outStream
}

// outStream is the answer that is being streamed. Its members are guarded by the shim's lock.
type outStream struct {
	id        uint32
	credit    int64
	cancelled bool
	changed   *sync.Cond
	reader    io.ReadCloser
}

// Main runs the handler for the processor that started this program, until it says that it is enough.
func Main() {
	descriptor, err := strconv.Atoi(os.Getenv("NUCLIO_SHIM_FD"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "This is a handler for the processor, which starts it by itself: give it this file as "+
			"/opt/nuclio/handler.so or in NUCLIO_GOLANG_HANDLER_PLUGIN_PATH, with spec.runtime golang.")
		os.Exit(2)
	}
	syscall.CloseOnExec(descriptor)
	_ = syscall.SetNonblock(descriptor, false)
	connection := socket(descriptor)
	signal.Ignore(syscall.SIGINT, syscall.SIGPIPE)
	shim := newShim(newFrameReader(connection), &frameWriter{file: connection})
	shim.hello()
	if !shim.load() {
		os.Exit(1)
	}
	go shim.endOnTerm()
	os.Exit(shim.serve())
}

func newShim(reader *frameReader, writer *frameWriter) *shim {
	return &shim{reader: reader, writer: writer, currentLevel: -1}
}

// endOnTerm ends the process once no event is in work.
func (s *shim) endOnTerm() {
	terms := make(chan os.Signal, 1)
	signal.Notify(terms, syscall.SIGTERM)
	<-terms
	for {
		s.lock.Lock()
		if !s.busy {
			os.Exit(0) // With the lock, so that none begins.
		}
		s.lock.Unlock()
		time.Sleep(time.Millisecond)
	}
}

func (s *shim) hello() {
	s.writer.write([]byte("NSH2"))
	s.writer.send(frameHello, 0, 2, 0, table("language", "go", "version", runtime.Version(), "sdk", sdkVersion(),
		"protocol_min", "2", "protocol_max", "2", "capabilities", "cancel,stream-out", "max_inflight", "1",
		"prefetch", prefetch, "pid", strconv.Itoa(os.Getpid())), nil)
}

func sdkVersion() string {
	if info, known := debug.ReadBuildInfo(); known {
		for _, module := range info.Deps {
			if module.Path == "github.com/nuclio/nuclio-sdk-go" {
				return "nuclio-sdk-go " + module.Version
			}
		}
	}
	return "nuclio-sdk-go"
}

// fail says why there will be no READY, or no more answers.
func (s *shim) fail(code uint16, text string) bool {
	s.writer.send(frameFailed, 0, code, 0, nil, []byte(text))
	return false
}

// load reads INIT and starts the worker.
func (s *shim) load() bool {
	init, err := s.reader.next()
	if err != nil {
		return false // Nobody is left who could be told.
	}
	if init.kind != frameInit || init.code != 2 {
		return s.fail(failedProtocol, "INIT for protocol version 2 expected")
	}
	told := readPairs(init.head)
	number := func(name string) int {
		value, _ := strconv.Atoi(told[name])
		return value
	}
	s.level, s.credit = number("log_level"), int64(number("credit"))
	if max, err := strconv.ParseUint(told["max_frame"], 10, 32); err == nil {
		s.reader.sizeMax = max
	}
	for at := 0; at < number("triggers"); at++ {
		place := "trigger." + strconv.Itoa(at)
		s.triggers = append(s.triggers, triggerOfShim{told[place+".kind"], told[place+".name"]})
	}
	entry, err := findEntry(told["handler"])
	if err != nil {
		return s.fail(failedLoad, err.Error())
	}
	s.worker, err = startWorker(entry, settings{
		functionName:    told["function_name"],
		functionVersion: number("function_version"),
		triggerKind:     told["trigger_kind"],
		triggerName:     told["trigger_name"],
		workerID:        number("worker_id"),
		platformKind:    told["platform_kind"],
		namespace:       told["namespace"],
	}, s)
	if err != nil {
		return s.fail(failedInit, err.Error())
	}
	s.writer.send(frameReady, 0, 0, 0, table("handler_async", "0", "max_inflight", "1"), nil)
	return true
}

// serve reads frames until there are no more, or until another goroutine does. Returns the exit code.
func (s *shim) serve() int {
	for {
		next, err := s.reader.next()
		if err == io.EOF {
			return 0
		}
		if err != nil {
			s.fail(failedProtocol, err.Error())
			return 1
		}
		switch next.kind {
		case frameEvent:
			if len(next.head) < eventFixedBytes {
				s.fail(failedProtocol, "EVENT with a head that is too short")
				return 1
			}
			if s.begin(next) && !s.handleAll(next) {
				runtime.Goexit() // Somebody else reads, and ends the process.
			}
		case frameCredit:
			if len(next.head) >= 4 {
				s.give(next.id, int64(binary.LittleEndian.Uint32(next.head)))
			}
		case frameCancel:
			s.cancel(next.id)
		case frameControl:
			s.writer.send(frameControlDone, 0, 0, next.id, nil, nil)
		default:
			if next.flags&flagSkippable == 0 {
				s.fail(failedProtocol, fmt.Sprintf("frame of unknown kind %#x", next.kind))
				return 1
			}
		}
	}
}

// begin takes the event, or lets it wait for the one in work.
func (s *shim) begin(event frame) bool {
	s.lock.Lock()
	defer s.lock.Unlock()
	if s.busy {
		event.head = append([]byte{}, event.head...)
		event.body = append([]byte{}, event.body...)
		s.waiting = append(s.waiting, event)
		return false
	}
	s.busy = true
	return true
}

// handleAll handles the event and those that wait by then. False: somebody else reads now.
func (s *shim) handleAll(event frame) bool {
	reading := true
	for {
		if s.handle(event, reading) {
			reading = false
		}
		s.lock.Lock()
		if len(s.waiting) == 0 {
			s.busy = false
			s.lock.Unlock()
			return reading
		}
		event, s.waiting = s.waiting[0], s.waiting[1:]
		s.lock.Unlock()
	}
}

// handle answers one event. True: it was a stream, and somebody else reads now.
func (s *shim) handle(raw frame, reading bool) bool {
	s.lock.Lock()
	s.current, s.currentLevel = raw.id, int(raw.code>>12)-1
	s.lock.Unlock()
	source := &frameSource{frame: raw}
	if at := int(raw.code & 0xfff); at < len(s.triggers) {
		source.trigger = s.triggers[at]
	}
	s.writer.setBusy(true)
	given := &event{source: source}
	begun := time.Now()
	answer := s.worker.call(given)
	head := answerHead(answer, time.Since(begun))
	given.release()
	streams := answer.stream != nil
	if streams {
		s.send(raw.id, answer, head, answerMore, nil)
		s.pump(raw.id, answer.stream, reading)
	}
	s.lock.Lock()
	s.current, s.currentLevel = 0, -1
	s.lock.Unlock()
	if !streams {
		s.send(raw.id, answer, head, 0, answer.body)
	}
	return streams
}

func (s *shim) send(id uint32, answer answer, head []byte, flags byte, body []byte) {
	status := answer.status
	if status < 0 || status > 0xffff {
		status = 0xffff // The processor says that this is none.
	}
	if answer.failed {
		flags |= answerFailed
	}
	s.writer.lock.Lock()
	defer s.writer.lock.Unlock()
	s.writer.add(frameAnswer, flags, uint16(status), id, head, body)
	s.writer.flush()
	s.writer.busy = false
}

// pump sends a stream piece by piece, as fast as the client takes it.
func (s *shim) pump(id uint32, reader io.ReadCloser, reading bool) {
	stream := &outStream{id: id, credit: s.credit, reader: reader, changed: sync.NewCond(&s.lock)}
	s.lock.Lock()
	s.stream = stream
	s.lock.Unlock()
	if reading {
		go func() { os.Exit(s.serve()) }()
	}
	flag, text := s.pieces(stream)
	s.lock.Lock()
	s.stream = nil
	s.lock.Unlock()
	go closeQuietly(reader) // The function's own code, which may take long.
	s.writer.send(frameData, flag, 0, id, nil, []byte(text))
}

// pieces returns how the stream ended.
func (s *shim) pieces(stream *outStream) (flag byte, text string) {
	buffer := make([]byte, readBytes)
	for {
		piece, err := readPiece(stream.reader, buffer)
		if s.cancelled(stream) {
			return dataAbort, "cancelled"
		}
		if err == io.EOF {
			return dataEnd, ""
		}
		if err != nil {
			s.worker.logger.ErrorWith("Streamed answer broke off", "err", err)
			return dataAbort, err.Error()
		}
		for len(piece) > 0 {
			count := s.take(stream, len(piece))
			if count == 0 {
				return dataAbort, "cancelled"
			}
			s.writer.send(frameData, 0, 0, stream.id, nil, piece[:count])
			piece = piece[count:]
		}
	}
}

// take waits for credit and takes up to so many bytes of it. None: the stream has been cancelled.
func (s *shim) take(stream *outStream, wanted int) int {
	s.lock.Lock()
	defer s.lock.Unlock()
	for stream.credit == 0 && !stream.cancelled {
		stream.changed.Wait()
	}
	if stream.cancelled {
		return 0
	}
	if int64(wanted) > stream.credit {
		wanted = int(stream.credit)
	}
	stream.credit -= int64(wanted)
	return wanted
}

func (s *shim) cancelled(stream *outStream) bool {
	s.lock.Lock()
	defer s.lock.Unlock()
	return stream.cancelled
}

func (s *shim) give(id uint32, bytes int64) {
	s.lock.Lock()
	defer s.lock.Unlock()
	if s.stream != nil && s.stream.id == id {
		s.stream.credit += bytes
		s.stream.changed.Broadcast()
	}
}

// cancel ends a stream, and takes events back that wait. A handler that runs cannot be told.
func (s *shim) cancel(id uint32) {
	s.lock.Lock()
	defer s.lock.Unlock()
	if stream := s.stream; stream != nil && stream.id == id {
		stream.cancelled = true
		stream.changed.Broadcast()
		go closeQuietly(stream.reader) // Wakes whoever reads or writes there.
	}
}

func (s *shim) wants(level int) bool {
	s.lock.Lock()
	defer s.lock.Unlock()
	return level >= s.level || s.currentLevel >= 0 && level >= s.currentLevel
}

func (s *shim) write(level int, message string, fields []field) {
	s.lock.Lock()
	id := s.current
	s.lock.Unlock()
	s.writer.log(level, id, message, fieldsJSON(fields))
}

// fieldsJSON is the object of a record's fields.
func fieldsJSON(fields []field) []byte {
	if len(fields) == 0 {
		return nil
	}
	object := make(map[string]interface{}, len(fields))
	for _, field := range fields {
		object[field.name] = field.value()
	}
	text, err := json.Marshal(object)
	if err != nil {
		return nil
	}
	return text
}

func (f field) value() interface{} {
	switch f.kind {
	case kindText, kindBytes:
		return f.text
	case kindInt:
		return f.integer
	case kindBool:
		return f.integer != 0
	case kindFloat:
		if f.real-f.real != 0 { // JSON has no infinities and no NaN.
			return strconv.FormatFloat(f.real, 'g', -1, 64)
		}
		return f.real
	case kindJSON:
		return json.RawMessage(f.text)
	}
	return nil
}
