package main

import (
	"fmt"
	"time"

	"github.com/nuclio/nuclio-sdk-go"
)

// Handler answers at once and counts while the client listens.
func Handler(context *nuclio.Context, event nuclio.Event) (interface{}, error) {
	stream := nuclio.NewResponseStream("text/plain", nil, 200)
	go func() {
		defer stream.StopStreaming()
		for number := 1; number <= 5; number++ {
			if _, err := stream.SendChunk([]byte(fmt.Sprintln(number))); err != nil {
				return // The client has left.
			}
			time.Sleep(200 * time.Millisecond)
		}
	}()
	return stream, nil
}
