package nuclioadapter

import (
	"encoding/json"
	"strconv"
	"sync"
	"time"

	nuclio "github.com/nuclio/nuclio-sdk-go"
)

// Texts of an event.
const (
	textID = iota
	textMethod
	textPath
	textQuery
	textURL
	textContentType
	textTopic
	textType
	textTypeVersion
	textVersion
	textTriggerClass
	textTriggerKind
	textTriggerName
)

// source is where an event's values lie, in memory that is the processor's or used again: good until the call is over.
type source interface {
	text(which int) string
	// Copied, or nobody else's.
	body() []byte
	// The body is the JSON text of a cloud event's data.
	bodyIsJSON() bool
	// The first value of a header, whatever the case of its name.
	header(name string) (value interface{}, found bool)
	headers(each func(name string, value interface{}))
	fields(each func(name, value string))
	timestamp() time.Time
	shard() (id, total int)
	offset() int
	lastInBatch() bool
}

// event is what the handler sees. Whoever keeps it longer than the call finds it empty, except for what has been read.
type event struct {
	nuclio.AbstractEvent
	lock    sync.Mutex
	source  source
	id      *nuclio.ID
	trigger nuclio.TriggerInfoProvider
	// Of the body, once it has been asked for.
	bodyRead   bool
	bodyBytes  []byte
	bodyObject interface{}
}

type triggerInfo struct{ class, kind, name string }

func (t triggerInfo) GetClass() string { return t.class }
func (t triggerInfo) GetKind() string  { return t.kind }
func (t triggerInfo) GetName() string  { return t.name }

// release ends the event: its values are not the handler's any more.
func (e *event) release() {
	e.lock.Lock()
	e.source = nil
	e.lock.Unlock()
}

// with gives the values, if they are still there.
func (e *event) with(read func(source)) {
	e.lock.Lock()
	defer e.lock.Unlock()
	if e.source != nil {
		read(e.source)
	}
}

func (e *event) text(which int) string {
	e.lock.Lock()
	defer e.lock.Unlock()
	if e.source == nil {
		return ""
	}
	return e.source.text(which)
}

func (e *event) GetID() nuclio.ID {
	if e.id != nil {
		return *e.id
	}
	return nuclio.ID(e.text(textID))
}

func (e *event) SetID(id nuclio.ID) { e.id = &id }

func (e *event) GetTriggerInfo() nuclio.TriggerInfoProvider {
	if e.trigger == nil {
		e.trigger = triggerInfo{e.text(textTriggerClass), e.text(textTriggerKind), e.text(textTriggerName)}
	}
	return e.trigger
}

func (e *event) SetTriggerInfoProvider(trigger nuclio.TriggerInfoProvider) { e.trigger = trigger }

func (e *event) GetContentType() string { return e.text(textContentType) }
func (e *event) GetPath() string        { return e.text(textPath) }
func (e *event) GetURL() string         { return e.text(textURL) }
func (e *event) GetMethod() string      { return e.text(textMethod) }
func (e *event) GetType() string        { return e.text(textType) }
func (e *event) GetTypeVersion() string { return e.text(textTypeVersion) }
func (e *event) GetVersion() string     { return e.text(textVersion) }
func (e *event) GetTopic() string       { return e.text(textTopic) }

// readBody splits what came into bytes and object: the data of a structured cloud event is bytes only if it is a text.
func (e *event) readBody() {
	if e.bodyRead || e.source == nil {
		return
	}
	e.bodyRead = true
	e.bodyBytes = e.source.body()
	e.bodyObject = e.bodyBytes
	if e.source.bodyIsJSON() {
		var data interface{}
		if json.Unmarshal(e.bodyBytes, &data) == nil {
			e.bodyBytes, e.bodyObject = nil, data
			if text, isText := data.(string); isText {
				e.bodyBytes = []byte(text)
			}
		}
	}
}

func (e *event) GetBody() []byte {
	e.lock.Lock()
	defer e.lock.Unlock()
	e.readBody()
	return e.bodyBytes
}

func (e *event) GetBodyObject() interface{} {
	e.lock.Lock()
	defer e.lock.Unlock()
	e.readBody()
	return e.bodyObject
}

// GetHeader gives bytes, as functions expect: empty ones for a header that is not there.
func (e *event) GetHeader(name string) interface{} {
	value, _ := e.headerValue(name)
	if text, isText := value.(string); isText {
		return []byte(text)
	}
	if value == nil {
		return []byte{}
	}
	return value
}

func (e *event) headerValue(name string) (value interface{}, found bool) {
	e.with(func(from source) { value, found = from.header(name) })
	return value, found
}

func (e *event) GetHeaderByteSlice(name string) []byte {
	return []byte(e.GetHeaderString(name))
}

func (e *event) GetHeaderString(name string) string {
	switch typed := e.header(name).(type) {
	case string:
		return typed
	case int:
		return strconv.Itoa(typed)
	}
	return ""
}

func (e *event) header(name string) interface{} {
	value, _ := e.headerValue(name)
	return value
}

func (e *event) GetHeaderInt(name string) (int, error) {
	switch typed := e.header(name).(type) {
	case string:
		return strconv.Atoi(typed)
	case int:
		return typed, nil
	}
	return 0, nuclio.ErrTypeConversion
}

func (e *event) GetHeaders() map[string]interface{} {
	headers := map[string]interface{}{}
	e.with(func(from source) {
		from.headers(func(name string, value interface{}) { headers[name] = value })
	})
	return headers
}

// GetField gives nothing, as it always has over HTTP.
func (e *event) GetField(string) interface{} { return nil }

func (e *event) field(wanted string) (value string, found bool) {
	e.with(func(from source) {
		from.fields(func(name, other string) {
			if !found && name == wanted {
				value, found = other, true
			}
		})
	})
	return value, found
}

func (e *event) GetFieldByteSlice(name string) []byte {
	if value, found := e.field(name); found {
		return []byte(value)
	}
	return nil
}

func (e *event) GetFieldString(name string) string {
	value, _ := e.field(name)
	return value
}

func (e *event) GetFieldInt(name string) (int, error) {
	value, _ := e.field(name)
	number, err := strconv.Atoi(value)
	if err != nil {
		return -1, err
	}
	return number, nil
}

func (e *event) GetFields() map[string]interface{} {
	fields := map[string]interface{}{}
	e.with(func(from source) {
		from.fields(func(name, value string) { fields[name] = value })
	})
	return fields
}

func (e *event) GetTimestamp() (time time.Time) {
	e.with(func(from source) { time = from.timestamp() })
	return time
}

func (e *event) GetShardID() (id int) {
	e.with(func(from source) { id, _ = from.shard() })
	return id
}

func (e *event) GetTotalNumShards() (total int) {
	e.with(func(from source) { _, total = from.shard() })
	return total
}

func (e *event) GetOffset() (offset int) {
	e.with(func(from source) { offset = from.offset() })
	return offset
}

func (e *event) GetLastInBatch() (last bool) {
	e.with(func(from source) { last = from.lastInBatch() })
	return last
}
