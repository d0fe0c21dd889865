package nuclioadapter

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nuclio/logger"
)

// Levels, as both ways to the processor number them.
const (
	levelDebug = iota
	levelInfo
	levelWarn
	levelError
)

// Kinds of a field's value, as the handler ABI numbers them.
const (
	kindText  = 0
	kindInt   = 1
	kindFloat = 2
	kindBool  = 3
	kindJSON  = 4
	kindBytes = 5
	kindNull  = 6
)

// field of a record. Which member holds the value is said by kind.
type field struct {
	name    string
	kind    uint32
	text    string
	integer int64
	real    float64
}

// sink is a worker's way to the processor's log. It may be used at any time and from every goroutine.
type sink interface {
	wants(level int) bool
	write(level int, message string, fields []field)
}

// eventLogger is the logger of a context.
type eventLogger struct {
	sink sink
	name string
}

func (l *eventLogger) log(level int, format interface{}, vars []interface{}) {
	if l.sink.wants(level) {
		l.sink.write(level, message(format, vars), l.named(nil))
	}
}

func (l *eventLogger) logWith(level int, format interface{}, vars []interface{}) {
	if !l.sink.wants(level) {
		return
	}
	fields := make([]field, 0, len(vars)/2+1)
	for at := 0; at < len(vars); at += 2 {
		name, isText := vars[at].(string)
		if !isText {
			name = fmt.Sprint(vars[at])
		}
		if at+1 < len(vars) {
			fields = append(fields, fieldOf(name, vars[at+1]))
		} else {
			fields = append(fields, field{name: name, kind: kindNull})
		}
	}
	l.sink.write(level, message(format, nil), l.named(fields))
}

func (l *eventLogger) named(fields []field) []field {
	if l.name == "" {
		return fields
	}
	return append(fields, field{name: "logger", kind: kindText, text: l.name})
}

// message: what is given without values is no format.
func message(format interface{}, vars []interface{}) string {
	text, isText := format.(string)
	if !isText {
		text = fmt.Sprint(format)
	}
	if len(vars) == 0 {
		return text
	}
	return fmt.Sprintf(text, vars...)
}

func fieldOf(name string, value interface{}) field {
	text := func(text string) field { return field{name: name, kind: kindText, text: text} }
	integer := func(number int64) field { return field{name: name, kind: kindInt, integer: number} }
	switch typed := value.(type) {
	case nil:
		return field{name: name, kind: kindNull}
	case string:
		return text(typed)
	case bool:
		if typed {
			return field{name: name, kind: kindBool, integer: 1}
		}
		return field{name: name, kind: kindBool}
	case int:
		return integer(int64(typed))
	case int64:
		return integer(typed)
	case int32:
		return integer(int64(typed))
	case uint32:
		return integer(int64(typed))
	case float64:
		return field{name: name, kind: kindFloat, real: typed}
	case []byte:
		return field{name: name, kind: kindBytes, text: string(typed)}
	case time.Time:
		return text(typed.Format(time.RFC3339Nano))
	case error:
		return text(textOf(typed.Error))
	case fmt.Stringer:
		return text(textOf(typed.String))
	}
	encoded, err := json.Marshal(value)
	if err != nil {
		return text(fmt.Sprintf("%+v", value))
	}
	return field{name: name, kind: kindJSON, text: string(encoded)}
}

// textOf calls a method of a value that may be a nil pointer: logging it must not fail the event.
func textOf(method func() string) (text string) {
	defer func() {
		if value := recover(); value != nil {
			text = fmt.Sprintf("<%v>", value)
		}
	}()
	return method()
}

func (l *eventLogger) Error(format interface{}, vars ...interface{}) { l.log(levelError, format, vars) }
func (l *eventLogger) Warn(format interface{}, vars ...interface{})  { l.log(levelWarn, format, vars) }
func (l *eventLogger) Info(format interface{}, vars ...interface{})  { l.log(levelInfo, format, vars) }
func (l *eventLogger) Debug(format interface{}, vars ...interface{}) { l.log(levelDebug, format, vars) }

func (l *eventLogger) ErrorCtx(_ context.Context, format interface{}, vars ...interface{}) {
	l.log(levelError, format, vars)
}

func (l *eventLogger) WarnCtx(_ context.Context, format interface{}, vars ...interface{}) {
	l.log(levelWarn, format, vars)
}

func (l *eventLogger) InfoCtx(_ context.Context, format interface{}, vars ...interface{}) {
	l.log(levelInfo, format, vars)
}

func (l *eventLogger) DebugCtx(_ context.Context, format interface{}, vars ...interface{}) {
	l.log(levelDebug, format, vars)
}

func (l *eventLogger) ErrorWith(format interface{}, vars ...interface{}) {
	l.logWith(levelError, format, vars)
}

func (l *eventLogger) WarnWith(format interface{}, vars ...interface{}) {
	l.logWith(levelWarn, format, vars)
}

func (l *eventLogger) InfoWith(format interface{}, vars ...interface{}) {
	l.logWith(levelInfo, format, vars)
}

func (l *eventLogger) DebugWith(format interface{}, vars ...interface{}) {
	l.logWith(levelDebug, format, vars)
}

func (l *eventLogger) ErrorWithCtx(_ context.Context, format interface{}, vars ...interface{}) {
	l.logWith(levelError, format, vars)
}

func (l *eventLogger) WarnWithCtx(_ context.Context, format interface{}, vars ...interface{}) {
	l.logWith(levelWarn, format, vars)
}

func (l *eventLogger) InfoWithCtx(_ context.Context, format interface{}, vars ...interface{}) {
	l.logWith(levelInfo, format, vars)
}

func (l *eventLogger) DebugWithCtx(_ context.Context, format interface{}, vars ...interface{}) {
	l.logWith(levelDebug, format, vars)
}

// Flush does nothing: records are the processor's as soon as they are written.
func (l *eventLogger) Flush() {}

// GetChild names a part of the function; its records carry the name in the field "logger".
func (l *eventLogger) GetChild(name string) logger.Logger {
	if l.name != "" {
		name = l.name + "." + name
	}
	return &eventLogger{sink: l.sink, name: name}
}
