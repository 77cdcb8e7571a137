package mockvllm

import (
	"net"
	"net/http"
	"strconv"
	"time"
)

// head is the beginning of an answer.
type head struct {
	status      int
	contentType string
	extra       [][2]string // further headers, names in lower case
	length      int         // content-length to declare instead of the true one; 0 = the true one
}

// stack is the HTTP server whose headers are imitated.
type stack int

const (
	stackUvicorn stack = iota // of vLLM and SGLang
	stackAxum                 // of TGI and vLLM's Rust front end
	stackHTTPLib              // cpp-httplib, of llama.cpp
)

// wire writes one answer to a connection.
type wire struct {
	nc      net.Conn
	stack   stack
	http10  bool // no chunks: the body ends with the connection
	noBody  bool // the request was a HEAD
	closing bool // the connection ends after this answer
	status  int  // as sent, 0 = nothing sent
	bytes   int64
	buf     []byte
}

// send writes a whole answer in one write.
func (w *wire) send(h *head, body []byte) error {
	n := len(body)
	if h.length != 0 {
		n = h.length
	}
	w.buf = w.appendHead(w.buf[:0], h, n)
	if !w.noBody {
		w.buf = append(w.buf, body...)
	}
	return w.flush(h.status)
}

// start writes the head of a streamed answer.
func (w *wire) start(h *head) error {
	if w.http10 {
		w.closing = true
	}
	w.buf = w.appendHead(w.buf[:0], h, -1)
	return w.flush(h.status)
}

// chunk writes p as one HTTP chunk in one write.
func (w *wire) chunk(p []byte) error {
	if w.http10 {
		w.buf = append(w.buf[:0], p...)
		return w.flush(w.status)
	}
	w.buf = strconv.AppendInt(w.buf[:0], int64(len(p)), 16)
	w.buf = append(w.buf, "\r\n"...)
	w.buf = append(w.buf, p...)
	w.buf = append(w.buf, "\r\n"...)
	return w.flush(w.status)
}

// end writes the last chunk.
func (w *wire) end() error {
	if w.http10 {
		return nil
	}
	w.buf = append(w.buf[:0], "0\r\n\r\n"...)
	return w.flush(w.status)
}

func (w *wire) flush(status int) error {
	n, err := w.nc.Write(w.buf)
	w.bytes += int64(n)
	if n > 0 {
		w.status = status
	}
	if err != nil {
		w.closing = true
	}
	return err
}

// appendHead appends status line and headers; a negative length means chunks.
func (w *wire) appendHead(b []byte, h *head, length int) []byte {
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(h.status), 10)
	b = append(b, ' ')
	b = append(b, http.StatusText(h.status)...)
	switch w.stack {
	case stackUvicorn:
		b = w.appendDate(b)
		b = w.appendField(b, "server", "uvicorn")
		b = w.appendLength(b, length)
	case stackHTTPLib:
		b = w.appendField(b, "server", "llama.cpp")
		if !w.closing {
			b = w.appendField(b, "keep-alive", "timeout=5, max=100")
		}
	}
	if h.contentType != "" {
		b = w.appendField(b, "content-type", h.contentType)
	}
	for _, kv := range h.extra {
		b = w.appendField(b, kv[0], kv[1])
	}
	if w.stack != stackUvicorn {
		b = w.appendLength(b, length)
	}
	if length < 0 && !w.http10 {
		b = w.appendField(b, "transfer-encoding", "chunked")
	}
	if w.closing {
		b = w.appendField(b, "connection", "close")
	}
	if w.stack == stackAxum {
		b = w.appendDate(b)
	}
	return append(b, "\r\n\r\n"...)
}

func (w *wire) appendLength(b []byte, length int) []byte {
	if length < 0 {
		return b
	}
	return strconv.AppendInt(w.appendField(b, "content-length", ""), int64(length), 10)
}

func (w *wire) appendDate(b []byte) []byte {
	return time.Now().UTC().AppendFormat(w.appendField(b, "date", ""), http.TimeFormat)
}

// appendField appends a header; only cpp-httplib writes names in capitals.
func (w *wire) appendField(b []byte, name, value string) []byte {
	if w.stack == stackHTTPLib {
		name = http.CanonicalHeaderKey(name)
	}
	b = append(append(b, "\r\n"...), name...)
	return append(append(b, ": "...), value...)
}
