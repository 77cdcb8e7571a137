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
	axum        bool        // TGI's header order, no server header
}

// wire writes one answer to a connection.
type wire struct {
	nc      net.Conn
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
	if !h.axum {
		b = append(b, "\r\ndate: "...)
		b = time.Now().UTC().AppendFormat(b, http.TimeFormat)
		b = append(b, "\r\nserver: uvicorn"...)
	}
	if length >= 0 && !h.axum {
		b = append(b, "\r\ncontent-length: "...)
		b = strconv.AppendInt(b, int64(length), 10)
	}
	if h.contentType != "" {
		b = append(b, "\r\ncontent-type: "...)
		b = append(b, h.contentType...)
	}
	for _, kv := range h.extra {
		b = append(b, "\r\n"...)
		b = append(b, kv[0]...)
		b = append(b, ": "...)
		b = append(b, kv[1]...)
	}
	if length >= 0 && h.axum {
		b = append(b, "\r\ncontent-length: "...)
		b = strconv.AppendInt(b, int64(length), 10)
	}
	if length < 0 && !w.http10 {
		b = append(b, "\r\ntransfer-encoding: chunked"...)
	}
	if w.closing {
		b = append(b, "\r\nconnection: close"...)
	}
	if h.axum {
		b = append(b, "\r\ndate: "...)
		b = time.Now().UTC().AppendFormat(b, http.TimeFormat)
	}
	return append(b, "\r\n\r\n"...)
}
