package nuclioadapter

import (
	"encoding/binary"
	"errors"
	"io"
	"math"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Kinds of frames of shim protocol 2.
const (
	frameInit        = 0x01
	frameEvent       = 0x02
	frameCredit      = 0x04
	frameCancel      = 0x05
	frameHello       = 0x81
	frameReady       = 0x82
	frameAnswer      = 0x83
	frameData        = 0x84
	frameLog         = 0x86
	frameControlDone = 0x87
	frameControl     = 0x06
	frameFailed      = 0x8f

	flagSkippable = 0x80
)

// Flags of EVENT, ANSWER and DATA.
const (
	eventBodyJSON = 0x04
	eventLast     = 0x10
	eventTyped    = 0x20
	answerMore    = 0x01
	answerFailed  = 0x02
	dataEnd       = 0x01
	dataAbort     = 0x02
)

const (
	headerBytes     = 16
	eventFixedBytes = 32
	eventTexts      = 12
	// Frames that are not larger are read together with others.
	readBytes = 64 << 10
	// Bodies above go out on their own instead of being gathered.
	gatherBytes = 64 << 10
	// Records that gather while a handler runs.
	logBytes = 32 << 10
	logAfter = 100 * time.Millisecond
)

var errProtocol = errors.New("what the processor sent is no frame of shim protocol 2")

// frame as it came. Its head and body are good until the next one is read, unless it was too large for the buffer.
type frame struct {
	kind, flags byte
	code        uint16
	id          uint32
	head, body  []byte
}

// frameReader reads frames with as few system calls as there can be.
type frameReader struct {
	file       io.Reader
	buffer     []byte
	begin, end int
	sizeMax    uint64
}

func newFrameReader(file io.Reader) *frameReader {
	return &frameReader{file: file, buffer: make([]byte, readBytes), sizeMax: 1 << 30}
}

// ensure makes at least that many bytes available.
func (r *frameReader) ensure(count int) error {
	if r.end-r.begin >= count {
		return nil
	}
	if r.begin+count > len(r.buffer) {
		copy(r.buffer, r.buffer[r.begin:r.end])
		r.begin, r.end = 0, r.end-r.begin
	}
	for r.end-r.begin < count {
		read, err := r.file.Read(r.buffer[r.end:])
		if read <= 0 {
			if err == nil || r.end > r.begin && err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		r.end += read
	}
	return nil
}

// next waits for a frame. io.EOF: the processor is done with us.
func (r *frameReader) next() (frame, error) {
	if r.begin == r.end {
		r.begin, r.end = 0, 0
	}
	if err := r.ensure(headerBytes); err != nil {
		return frame{}, err
	}
	header := r.buffer[r.begin:]
	size, head := binary.LittleEndian.Uint32(header), binary.LittleEndian.Uint32(header[12:])
	result := frame{kind: header[4], flags: header[5], code: binary.LittleEndian.Uint16(header[6:]),
		id: binary.LittleEndian.Uint32(header[8:])}
	if head > size || uint64(size) > r.sizeMax || result.kind&0x80 != 0 {
		return frame{}, errProtocol
	}
	r.begin += headerBytes
	payload, err := r.payload(int(size))
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return frame{}, err
	}
	result.head, result.body = payload[:head:head], payload[head:]
	return result, nil
}

func (r *frameReader) payload(size int) ([]byte, error) {
	if size <= len(r.buffer) {
		if err := r.ensure(size); err != nil {
			return nil, err
		}
		r.begin += size
		return r.buffer[r.begin-size : r.begin : r.begin], nil
	}
	payload := make([]byte, size)
	had := copy(payload, r.buffer[r.begin:r.end])
	r.begin, r.end = 0, 0
	_, err := io.ReadFull(r.file, payload[had:])
	return payload, err
}

// frameWriter gathers frames and writes whole ones. It may be used from every goroutine.
type frameWriter struct {
	lock    sync.Mutex
	file    io.Writer
	out     []byte
	written time.Time
	// An event is in work, so that its answer takes the records along.
	busy bool
}

func (w *frameWriter) add(kind, flags byte, code uint16, id uint32, head, body []byte) {
	var header [headerBytes]byte
	binary.LittleEndian.PutUint32(header[:], uint32(len(head)+len(body)))
	header[4], header[5] = kind, flags
	binary.LittleEndian.PutUint16(header[6:], code)
	binary.LittleEndian.PutUint32(header[8:], id)
	binary.LittleEndian.PutUint32(header[12:], uint32(len(head)))
	w.out = append(append(w.out, header[:]...), head...)
	if len(body) <= gatherBytes {
		w.out = append(w.out, body...)
		return
	}
	w.flush()
	w.write(body)
}

// flush writes what has been gathered. A processor that is gone is noticed by the reader.
func (w *frameWriter) flush() {
	w.write(w.out)
	w.out = w.out[:0]
	if cap(w.out) > 4*gatherBytes {
		w.out = nil
	}
	w.written = time.Now()
}

func (w *frameWriter) write(bytes []byte) {
	if len(bytes) > 0 {
		_, _ = w.file.Write(bytes)
	}
}

// send writes one frame, and before it what has been gathered.
func (w *frameWriter) send(kind, flags byte, code uint16, id uint32, head, body []byte) {
	w.lock.Lock()
	defer w.lock.Unlock()
	w.add(kind, flags, code, id, head, body)
	w.flush()
}

// log gathers a record; what matters, what has waited, and what no answer takes along goes out at once.
func (w *frameWriter) log(level int, id uint32, message string, fields []byte) {
	head := make([]byte, 8, 8+len(message))
	binary.LittleEndian.PutUint64(head, uint64(time.Now().UnixNano()/1000))
	w.lock.Lock()
	defer w.lock.Unlock()
	w.add(frameLog, 0, uint16(level), id, append(head, message...), fields)
	if level >= levelWarn || !w.busy || len(w.out) > logBytes || time.Since(w.written) > logAfter {
		w.flush()
	}
}

func (w *frameWriter) setBusy(busy bool) {
	w.lock.Lock()
	w.busy = busy
	w.lock.Unlock()
}

// socket is the connection to the processor: a descriptor that blocks, because one thread waits cheapest that way.
type socket int

func (s socket) Read(buffer []byte) (int, error) {
	for {
		count, err := syscall.Read(int(s), buffer)
		if err == syscall.EINTR {
			continue
		}
		if count == 0 && err == nil {
			err = io.EOF
		}
		return count, err
	}
}

func (s socket) Write(bytes []byte) (int, error) {
	written := 0
	for written < len(bytes) {
		count, err := syscall.Write(int(s), bytes[written:])
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return written, err
		}
		written += count
	}
	return written, nil
}

// table joins texts as frames have them.
func table(texts ...string) []byte { return []byte(strings.Join(texts, "\x00")) }

func readPairs(head []byte) map[string]string {
	texts := strings.Split(string(head), "\x00")
	pairs := make(map[string]string, len(texts)/2)
	for at := 0; at+1 < len(texts); at += 2 {
		pairs[texts[at]] = texts[at+1]
	}
	return pairs
}

// answerHead is the head of ANSWER.
func answerHead(answer answer, took time.Duration) []byte {
	size := 8 + len(answer.contentType)
	for _, header := range answer.headers {
		size += len(header.name) + len(header.value) + 2
	}
	head := make([]byte, 8, size)
	micros := took / time.Microsecond
	if micros > math.MaxUint32 {
		micros = math.MaxUint32
	}
	binary.LittleEndian.PutUint32(head, uint32(micros))
	count := 0
	head = append(head, answer.contentType...)
	for _, header := range answer.headers {
		if strings.IndexByte(header.name, 0) >= 0 || strings.IndexByte(header.value, 0) >= 0 || count == math.MaxUint16 {
			continue // No header may hold a NUL.
		}
		count++
		head = append(append(append(append(head, 0), header.name...), 0), header.value...)
	}
	binary.LittleEndian.PutUint16(head[4:], uint16(count))
	return head
}
