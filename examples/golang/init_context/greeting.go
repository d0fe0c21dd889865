package main

import (
	"os"

	"github.com/nuclio/nuclio-sdk-go"
)

// InitContext runs once per worker, before its first event.
func InitContext(context *nuclio.Context) error {
	greeting := os.Getenv("GREETING")
	if greeting == "" {
		greeting = "Hello"
	}
	context.UserData = greeting
	return nil
}

// Handler uses what InitContext has made.
func Handler(context *nuclio.Context, event nuclio.Event) (interface{}, error) {
	return context.UserData.(string) + ", " + string(event.GetBody()), nil
}
