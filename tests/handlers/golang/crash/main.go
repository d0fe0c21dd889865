package main

import (
	"os"
	"syscall"

	"github.com/nuclio/nuclio-sdk-go"
)

func Handler(context *nuclio.Context, event nuclio.Event) (interface{}, error) {
	switch event.GetPath() {
	case "/exit":
		os.Exit(7)
	case "/signal":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	return "alive", nil
}
