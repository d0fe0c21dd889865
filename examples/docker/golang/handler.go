package main

import "github.com/nuclio/nuclio-sdk-go"

// Handler answers every event.
func Handler(context *nuclio.Context, event nuclio.Event) (interface{}, error) {
	return "Hello from golang", nil
}
