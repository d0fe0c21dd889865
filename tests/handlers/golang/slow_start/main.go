package main

import (
	"time"

	"github.com/nuclio/nuclio-sdk-go"
)

func init() { time.Sleep(700 * time.Millisecond) }

// InitContext takes its time.
func InitContext(context *nuclio.Context) error {
	time.Sleep(300 * time.Millisecond)
	context.UserData = "ready"
	return nil
}

func Handler(context *nuclio.Context, event nuclio.Event) (interface{}, error) {
	return context.UserData, nil
}
