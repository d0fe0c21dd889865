package main

import (
	"github.com/nuclio/nuclio-sdk-go"
)

func Handler(context *nuclio.Context, event nuclio.Event) (interface{}, error) {
	switch event.GetPath() {
	case "/throw":
		panic("thrown on purpose")
	case "/status":
		return nuclio.Response{StatusCode: 42, Body: []byte("x")}, nil
	case "/header":
		headers := map[string]interface{}{"bad name": "1", "X-Split": "a\r\nb: c"}
		return nuclio.Response{Body: []byte("x"), Headers: headers}, nil
	case "/text":
		return string([]rune{0xd800, '!'}), nil
	}
	return "well", nil
}
