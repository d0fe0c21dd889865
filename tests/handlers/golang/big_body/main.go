package main

import (
	"strconv"

	"github.com/nuclio/nuclio-sdk-go"
)

func Handler(context *nuclio.Context, event nuclio.Event) (interface{}, error) {
	if event.GetMethod() == "PUT" {
		return strconv.Itoa(len(event.GetBody())), nil
	}
	return event.GetBody(), nil
}
