package nuclioadapter

import (
	"fmt"
	"io"
	"reflect"
	"runtime/debug"
	"strconv"
	"unsafe"

	nuclio "github.com/nuclio/nuclio-sdk-go"
)

// settings are what a worker is told when it starts.
type settings struct {
	functionName    string
	functionVersion int
	triggerKind     string
	triggerName     string
	workerID        int
	platformKind    string
	namespace       string
}

// worker calls the handler with the context that it keeps for all its events.
type worker struct {
	handler handlerFunction
	context *nuclio.Context
	logger  *eventLogger
}

// header is one header of an answer.
type header struct{ name, value string }

// answer is what becomes of an event, before it is in the form that its way back asks for.
type answer struct {
	failed      bool
	status      int
	contentType string
	headers     []header
	body        []byte
	// Instead of body: to be read to its end, and closed.
	stream io.ReadCloser
}

// startWorker makes the context and runs InitContext.
func startWorker(entry entry, settings settings, sink sink) (result *worker, err error) {
	logger := &eventLogger{sink: sink}
	platform, err := nuclio.NewPlatform(logger, settings.platformKind, settings.namespace)
	if err != nil {
		return nil, err
	}
	context := &nuclio.Context{
		Logger:          logger,
		Platform:        platform,
		WorkerID:        settings.workerID,
		FunctionName:    settings.functionName,
		FunctionVersion: settings.functionVersion,
		TriggerKind:     settings.triggerKind,
		TriggerName:     settings.triggerName,
	}
	if entry.init != nil {
		if err := guarded(logger, func() error { return entry.init(context) }); err != nil {
			return nil, fmt.Errorf("Failed to initialize context: %s", err)
		}
	}
	return &worker{handler: entry.handler, context: context, logger: logger}, nil
}

// guarded turns a panic into an error.
func guarded(logger *eventLogger, call func() error) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = fmt.Errorf("Caught panic: %s", value)
			logger.ErrorWith("Panic caught in InitContext", "err", err, "stack", string(debug.Stack()))
		}
	}()
	return call()
}

// call runs the handler for one event.
func (w *worker) call(event *event) (result answer) {
	defer func() {
		if value := recover(); value != nil {
			err := fmt.Errorf("Caught panic: %s", value)
			w.logger.ErrorWith("Panic caught in event handler", "err", err, "stack", string(debug.Stack()))
			result = failure(500, err.Error())
		}
	}()
	value, err := w.handler(w.context, event)
	if err != nil {
		return w.ofError(err)
	}
	return w.ofValue(value)
}

func failure(status int, text string) answer {
	return answer{failed: true, status: status, body: bytesOf(text)}
}

// ofError: only a status error itself has a status, not one that is wrapped in another. Its text is the whole answer.
func (w *worker) ofError(err error) answer {
	switch typed := err.(type) {
	case nuclio.ErrorWithStatusCode:
		return failure(typed.StatusCode(), typed.Error())
	case *nuclio.ErrorWithStatusCode:
		return failure(typed.StatusCode(), typed.Error())
	}
	return failure(500, err.Error())
}

// result is what answers of newer SDKs have in common. It is not named by the SDK's own name because older ones lack it.
type result interface {
	IsStream() bool
	GetHeaders() map[string]interface{}
	GetContentType() string
	GetStatusCode() int
	GetBody() interface{}
}

// ofValue: what is neither an answer nor bytes nor text becomes an empty body, as functions are used to.
func (w *worker) ofValue(value interface{}) answer {
	switch typed := value.(type) {
	case nil:
		return answer{}
	case nuclio.Response:
		return w.ofResponse(&typed)
	case *nuclio.Response:
		if typed == nil {
			return answer{}
		}
		return w.ofResponse(typed)
	case string:
		return answer{body: bytesOf(typed)}
	case []byte:
		return answer{body: typed}
	case result:
		if !reflect.ValueOf(value).IsNil() && typed.IsStream() {
			return w.ofStream(typed)
		}
	case io.ReadCloser:
		return answer{stream: typed}
	default:
		// A stream given by value: its methods are those of its pointer.
		if of := reflect.ValueOf(value); of.Kind() == reflect.Struct {
			pointer := reflect.New(of.Type())
			pointer.Elem().Set(of)
			if typed, fits := pointer.Interface().(result); fits && typed.IsStream() {
				return w.ofStream(typed)
			}
		}
	}
	return answer{}
}

func (w *worker) ofResponse(response *nuclio.Response) answer {
	return answer{
		status:      response.StatusCode,
		contentType: response.ContentType,
		headers:     headersOf(response.Headers),
		body:        response.Body,
	}
}

func (w *worker) ofStream(stream result) answer {
	body, fits := stream.GetBody().(io.ReadCloser)
	if !fits || body == nil {
		return failure(500, "the response stream has no reader")
	}
	return answer{
		status:      stream.GetStatusCode(),
		contentType: stream.GetContentType(),
		headers:     headersOf(stream.GetHeaders()),
		stream:      body,
	}
}

// headersOf: texts and integers are sent, lists of them repeat the header, other types are left out.
func headersOf(headers map[string]interface{}) []header {
	if len(headers) == 0 {
		return nil
	}
	result := make([]header, 0, len(headers))
	for name, value := range headers {
		switch typed := value.(type) {
		case []string:
			for _, value := range typed {
				result = append(result, header{name, value})
			}
		case []interface{}:
			for _, value := range typed {
				if text, fits := headerText(value); fits {
					result = append(result, header{name, text})
				}
			}
		default:
			if text, fits := headerText(value); fits {
				result = append(result, header{name, text})
			}
		}
	}
	return result
}

func headerText(value interface{}) (string, bool) {
	switch typed := value.(type) {
	case string:
		return typed, true
	case int:
		return strconv.Itoa(typed), true
	case int64:
		return strconv.FormatInt(typed, 10), true
	}
	return "", false
}

// bytesOf views a text as bytes, which nobody may write to.
func bytesOf(text string) []byte {
	if text == "" {
		return nil
	}
	return *(*[]byte)(unsafe.Pointer(&struct {
		string
		int
	}{text, len(text)}))
}
