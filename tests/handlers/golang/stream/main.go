package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/nuclio/nuclio-sdk-go"
)

func pieces(context *nuclio.Context, to *io.PipeWriter, path, file string) {
	defer context.Logger.Warn("stream closed")
	defer to.Close()
	for number := 0; ; number++ {
		piece := []byte(fmt.Sprintf("%d\n", number))
		if path == "/flood" {
			piece = bytes.Repeat([]byte{'x'}, 100000)
		}
		if _, err := to.Write(piece); err != nil {
			return
		}
		if path == "/five" && number == 4 {
			return
		}
		if path == "/broken" {
			if _, err := os.Stat(file); err == nil {
				to.CloseWithError(errors.New("broken on purpose"))
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
}

func Handler(context *nuclio.Context, event nuclio.Event) (interface{}, error) {
	headers := map[string]interface{}{"X-Kind": "pieces"}
	stream := nuclio.NewResponseStream("text/csv", headers, 201)
	go pieces(context, stream.GetWriter().(*io.PipeWriter), event.GetPath(), string(event.GetBody()))
	return stream, nil
}
