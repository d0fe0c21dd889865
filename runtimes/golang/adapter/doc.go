// Package nuclioadapter stands between a function written for nuclio-sdk-go and the processor. It becomes part of the
// function's own module when that is built, so it keeps to what every version of the language since 1.16 has, and to
// the standard library and the SDK.
//
// handlers.go finds the handler, call.go calls it and makes an answer of what it returns, event.go and logger.go are
// what the function sees. library.go and library.c speak the handler ABI, shim.go and frames.go the shim protocol;
// a build takes one of the two.
package nuclioadapter
