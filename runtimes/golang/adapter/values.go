package nuclioadapter

import (
	"encoding/binary"
	"math"
	"strings"
	"time"
)

// triggerOfShim is one of the function's triggers, as INIT lists them.
type triggerOfShim struct{ kind, name string }

// frameSource reads an event from its frame. Texts are split when the first one is asked for.
type frameSource struct {
	frame   frame
	trigger triggerOfShim
	texts   []string
	// Of TYPED frames: what is no text.
	typed map[int]interface{}
}

func (s *frameSource) number(offset int) int64 {
	return int64(binary.LittleEndian.Uint64(s.frame.head[offset:]))
}

func (s *frameSource) count(offset int) int {
	return int(binary.LittleEndian.Uint16(s.frame.head[offset:]))
}

func (s *frameSource) split() []string {
	if s.texts != nil {
		return s.texts
	}
	if rest := s.frame.head[eventFixedBytes:]; s.frame.flags&eventTyped == 0 {
		s.texts = strings.Split(string(rest), "\x00")
	} else {
		s.splitTyped(rest)
	}
	for wanted := eventTexts + 2*(s.count(28)+s.count(30)); len(s.texts) < wanted; {
		s.texts = append(s.texts, "")
	}
	return s.texts
}

func (s *frameSource) splitTyped(rest []byte) {
	s.typed = map[int]interface{}{}
	for len(rest) > 0 {
		var value interface{}
		value, rest = typedValue(rest)
		text, isText := value.(string)
		if !isText {
			s.typed[len(s.texts)] = value
		}
		s.texts = append(s.texts, text)
	}
}

// typedValue reads one item; a damaged one becomes an empty text and the last.
func typedValue(bytes []byte) (interface{}, []byte) {
	if len(bytes) < 5 {
		return "", nil
	}
	size := uint64(binary.LittleEndian.Uint32(bytes[1:]))
	if size > uint64(len(bytes)-5) {
		return "", nil
	}
	item, rest := bytes[5:5+size], bytes[5+size:]
	switch kind := bytes[0]; {
	case kind == 'i' && size == 8:
		return int(binary.LittleEndian.Uint64(item)), rest
	case kind == 'f' && size == 8:
		return math.Float64frombits(binary.LittleEndian.Uint64(item)), rest
	case kind == 't' && size == 1:
		return item[0] != 0, rest
	case kind == 'n':
		return nil, rest
	case kind == 'b':
		return append([]byte{}, item...), rest
	case kind == 'l' || kind == 'm':
		list := []interface{}{}
		for len(item) > 0 {
			var value interface{}
			value, item = typedValue(item)
			list = append(list, value)
		}
		if kind == 'l' {
			return list, rest
		}
		result := map[string]interface{}{}
		for at := 0; at+1 < len(list); at += 2 {
			name, _ := list[at].(string)
			result[name] = list[at+1]
		}
		return result, rest
	}
	return string(item), rest
}

func (s *frameSource) text(which int) string {
	switch which {
	case textTriggerClass:
		return s.class()
	case textTriggerKind:
		if kind := s.split()[10]; kind != "" {
			return kind
		}
		return s.trigger.kind
	case textTriggerName:
		if name := s.split()[11]; name != "" {
			return name
		}
		return s.trigger.name
	}
	return s.split()[which]
}

// class is not in the frame. An event with a kind of its own is a cloud event.
func (s *frameSource) class() string {
	switch {
	case s.split()[10] != "":
		return "unsupported"
	case s.trigger.kind == "http":
		return "sync"
	}
	return "async"
}

func (s *frameSource) body() []byte { return append([]byte{}, s.frame.body...) }

func (s *frameSource) bodyIsJSON() bool { return s.frame.flags&eventBodyJSON != 0 }

func (s *frameSource) header(name string) (value interface{}, found bool) {
	s.headers(func(other string, of interface{}) {
		if !found && strings.EqualFold(other, name) {
			value, found = of, true
		}
	})
	return value, found
}

func (s *frameSource) headers(each func(string, interface{})) {
	texts := s.split()
	for pair, at := s.count(28), eventTexts; pair > 0; pair, at = pair-1, at+2 {
		if value, isTyped := s.typed[at+1]; isTyped {
			each(texts[at], value)
		} else {
			each(texts[at], texts[at+1])
		}
	}
}

func (s *frameSource) fields(each func(name, value string)) {
	texts := s.split()
	for pair, at := s.count(30), eventTexts+2*s.count(28); pair > 0; pair, at = pair-1, at+2 {
		each(texts[at], texts[at+1])
	}
}

func (s *frameSource) timestamp() time.Time {
	micros := s.number(0)
	return time.Unix(micros/1e6, micros%1e6*1000).UTC()
}

func (s *frameSource) shard() (int, int) {
	return int(int32(binary.LittleEndian.Uint32(s.frame.head[16:]))), int(int32(binary.LittleEndian.Uint32(s.frame.head[20:])))
}

func (s *frameSource) offset() int { return int(s.number(8)) }

func (s *frameSource) lastInBatch() bool { return s.frame.flags&eventLast != 0 }
