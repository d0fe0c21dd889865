package nuclioadapter

import (
	"fmt"
	"io"
)

// readPiece reads until there is something or an end. What the function's reader does wrong is an error here.
func readPiece(reader io.Reader, buffer []byte) (piece []byte, err error) {
	defer func() {
		if value := recover(); value != nil {
			piece, err = nil, fmt.Errorf("Caught panic: %s", value)
		}
	}()
	for tries := 0; tries < 100; tries++ {
		count, err := reader.Read(buffer)
		if count > 0 {
			return buffer[:count], nil
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, io.ErrNoProgress
}

// closeQuietly: nobody is left who could be told.
func closeQuietly(closer io.Closer) {
	defer func() { _ = recover() }()
	_ = closer.Close()
}
