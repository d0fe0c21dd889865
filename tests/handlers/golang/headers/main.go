package main

import (
	"github.com/nuclio/nuclio-sdk-go"
)

func Handler(context *nuclio.Context, event nuclio.Event) (interface{}, error) {
	return nuclio.Response{
		Body:        []byte("<p>"),
		ContentType: "text/html",
		Headers: map[string]interface{}{
			"X-Seen":   event.GetHeaderString("X-Ask"),
			"X-Number": 7,
			"X-Twice":  []string{"a", "b"},
		},
	}, nil
}
