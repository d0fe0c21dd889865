package main

import "github.com/nuclio/nuclio-sdk-go"

// Handler greets whoever the body names.
func Handler(context *nuclio.Context, event nuclio.Event) (interface{}, error) {
	if len(event.GetBody()) == 0 {
		return nil, nuclio.NewErrBadRequest("tell me your name")
	}
	context.Logger.InfoWith("Greeting", "bytes", len(event.GetBody()))
	return "Hello, " + string(event.GetBody()), nil
}
