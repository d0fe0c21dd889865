package main

import (
	"github.com/nuclio/nuclio-sdk-go"
)

func Handler(context *nuclio.Context, event nuclio.Event) (interface{}, error) {
	context.Logger.Debug("d")
	context.Logger.InfoWith("i", "number", 1, "text", "grüß")
	context.Logger.Warn("w")
	context.Logger.Error("e")
	return "logged", nil
}
