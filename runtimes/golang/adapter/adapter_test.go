package nuclioadapter

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	nuclio "github.com/nuclio/nuclio-sdk-go"
)

// frameBytes is a frame as the processor writes it.
func frameBytes(kind, flags byte, code uint16, id uint32, head, body []byte) []byte {
	var out bytes.Buffer
	writer := &frameWriter{file: &out}
	writer.send(kind, flags, code, id, head, body)
	return out.Bytes()
}

// eventHead has the texts of an event, then pairs of headers and fields.
func eventHead(headers, fields int, texts ...string) []byte {
	head := make([]byte, eventFixedBytes)
	binary.LittleEndian.PutUint16(head[28:], uint16(headers))
	binary.LittleEndian.PutUint16(head[30:], uint16(fields))
	return append(head, table(texts...)...)
}

func TestFramesAreReadHoweverTheyAreCut(t *testing.T) {
	large := bytes.Repeat([]byte{'x'}, 3*readBytes)
	sent := append(frameBytes(frameEvent, 0, 3, 7, []byte("head"), []byte("body")), frameBytes(frameCancel, 0, 1, 9, nil, nil)...)
	sent = append(sent, frameBytes(frameEvent, 0, 0, 8, []byte("h"), large)...)
	for name, reader := range map[string]io.Reader{
		"whole": bytes.NewReader(sent), "bytes": iotest.OneByteReader(bytes.NewReader(sent)),
		"halves": iotest.HalfReader(bytes.NewReader(sent)),
	} {
		frames := newFrameReader(reader)
		first, err := frames.next()
		if err != nil || first.id != 7 || first.code != 3 || string(first.head) != "head" || string(first.body) != "body" {
			t.Fatalf("%s: %+v %v", name, first, err)
		}
		if second, err := frames.next(); err != nil || second.kind != frameCancel || second.id != 9 {
			t.Fatalf("%s: %+v %v", name, second, err)
		}
		if third, err := frames.next(); err != nil || !bytes.Equal(third.body, large) {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := frames.next(); err != io.EOF {
			t.Fatalf("%s: %v at the end", name, err)
		}
	}
}

func TestFramesThatAreCutShortOrImpossibleAreErrors(t *testing.T) {
	sent := frameBytes(frameEvent, 0, 0, 7, []byte("head"), []byte("body"))
	for length := 1; length < len(sent); length++ {
		if _, err := newFrameReader(bytes.NewReader(sent[:length])).next(); err == nil || err == io.EOF {
			t.Fatalf("%d bytes: %v", length, err)
		}
	}
	sent[12] = 200 // A head that is longer than the frame.
	if _, err := newFrameReader(bytes.NewReader(sent)).next(); err != errProtocol {
		t.Fatal(err)
	}
}

func TestValuesOfAnEvent(t *testing.T) {
	head := eventHead(2, 1, "id", "PUT", "/p", "q=1", "", "text/plain", "", "", "", "", "", "", "X-A", "1", "x-a", "2", "q", "1")
	source := &frameSource{frame: frame{head: head, body: []byte("b")}, trigger: triggerOfShim{"http", "mine"}}
	event := &event{source: source}
	if event.GetID() != "id" || event.GetMethod() != "PUT" || event.GetPath() != "/p" || string(event.GetBody()) != "b" {
		t.Fatalf("%+v", event)
	}
	if number, err := event.GetHeaderInt("x-A"); number != 1 || err != nil {
		t.Fatal(number, err)
	}
	if number, err := event.GetFieldInt("q"); number != 1 || err != nil {
		t.Fatal(number, err)
	}
	if trigger := event.GetTriggerInfo(); trigger.GetClass() != "sync" || trigger.GetName() != "mine" {
		t.Fatalf("%+v", trigger)
	}
	event.release()
	if event.GetPath() != "" || string(event.GetBody()) != "b" || len(event.GetHeaders()) != 0 {
		t.Fatal("an event that is over is empty but for what was read")
	}
}

func TestTypedValuesAndDamagedOnes(t *testing.T) {
	item := func(kind byte, bytes ...byte) []byte {
		head := []byte{kind, 0, 0, 0, 0}
		binary.LittleEndian.PutUint32(head[1:], uint32(len(bytes)))
		return append(head, bytes...)
	}
	if value, rest := typedValue(item('i', 7, 0, 0, 0, 0, 0, 0, 0)); value != 7 || len(rest) != 0 {
		t.Fatal(value)
	}
	value, _ := typedValue(item('m', append(item('s', 'a'), item('t', 1)...)...))
	if value.(map[string]interface{})["a"] != true {
		t.Fatal(value)
	}
	for _, damaged := range [][]byte{{}, {'s'}, {'s', 9, 0, 0, 0, 'x'}, {'l', 255, 255, 255, 255}} {
		if value, rest := typedValue(damaged); value != "" || rest != nil {
			t.Fatal(value, rest)
		}
	}
}

func TestAnswers(t *testing.T) {
	worker := &worker{context: &nuclio.Context{}, logger: &eventLogger{sink: silence{}}}
	var none *nuclio.Response
	for value, want := range map[interface{}]string{"text": "text", 42: "", none: "", nuclio.ErrGone: ""} {
		if got := worker.ofValue(value); string(got.body) != want || got.failed {
			t.Fatalf("%v: %+v", value, got)
		}
	}
	stream := nuclio.NewResponseStream("a/b", map[string]interface{}{"n": 7}, 201)
	for _, value := range []interface{}{stream, *stream} {
		if got := worker.ofValue(value); got.stream == nil || got.status != 201 || got.headers[0] != (header{"n", "7"}) {
			t.Fatalf("%+v", got)
		}
	}
	if got := worker.ofValue(os.Stdin); got.stream == nil {
		t.Fatalf("%+v", got)
	}
	worker.handler = func(*nuclio.Context, nuclio.Event) (interface{}, error) { panic(io.ErrNoProgress) }
	if got := worker.call(&event{}); !got.failed || !strings.HasPrefix(string(got.body), "Caught panic: multiple Read") {
		t.Fatalf("%+v", got)
	}
}

type silence struct{}

func (silence) wants(int) bool             { return true }
func (silence) write(int, string, []field) {}

func TestRecordsOfValuesThatCannotBeShown(t *testing.T) {
	var none *os.PathError
	for _, value := range []interface{}{none, make(chan int), func() {}, error(none)} {
		if field := fieldOf("v", value); field.kind != kindText || field.text == "" {
			t.Fatalf("%T: %+v", value, field)
		}
	}
}
