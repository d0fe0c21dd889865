// All that the harness asks for; the path says what (see ../../workload.rs).
package main

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"time"

	"github.com/nuclio/nuclio-sdk-go"
)

var (
	hello = []byte("hello")
	piece = func() []byte {
		bytes := make([]byte, 1024)
		for at := range bytes {
			bytes[at] = 'x'
		}
		return bytes
	}()
)

// Empty says hello and looks at nothing.
func Empty(context *nuclio.Context, event nuclio.Event) (interface{}, error) {
	return hello, nil
}

// Work does what the path says.
func Work(context *nuclio.Context, event nuclio.Event) (interface{}, error) {
	switch event.GetPath() {
	case "/echo":
		return event.GetBody(), nil
	case "/cpu":
		burn(100 * time.Microsecond)
	case "/sleep":
		time.Sleep(10 * time.Millisecond)
	case "/log":
		context.Logger.Info("first")
		context.Logger.InfoWith("second", "number", 7)
		context.Logger.Info("third")
	case "/stream":
		stream := nuclio.NewResponseStream("text/plain", nil, 200)
		go pieces(stream.GetWriter())
		return stream, nil
	case "/detect":
		return detect(event.GetBody())
	}
	return hello, nil
}

func burn(length time.Duration) {
	for start := time.Now(); time.Since(start) < length; {
	}
}

func detect(body []byte) ([]byte, error) {
	var data struct{ Image string }
	if err := json.Unmarshal(body, &data); err != nil {
		return nil, err
	}
	if _, err := base64.StdEncoding.DecodeString(data.Image); err != nil {
		return nil, err
	}
	burn(20 * time.Millisecond)
	return []byte("[]"), nil
}

func pieces(to io.Writer) {
	if closer, ok := to.(io.Closer); ok {
		defer closer.Close()
	}
	for number := 0; number < 10; number++ {
		if _, err := to.Write(piece); err != nil {
			return
		}
	}
}
