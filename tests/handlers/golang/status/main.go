package main

import (
	"strconv"

	"github.com/nuclio/nuclio-sdk-go"
)

func Handler(context *nuclio.Context, event nuclio.Event) (interface{}, error) {
	status, err := strconv.Atoi(event.GetPath()[1:])
	return nuclio.Response{StatusCode: status, Body: []byte("as asked")}, err
}
