package nuclioadapter

import (
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// Bytes of the pieces that a stream is handed on in.
const streamPieceBytes = 64 << 10

// What the library was started with.
var started struct {
	entry    entry
	settings settings
}

// The workers, by the number that C knows them by less one: read for every event, so without a lock.
var (
	workers     atomic.Value // []*libraryWorker
	workersLock sync.Mutex
)

// The streams that are being sent, by the number that C knows them by.
var (
	streams     = map[uintptr]*libraryStream{}
	streamsLock sync.Mutex
	lastStream  uintptr
)

// libraryWorker is a worker and, while an event is in its handler, that event: records name it, and must not later.
type libraryWorker struct {
	*worker
	ref   uintptr
	lock  sync.Mutex
	event *rawEvent
	ended bool
}

// libraryStream is read ahead of the processor by a goroutine of its own: a call of the processor's that finds a piece
// costs nothing, while one that waits for it has its thread put to sleep and woken again.
type libraryStream struct {
	reader io.ReadCloser
	logger *eventLogger
	buffer unsafe.Pointer // of the piece that the processor has

	lock    sync.Mutex
	changed sync.Cond
	ahead   []byte // read, and not asked for yet
	err     error  // why no more comes
	ended   bool   // nobody asks any more
}

func goText(text rawText) string {
	return string(viewOf(text))
}

// viewOf shows bytes of the processor's without copying them.
func viewOf(text rawText) []byte {
	if text.len == 0 {
		return nil
	}
	return (*[1 << 40]byte)(unsafe.Pointer(text.ptr))[:text.len:text.len]
}

func pairsOf(pairs rawPairs) []rawPair {
	if pairs.len == 0 {
		return nil
	}
	return (*[1 << 30]rawPair)(unsafe.Pointer(pairs.items))[:pairs.len:pairs.len]
}

// What the runtime has chosen, before the function is initialized, which may choose otherwise.
var processorsAtFirst = runtime.GOMAXPROCS(0)

// LibraryStart finds the handler.
func LibraryStart(given, failed unsafe.Pointer) int32 {
	// A thread that comes from C and finds no processor (P) is put to sleep until the monitor has taken one from another
	// that is between two calls; half as many again are enough for that to be rare.
	if processors := runtime.GOMAXPROCS(0); processors == processorsAtFirst && os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS((3*processors + 1) / 2)
	}
	config := (*rawConfig)(given)
	entry, err := findEntry(goText(config.handler))
	if err != nil {
		return explain((*rawResponse)(failed), err)
	}
	started.entry = entry
	started.settings = settings{
		functionName:    goText(config.functionName),
		functionVersion: int(config.functionVersion),
		platformKind:    goText(config.platformKind),
		namespace:       goText(config.namespace),
	}
	return resultOK
}

// explain hands over why something did not start.
func explain(response *rawResponse, err error) int32 {
	fill(response, answer{body: bytesOf(err.Error())}, nil, 0)
	return resultError
}

// LibraryWorkerStart makes a worker; the number it returns is what C knows it by.
func LibraryWorkerStart(given, failed unsafe.Pointer) (number uintptr, result int32) {
	config := (*rawWorkerConfig)(given)
	settings := started.settings
	settings.workerID = int(config.workerID)
	settings.triggerKind = goText(config.triggerKind)
	settings.triggerName = goText(config.triggerName)
	this := &libraryWorker{ref: config.workerRef}
	worker, err := startWorker(started.entry, settings, this)
	if err != nil {
		this.end()
		return 0, explain((*rawResponse)(failed), err)
	}
	this.worker = worker
	workersLock.Lock()
	defer workersLock.Unlock()
	before, _ := workers.Load().([]*libraryWorker)
	now := append(append([]*libraryWorker{}, before...), this)
	workers.Store(now)
	return uintptr(len(now)), resultOK
}

func workerOf(number uintptr) *libraryWorker {
	return workers.Load().([]*libraryWorker)[number-1]
}

// LibraryWorkerStop ends a worker, which has no event.
func LibraryWorkerStop(number uintptr) {
	workerOf(number).end()
}

// end forbids further records: the processor's logger of the worker is gone.
func (w *libraryWorker) end() {
	w.lock.Lock()
	w.ended = true
	w.lock.Unlock()
}

func (w *libraryWorker) enter(event *rawEvent) {
	w.lock.Lock()
	w.event = event
	w.lock.Unlock()
}

// LibraryHandle calls the handler for one event. An answer that fits into the block is written there.
func LibraryHandle(number uintptr, given, filled, block unsafe.Pointer, room uintptr) int32 {
	this, raw, response := workerOf(number), (*rawEvent)(given), (*rawResponse)(filled)
	this.enter(raw)
	seen := &event{source: librarySource{raw}}
	answer := this.call(seen)
	seen.release()
	this.enter(nil)
	if answer.stream != nil {
		this.startStream(response, answer)
		return resultOK
	}
	fill(response, answer, block, uintptr(room))
	if answer.failed {
		return resultError
	}
	return resultOK
}

// fill writes an answer into memory of C's: into the block if there is room, else into one of its own.
func fill(response *rawResponse, answer answer, block unsafe.Pointer, room uintptr) {
	status := answer.status
	if status < 0 || status > math.MaxUint16 {
		status = math.MaxUint16 // The processor says that this is none.
	}
	response.status = uint16(status)
	const pairBytes = unsafe.Sizeof(rawPair{})
	size := uintptr(len(answer.headers))*pairBytes + uintptr(len(answer.contentType)) + uintptr(len(answer.body))
	for _, header := range answer.headers {
		size += uintptr(len(header.name) + len(header.value))
	}
	if size == 0 {
		return
	}
	if size > room {
		// Go's own malloc of C ends the process when memory is short; that is what a handler expects of memory.
		block = host.Allocate(uintptr(size))
	}
	response.owner = block
	response.release = host.ReleaseBlock
	memory := (*[1 << 40]byte)(block)[:size:size]
	used := uintptr(len(answer.headers)) * pairBytes
	put := func(bytes []byte) rawText {
		if len(bytes) == 0 {
			return rawText{}
		}
		copy(memory[used:], bytes)
		text := rawText{ptr: unsafe.Pointer(&memory[used]), len: uintptr(len(bytes))}
		used += uintptr(len(bytes))
		return text
	}
	if len(answer.headers) > 0 {
		pairs := (*[1 << 30]rawPair)(block)[:len(answer.headers):len(answer.headers)]
		for at, header := range answer.headers {
			pairs[at] = rawPair{name: put(bytesOf(header.name)), value: put(bytesOf(header.value))}
		}
		response.headers = rawPairs{items: block, len: uintptr(len(pairs))}
	}
	response.contentType = put(bytesOf(answer.contentType))
	response.body = put(answer.body)
}

// startStream hands over the head; the pieces are pulled. The head's texts live as long as the stream.
func (w *libraryWorker) startStream(response *rawResponse, answer answer) {
	stream := &libraryStream{reader: answer.stream, logger: w.logger}
	stream.changed.L = &stream.lock
	answer.stream = nil
	headBytes := len(answer.contentType)
	for _, header := range answer.headers {
		headBytes += len(header.name) + len(header.value) + int(unsafe.Sizeof(rawPair{}))
	}
	// One block: a piece, then the head.
	stream.buffer = host.Allocate(uintptr(streamPieceBytes + headBytes))
	fill(response, answer, unsafe.Pointer(uintptr(stream.buffer)+streamPieceBytes), uintptr(headBytes))
	streamsLock.Lock()
	lastStream++
	number := lastStream
	streams[number] = stream
	streamsLock.Unlock()
	response.flags |= rawStream
	response.setOwner(number)
	response.release = host.ReleaseStream
	response.next = host.NextPiece
	go stream.readAhead()
}

// LibraryStreamNext waits for the next piece of a streamed answer.
func LibraryStreamNext(number uintptr, chunk unsafe.Pointer) int32 {
	streamsLock.Lock()
	stream := streams[number]
	streamsLock.Unlock()
	piece, err := stream.next()
	switch {
	case len(piece) > 0:
		*(*rawText)(chunk) = rawText{ptr: stream.buffer, len: uintptr(len(piece))}
		return resultOK
	case err == io.EOF:
		return resultEnd
	}
	stream.logger.ErrorWith("Streamed answer broke off", "err", err)
	return resultError
}

// pieceBuffers are those of streams that have ended.
var pieceBuffers = sync.Pool{New: func() any { return new([streamPieceBytes]byte) }}

// readAhead reads until the end, at most a piece more than has been asked for.
func (s *libraryStream) readAhead() {
	buffer := pieceBuffers.Get().(*[streamPieceBytes]byte)
	defer pieceBuffers.Put(buffer)
	for {
		piece, err := readPiece(s.reader, buffer[:])
		s.lock.Lock()
		s.ahead, s.err = append(s.ahead, piece...), err
		s.changed.Broadcast()
		for len(s.ahead) >= streamPieceBytes && !s.ended {
			s.changed.Wait()
		}
		ended := s.ended || err != nil
		s.lock.Unlock()
		if ended {
			return
		}
	}
}

// next waits for a piece that is not empty, or tells the end.
func (s *libraryStream) next() ([]byte, error) {
	buffer := (*[1 << 40]byte)(s.buffer)[:streamPieceBytes:streamPieceBytes]
	s.lock.Lock()
	defer s.lock.Unlock()
	for len(s.ahead) == 0 {
		if s.err != nil {
			return nil, s.err
		}
		s.changed.Wait()
	}
	piece := buffer[:copy(buffer, s.ahead)]
	s.ahead = s.ahead[:copy(s.ahead, s.ahead[len(piece):])]
	s.changed.Broadcast()
	return piece, nil
}

// LibraryStreamRelease ends a stream, whole or not.
func LibraryStreamRelease(number uintptr) {
	streamsLock.Lock()
	stream := streams[number]
	delete(streams, number)
	streamsLock.Unlock()
	stream.lock.Lock()
	stream.ended = true
	stream.changed.Broadcast()
	stream.lock.Unlock()
	host.Free(stream.buffer)
	go closeQuietly(stream.reader) // The function's own code, which may take long.
}

func (w *libraryWorker) wants(level int) bool {
	w.lock.Lock()
	defer w.lock.Unlock()
	return !w.ended && host.LogLevel(w.ref, unsafe.Pointer(w.event)) <= uint32(level)
}

func (w *libraryWorker) write(level int, message string, fields []field) {
	texts := make([]byte, 0, len(message)+64*len(fields)+1)
	sizes := make([]uint64, 1, 1+3*len(fields))
	texts, sizes[0] = append(texts, message...), uint64(len(message))
	for _, field := range fields {
		texts = append(texts, field.name...)
		value := uint64(field.integer)
		switch field.kind {
		case kindText, kindJSON, kindBytes:
			texts, value = append(texts, field.text...), uint64(len(field.text))
		case kindFloat:
			value = math.Float64bits(field.real)
		}
		sizes = append(sizes, uint64(len(field.name)), uint64(field.kind), value)
	}
	texts = append(texts, 0) // Never empty, so that it has an address.
	w.lock.Lock()
	defer w.lock.Unlock()
	if !w.ended {
		host.Log(w.ref, unsafe.Pointer(w.event), uint32(level), &texts[0], &sizes[0], len(fields))
	}
}

// librarySource reads an event where the processor has it.
type librarySource struct{ event *rawEvent }

func (s librarySource) text(which int) string {
	event := s.event
	switch which {
	case textID:
		return goText(event.id)
	case textMethod:
		return goText(event.method)
	case textPath:
		return goText(event.path)
	case textQuery:
		return goText(event.query)
	case textURL:
		return goText(event.url)
	case textContentType:
		return goText(event.contentType)
	case textTopic:
		return goText(event.topic)
	case textType:
		return goText(event.typeName)
	case textTypeVersion:
		return goText(event.typeVersion)
	case textVersion:
		return goText(event.version)
	case textTriggerClass:
		return goText(event.triggerClass)
	case textTriggerKind:
		return goText(event.triggerKind)
	case textTriggerName:
		return goText(event.triggerName)
	}
	panic(fmt.Sprint("no text of an event: ", which))
}

// A copy: handlers keep bodies, and memory of the processor's must not be read after the call.
func (s librarySource) body() []byte { return append([]byte{}, viewOf(s.event.body)...) }

func (s librarySource) bodyIsJSON() bool { return s.event.flags&rawBodyJSON != 0 }

func (s librarySource) header(name string) (interface{}, bool) {
	for _, pair := range pairsOf(s.event.headers) {
		if int(pair.name.len) == len(name) && strings.EqualFold(goText(pair.name), name) {
			return goText(pair.value), true
		}
	}
	return nil, false
}

func (s librarySource) headers(each func(string, interface{})) {
	for _, pair := range pairsOf(s.event.headers) {
		each(goText(pair.name), goText(pair.value))
	}
}

func (s librarySource) fields(each func(name, value string)) {
	for _, pair := range pairsOf(rawFields(s.event)) {
		each(goText(pair.name), goText(pair.value))
	}
}

func (s librarySource) timestamp() time.Time {
	if s.event.timestampNanos == math.MinInt64 {
		return time.Time{}
	}
	return time.Unix(0, int64(s.event.timestampNanos)).UTC()
}

func (s librarySource) shard() (int, int) { return int(s.event.shardID), int(s.event.numShards) }

func (s librarySource) offset() int { return int(s.event.offset) }

func (s librarySource) lastInBatch() bool { return s.event.flags&rawLastInBatch != 0 }
