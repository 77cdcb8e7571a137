package mockvllm

import (
	"bytes"
	"compress/gzip"
	"strings"
	"time"
)

// sse writes a stream of events, each as one HTTP chunk, with the faults that
// concern streams.
type sse struct {
	x      *call
	head   *head  // not sent yet
	prefix string // "data: " in vLLM, "data:" in TGI
	name   string // of the events, "" = they have none
	events int    // written
	buf    []byte
	zip    *gzip.Writer
	zipped bytes.Buffer
}

// open starts a stream, whose head is sent at once where the dialect does not
// hold it back for the first event.
func (x *call) open(h *head) (*sse, error) {
	x.decorate(h)
	h.extra = append(h.extra, x.e.dialect.extra...)
	s := &sse{x: x, head: h, prefix: x.e.dialect.prefix}
	x.out = s
	if x.fault.is("no-space") {
		s.prefix = "data:"
	}
	if x.fault.is("gzip") {
		s.zip = gzip.NewWriter(&s.zipped)
	}
	if !x.e.dialect.late {
		if err := s.begin(); err != nil {
			return nil, err
		}
	}
	return s, s.beforeFirst()
}

// begin sends the head unless that is done.
func (s *sse) begin() error {
	if s.head == nil {
		return nil
	}
	err := s.x.wire.start(s.head)
	s.head = nil
	s.x.sent(0)
	return err
}

// ping writes the comment of a silent stream; none comes before the head.
func (s *sse) ping() error {
	if s.head != nil {
		return nil
	}
	err := s.write(s.x.e.dialect.ping)
	s.x.sent(0)
	return err
}

// beforeFirst applies the faults between head and first event.
func (s *sse) beforeFirst() error {
	f := &s.x.fault
	switch f.name {
	case "slow-first-token":
		return s.x.sleep(f.duration(time.Second))
	case "comment":
		return s.write(": keep-alive\n\n")
	case "giant-event":
		n := f.number(1 << 20)
		return s.emit([]byte(`{"choices":[{"index":0,"delta":{"content":"` + strings.Repeat("g", n) + `"}}]}`))
	case "error-event-first":
		return s.fail()
	}
	return nil
}

// event writes one event, or what the fault makes of it.
func (s *sse) event(data []byte) error {
	f := &s.x.fault
	if k, ok := f.events(); ok && k == s.events {
		switch f.name {
		case "reset", "fin":
			return s.x.breakOff(f.is("reset"))
		case "stall":
			if !strings.Contains(f.arg, ",") {
				return pause[struct{}](s.x, nil)
			}
			if err := s.x.sleep(f.duration(0)); err != nil {
				return err
			}
		case "error-event":
			return s.fail()
		case "malformed-event":
			data = data[:len(data)/2]
		}
	}
	return s.emit(data)
}

// named writes one event of an API whose events have names.
func (s *sse) named(name string, data []byte) error {
	s.name = name
	return s.event(data)
}

// emit writes one event as it is.
func (s *sse) emit(data []byte) error {
	s.buf = s.buf[:0]
	if s.name != "" {
		s.buf = append(s.buf, strings.Replace(s.prefix, "data", "event", 1)...)
		s.buf = append(append(s.buf, s.name...), s.newline()...)
	}
	s.buf = append(s.buf, s.prefix...)
	if before, after, ok := bytes.Cut(data, []byte(",")); ok && s.x.fault.is("multi-line") {
		s.buf = append(append(append(s.buf, before...), ",\n"...), s.prefix...)
		data = after
	}
	s.buf = append(append(append(s.buf, data...), s.newline()...), s.newline()...)
	err := s.put(s.buf)
	s.events++
	s.x.sent(1)
	return err
}

func (s *sse) newline() string {
	if s.x.fault.is("crlf") {
		return "\r\n"
	}
	return "\n"
}

func (s *sse) write(text string) error { return s.put([]byte(text)) }

// put writes bytes of the stream as one chunk, or as many as the fault wants.
func (s *sse) put(p []byte) error {
	if err := s.begin(); err != nil {
		return err
	}
	if s.zip != nil {
		s.zipped.Reset()
		_, _ = s.zip.Write(p)
		_ = s.zip.Flush()
		return s.x.wire.chunk(s.zipped.Bytes())
	}
	if !s.x.fault.is("split-bytes") {
		return s.x.wire.chunk(p)
	}
	for i := range p {
		if err := s.x.wire.chunk(p[i : i+1]); err != nil {
			return err
		}
	}
	return nil
}

// fail ends the stream as most engines do when generation fails: with an error
// event and, all the same, [DONE].
func (s *sse) fail() error {
	s.x.fault.instead = true
	data, done := s.x.e.dialect.failure(s.x)
	if s.x.broken != nil {
		s.name, data = s.x.broken()
		done = false
	}
	if err := s.emit(data); err != nil {
		return err
	}
	if err := s.close(done); err != nil {
		return err
	}
	return errFailed
}

// close ends the stream, with [DONE] where the API has one. Nothing is left to
// abort from here on.
func (s *sse) close(done bool) error {
	s.x.settle()
	if !s.x.settled {
		return s.x.ctx.Err()
	}
	if done && !s.x.fault.is("no-done") {
		if err := s.emit([]byte("[DONE]")); err != nil {
			return err
		}
	}
	if s.zip != nil {
		s.zipped.Reset()
		_ = s.zip.Close()
		if err := s.x.wire.chunk(s.zipped.Bytes()); err != nil {
			return err
		}
	}
	err := s.x.wire.end()
	s.x.sent(0)
	if s.x.fault.is("close-idle") {
		s.x.wire.closing = true
	}
	return err
}
