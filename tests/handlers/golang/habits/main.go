package main

import (
	"bytes"
	"fmt"
	"image"
	"image/png"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nuclio/nuclio-sdk-go"
)

var kept struct {
	sync.Mutex
	event nuclio.Event
	body  []byte
	calls int
}

// Handler does, by path, what functions in the wild do.
func Handler(context *nuclio.Context, event nuclio.Event) (interface{}, error) {
	switch event.GetPath() {
	case "/assert-strings":
		var seen []string
		for name, value := range event.GetHeaders() {
			seen = append(seen, name+"="+value.(string))
		}
		for name, value := range event.GetFields() {
			seen = append(seen, name+"="+value.(string))
		}
		return fmt.Sprint(len(seen), strings.Contains(strings.Join(seen, " "), "X-Abc=v")), nil
	case "/absent-header":
		return fmt.Sprint(event.GetHeader("X-None").([]byte) != nil, len(event.GetHeader("X-None").([]byte))), nil
	case "/both":
		return nuclio.Response{StatusCode: 201, Body: []byte("lost")}, fmt.Errorf("the error wins")
	case "/threads":
		// Each is blocked in a system call, so that another thread is needed for the next.
		for started := 0; started < 20; started++ {
			var ends [2]int
			if err := syscall.Pipe(ends[:]); err != nil {
				return nil, err
			}
			go syscall.Read(ends[0], make([]byte, 1))
		}
		return "started", nil
	case "/processors":
		return fmt.Sprint(runtime.GOMAXPROCS(0), " of ", runtime.NumCPU()), nil
	case "/zero":
		return nuclio.Response{}, nil
	case "/mixed-log":
		context.Logger.Info("x", "key", 1)
		context.Logger.InfoWith("odd", "key")
		context.Logger.GetChild("part").InfoWith("child", "err", os.ErrNotExist, "after", time.Second, "list", []int{1, 2})
		return "logged", nil
	case "/png":
		var picture bytes.Buffer
		err := png.Encode(&picture, image.NewGray(image.Rect(0, 0, 4, 4)))
		return nuclio.Response{Body: picture.Bytes(), ContentType: "image/png"}, err
	case "/file":
		return nuclio.Response{Headers: map[string]interface{}{"X-nuclio-filestream-path": string(event.GetBody())}}, nil
	case "/nil-dereference":
		var response *nuclio.Response
		return response.StatusCode, nil
	case "/leak":
		kept.Lock()
		kept.event, kept.body = event, event.GetBody()
		kept.Unlock()
		for count := 0; count < 100; count++ {
			go func() {
				time.Sleep(20 * time.Millisecond)
				context.Logger.Debug("late")
				select {}
			}()
		}
		return "leaked", nil
	case "/kept":
		kept.Lock()
		defer kept.Unlock()
		return fmt.Sprintf("%q %q %q", kept.event.GetPath(), kept.body, kept.event.GetHeaderString("Host")), nil
	case "/fatal":
		shared := map[int]int{}
		for {
			for count := 0; count < 4; count++ {
				go func() {
					for {
						shared[count]++
					}
				}()
			}
			time.Sleep(time.Second)
		}
	case "/exit":
		os.Exit(3)
	case "/call":
		answer, err := context.Platform.CallFunction("none", &nuclio.MemoryEvent{Path: "/", Body: []byte("x")})
		return answer, err
	case "/reader":
		return os.Open(string(event.GetBody()))
	case "/count":
		kept.Lock()
		defer kept.Unlock()
		kept.calls++
		return fmt.Sprint(kept.calls), nil
	}
	return fmt.Sprintf("%T", event.GetBodyObject()), nil
}

// HandlerWrong has results that only look right.
func HandlerWrong(context *nuclio.Context, event nuclio.Event) (string, error) {
	return "", nil
}

func handlerHidden(context *nuclio.Context, event nuclio.Event) (interface{}, error) {
	return nil, nil
}

func main() { fmt.Println("never run") }
