//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// maxHead bounds what is kept of a head whose end has not come.
const maxHead = 64 << 10

var (
	errHeadTooLong = fmt.Errorf("head longer than %d bytes", maxHead)
	errBadChunk    = errors.New("malformed chunk size")

	crlf    = []byte("\r\n")
	headEnd = []byte("\r\n\r\n")
)

// head is what matters of a request's or an answer's head.
type head struct {
	start     []byte // the request line or the status line
	length    int64  // of the body; -1 is not given
	chunked   bool
	close     bool // Connection: close
	keepAlive bool // Connection: keep-alive
	expect    bool // Expect: 100-continue
}

// parseHead reads the head at the start of b and returns its length with the
// empty line; 0 is that the end has not come yet. The result refers to b.
func parseHead(b []byte) (head, int, error) {
	h := head{length: -1}
	end := bytes.Index(b, headEnd)
	if end < 0 {
		if len(b) > maxHead {
			return h, 0, errHeadTooLong
		}
		return h, 0, nil
	}
	var rest []byte
	h.start, rest, _ = bytes.Cut(b[:end], crlf)
	for len(rest) > 0 {
		var line []byte
		line, rest, _ = bytes.Cut(rest, crlf)
		name, value, _ := bytes.Cut(line, []byte(":"))
		if err := h.field(name, bytes.TrimSpace(value)); err != nil {
			return h, 0, err
		}
	}
	return h, end + len(headEnd), nil
}

func (h *head) field(name, value []byte) error {
	// Most fields are told apart by their length alone.
	switch len(name) {
	case len("content-length"):
		if bytes.EqualFold(name, []byte("content-length")) {
			n, err := strconv.ParseUint(string(value), 10, 63)
			if err != nil {
				return fmt.Errorf("cannot read Content-Length: %w", err)
			}
			h.length = int64(n)
		}
	case len("transfer-encoding"):
		if bytes.EqualFold(name, []byte("transfer-encoding")) {
			h.chunked = bytes.EqualFold(value, []byte("chunked"))
		}
	case len("connection"):
		if bytes.EqualFold(name, []byte("connection")) {
			h.close = bytes.EqualFold(value, []byte("close"))
			h.keepAlive = bytes.EqualFold(value, []byte("keep-alive"))
		}
	case len("expect"):
		if bytes.EqualFold(name, []byte("expect")) {
			h.expect = bytes.EqualFold(value, []byte("100-continue"))
		}
	}
	return nil
}

// framing finds the end of a body in the bytes that carry it.
type framing struct {
	kind  framingKind
	part  chunkPart
	left  int64 // of the body, of the chunk's data, or of the size read so far
	line  int   // bytes on the trailer's line
	ended bool
}

type framingKind uint8

const (
	byLength framingKind = iota
	byChunks
	byClose // the body ends with the connection
)

type chunkPart uint8

const (
	chunkSize chunkPart = iota
	chunkExtension
	chunkData
	chunkDataEnd
	chunkTrailer
)

// maxChunk keeps a size from overflowing; no peer sends chunks that large.
const maxChunk = 1 << 50

// framing is how the body after h is framed; one that does not say is empty in
// a request and ends with the connection in an answer.
func (h *head) framing(otherwise framingKind) framing {
	switch {
	case h.chunked:
		return framing{kind: byChunks}
	case h.length >= 0:
		return framing{kind: byLength, left: h.length, ended: h.length == 0}
	}
	return framing{kind: otherwise, ended: otherwise == byLength}
}

// next splits b into a stretch of the body and what follows. Call it until
// rest is empty or the body has ended; what follows then is the next message's.
func (f *framing) next(b []byte) (data, rest []byte, err error) {
	switch f.kind {
	case byClose:
		return b, nil, nil
	case byLength:
		data, rest = f.take(b)
		f.ended = f.left == 0
		return data, rest, nil
	}
	for i := range b {
		if f.part == chunkData {
			data, rest = f.take(b[i:])
			if f.left == 0 {
				f.part = chunkDataEnd
			}
			return data, rest, nil
		}
		if err := f.step(b[i]); err != nil || f.ended {
			return nil, b[i+1:], err
		}
	}
	return nil, nil, nil
}

func (f *framing) take(b []byte) (data, rest []byte) {
	n := min(f.left, int64(len(b)))
	f.left -= n
	return b[:n], b[n:]
}

// step reads one byte of what is between the chunks' data.
func (f *framing) step(c byte) error {
	switch f.part {
	case chunkSize:
		digit, ok := hexDigit(c)
		switch {
		case ok && f.left < maxChunk:
			f.left = f.left<<4 | digit
		case ok:
			return errBadChunk
		case c == '\n':
			f.sizeRead()
		case c == ';' || c == '\r' || c == ' ':
			f.part = chunkExtension
		default:
			return errBadChunk
		}
	case chunkExtension:
		if c == '\n' {
			f.sizeRead()
		}
	case chunkDataEnd:
		if c == '\n' {
			f.part = chunkSize
		}
	case chunkTrailer:
		switch c {
		case '\n':
			f.ended = f.line == 0
			f.line = 0
		case '\r':
		default:
			f.line++
		}
	}
	return nil
}

func (f *framing) sizeRead() {
	f.part = chunkData
	if f.left == 0 {
		f.part, f.line = chunkTrailer, 0
	}
}

func hexDigit(c byte) (int64, bool) {
	switch {
	case '0' <= c && c <= '9':
		return int64(c - '0'), true
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return int64(c|0x20-'a') + 10, true
	}
	return 0, false
}
