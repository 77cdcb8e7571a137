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
	prefix string // "data: " in vLLM, "data:" in TGI
	events int    // written
	buf    []byte
	zip    *gzip.Writer
	zipped bytes.Buffer
}

// open sends the head of the stream.
func (x *call) open(prefix string, h *head) (*sse, error) {
	x.decorate(h)
	s := &sse{x: x, prefix: prefix}
	if x.fault.is("no-space") {
		s.prefix = "data:"
	}
	if x.fault.is("gzip") {
		s.zip = gzip.NewWriter(&s.zipped)
	}
	err := x.wire.start(h)
	x.sent(0)
	if err != nil {
		return nil, err
	}
	return s, s.beforeFirst()
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
				<-s.x.ctx.Done()
				return s.x.ctx.Err()
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

// emit writes one event as it is.
func (s *sse) emit(data []byte) error {
	s.buf = append(s.buf[:0], s.prefix...)
	if before, after, ok := bytes.Cut(data, []byte(",")); ok && s.x.fault.is("multi-line") {
		s.buf = append(append(append(s.buf, before...), ",\n"...), s.prefix...)
		data = after
	}
	s.buf = append(s.buf, data...)
	if s.x.fault.is("crlf") {
		s.buf = append(s.buf, "\r\n\r\n"...)
	} else {
		s.buf = append(s.buf, "\n\n"...)
	}
	err := s.put(s.buf)
	s.events++
	s.x.sent(1)
	return err
}

func (s *sse) write(text string) error { return s.put([]byte(text)) }

// put writes bytes of the stream as one chunk, or as many as the fault wants.
func (s *sse) put(p []byte) error {
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

// fail ends the stream as both engines do when generation fails: with an error
// event and, all the same, [DONE].
func (s *sse) fail() error {
	s.x.fault.instead = true
	data := vllmError("Internal server error", "InternalServerError", "", 500)
	if s.x.e.opt.Dialect == DialectTGI {
		data = `{"error":{"message":"Request failed during generation: Server error: unknown","http_status_code":422}}`
		if s.x.native {
			data = `{"error":"Request failed during generation: Server error: unknown","error_type":"generation"}`
		}
	}
	if err := s.emit([]byte(data)); err != nil {
		return err
	}
	if err := s.close(!s.x.native); err != nil {
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
