// Package library is the C side of a handler library: what the processor calls, and what calls the processor. A build
// puts it into the function's own package, because C can only be compiled in a folder that there is; everything else is
// in the adapter.
package library

// #cgo CFLAGS: -std=c11 -O2 -I${SRCDIR}/../../rust/include
// #cgo LDFLAGS: -Wl,--wrap=_cgo_try_pthread_create
// #include <stdlib.h>
// #include "nuclio_handler.h"
//
// void nuclio_go_release_block(void *owner);
// void nuclio_go_release_stream(void *owner);
// nh_result nuclio_go_next_piece(void *owner, nh_str *chunk);
// uint32_t nuclio_go_log_level(uintptr_t worker_ref, const nh_event *event);
// void nuclio_go_log(uintptr_t worker_ref, const nh_event *event, uint32_t level, const uint8_t *texts, const uint64_t *sizes,
//                    size_t n);
// nh_pairs nuclio_go_fields(const nh_event *event);
import "C"

import (
	"unsafe"

	nuclioProcessorAdapter "nuclio-processor/golang/adapter"
)

func init() {
	nuclioProcessorAdapter.UseHost(nuclioProcessorAdapter.Host{
		ReleaseBlock:  unsafe.Pointer(C.nuclio_go_release_block),
		ReleaseStream: unsafe.Pointer(C.nuclio_go_release_stream),
		NextPiece:     unsafe.Pointer(C.nuclio_go_next_piece),
		Allocate:      func(size uintptr) unsafe.Pointer { return C.malloc(C.size_t(size)) },
		Free:          func(memory unsafe.Pointer) { C.free(memory) },
		LogLevel: func(ref uintptr, event unsafe.Pointer) uint32 {
			return uint32(C.nuclio_go_log_level(C.uintptr_t(ref), (*C.nh_event)(event)))
		},
		Log: func(ref uintptr, event unsafe.Pointer, level uint32, texts *byte, sizes *uint64, fields int) {
			C.nuclio_go_log(C.uintptr_t(ref), (*C.nh_event)(event), C.uint32_t(level), (*C.uint8_t)(texts),
				(*C.uint64_t)(sizes), C.size_t(fields))
		},
		Fields: func(event unsafe.Pointer) (unsafe.Pointer, uintptr) {
			pairs := C.nuclio_go_fields((*C.nh_event)(event))
			return unsafe.Pointer(pairs.items), uintptr(pairs.len)
		},
	})
}

//export nuclioProcessorStart
func nuclioProcessorStart(config, failed unsafe.Pointer) C.nh_result {
	return C.nh_result(nuclioProcessorAdapter.LibraryStart(config, failed))
}

//export nuclioProcessorWorkerStart
func nuclioProcessorWorkerStart(config, failed unsafe.Pointer, number *C.uintptr_t) C.nh_result {
	worker, result := nuclioProcessorAdapter.LibraryWorkerStart(config, failed)
	*number = C.uintptr_t(worker)
	return C.nh_result(result)
}

//export nuclioProcessorHandle
func nuclioProcessorHandle(worker C.uintptr_t, event, response, block unsafe.Pointer, room C.size_t) C.nh_result {
	return C.nh_result(nuclioProcessorAdapter.LibraryHandle(uintptr(worker), event, response, block, uintptr(room)))
}

//export nuclioProcessorWorkerStop
func nuclioProcessorWorkerStop(worker C.uintptr_t) {
	nuclioProcessorAdapter.LibraryWorkerStop(uintptr(worker))
}

//export nuclioProcessorStreamNext
func nuclioProcessorStreamNext(stream C.uintptr_t, chunk unsafe.Pointer) C.nh_result {
	return C.nh_result(nuclioProcessorAdapter.LibraryStreamNext(uintptr(stream), chunk))
}

//export nuclioProcessorStreamRelease
func nuclioProcessorStreamRelease(stream C.uintptr_t) {
	nuclioProcessorAdapter.LibraryStreamRelease(uintptr(stream))
}
