package nuclioadapter

import "unsafe"

// The structs of nuclio_handler.h, as far as they are looked into. On the 64-bit machines that there is a processor for
// Go lays them out as C does; the sizes are checked below.

type rawText struct {
	ptr unsafe.Pointer
	len uintptr
}

type rawPair struct{ name, value rawText }

type rawPairs struct {
	items unsafe.Pointer
	len   uintptr
}

type rawEvent struct {
	size, flags                               uint32
	id, method, path, query, url, contentType rawText
	triggerClass, triggerKind, triggerName    rawText
	typeName, typeVersion, version, topic     rawText
	body                                      rawText
	headers                                   rawPairs
	timestampNanos, deadlineNanos             int64
	offset                                    int64
	shardID, numShards                        int32
	host                                      unsafe.Pointer
}

type rawResponse struct {
	size          uint32
	status, flags uint16
	contentType   rawText
	headers       rawPairs
	body          rawText
	owner         unsafe.Pointer
	release, next unsafe.Pointer
}

// setOwner puts a number where C has a pointer: nobody follows it.
func (r *rawResponse) setOwner(number uintptr) {
	*(*uintptr)(unsafe.Pointer(&r.owner)) = number
}

type rawConfig struct {
	size, reserved                                                uint32
	functionName, namespace, project, platformKind, handler, yaml rawText
	functionVersion                                               int64
}

type rawWorkerConfig struct {
	size                     uint32
	workerID                 int32
	triggerKind, triggerName rawText
	workerRef                uintptr
}

// The build fails on a size that differs.
var (
	_ [288]struct{} = [unsafe.Sizeof(rawEvent{})]struct{}{}
	_ [80]struct{}  = [unsafe.Sizeof(rawResponse{})]struct{}{}
	_ [112]struct{} = [unsafe.Sizeof(rawConfig{})]struct{}{}
	_ [48]struct{}  = [unsafe.Sizeof(rawWorkerConfig{})]struct{}{}
)

const (
	rawBodyJSON    = 1 << 1
	rawLastInBatch = 1 << 3
	rawStream      = 1 << 1

	resultOK    = 0
	resultEnd   = 1
	resultError = -1
)

// Host is what the C side offers: the processor's functions, and C's memory.
type Host struct {
	ReleaseBlock, ReleaseStream, NextPiece unsafe.Pointer
	Allocate                               func(size uintptr) unsafe.Pointer
	Free                                   func(memory unsafe.Pointer)
	LogLevel                               func(ref uintptr, event unsafe.Pointer) uint32
	Log                                    func(ref uintptr, event unsafe.Pointer, level uint32, texts *byte, sizes *uint64, fields int)
	Fields                                 func(event unsafe.Pointer) (items unsafe.Pointer, count uintptr)
}

var host Host

// UseHost is called once, before anything else.
func UseHost(given Host) { host = given }

func rawFields(event *rawEvent) rawPairs {
	items, count := host.Fields(unsafe.Pointer(event))
	return rawPairs{items: items, len: count}
}
