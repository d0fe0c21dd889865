// The functions of ../../golang behind fasthttp alone, without workers: fasthttp PORT
package main

import (
	"fmt"
	"os"

	"github.com/nuclio/nuclio-sdk-go"
	"github.com/valyala/fasthttp"
)

type event struct {
	nuclio.AbstractEvent
	request *fasthttp.RequestCtx
}

func (e *event) GetBody() []byte   { return e.request.Request.Body() }
func (e *event) GetPath() string   { return string(e.request.Path()) }
func (e *event) GetMethod() string { return string(e.request.Method()) }

func main() {
	context := &nuclio.Context{}
	serve := func(request *fasthttp.RequestCtx) {
		function := Work
		if len(request.Path()) == 1 {
			function = Empty
		}
		answer, err := function(context, &event{request: request})
		if err != nil {
			request.Error(err.Error(), 500)
			return
		}
		request.SetContentType("text/plain; charset=utf-8")
		body, _ := answer.([]byte)
		request.SetBody(body)
	}
	server := &fasthttp.Server{Handler: serve, Name: "nuclio", MaxRequestBodySize: 64 << 20}
	if err := server.ListenAndServe("127.0.0.1:" + os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
