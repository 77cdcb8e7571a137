package forward

import (
	"errors"
	"io"
)

// framing takes HTTP/1.1 message framing (RFC 9112, sections 6 and 7.1) off a
// response body, however its bytes are cut by the network.
type framing struct {
	left  int64 // bytes still to come of the body, or of the current chunk
	mode  int64 // chunked, toClose, or 0 for a known length
	state chunkState
	seen  int // bytes of the current size line or of the trailer
}

type chunkState uint8

const (
	chunkSize chunkState = iota
	chunkExtension
	chunkData
	chunkDataEnd // the line end after a chunk's data
	chunkTrailer
	chunkTrailerLine // inside a trailer line that is not empty
	bodyDone
)

const (
	maxChunkLine = 4 << 10
	maxTrailer   = 16 << 10
)

var (
	errChunk  = errors.New("malformed chunked body")
	errExcess = errors.New("bytes after the end of the body")
)

func (f *framing) reset(length int64) {
	*f = framing{left: length}
	switch {
	case length == chunked, length == toClose:
		f.mode, f.left = length, 0
	case length == 0:
		f.state = bodyDone
	}
}

func (f *framing) done() bool { return f.state == bodyDone }

// decode returns the payload in p, in one piece: the first run of data stays
// where it is, further ones are moved up behind it.
func (f *framing) decode(p []byte) ([]byte, error) {
	switch {
	case f.state == bodyDone:
		if len(p) > 0 {
			return nil, errExcess
		}
		return nil, nil
	case f.mode == chunked:
		return f.decodeChunks(p)
	case f.mode == toClose:
		return p, nil
	}
	if int64(len(p)) < f.left {
		f.left -= int64(len(p))
		return p, nil
	}
	out := p[:f.left]
	f.left = 0
	f.state = bodyDone
	if len(out) < len(p) {
		return out, errExcess
	}
	return out, nil
}

func (f *framing) decodeChunks(p []byte) (out []byte, err error) {
	i := 0
	for i < len(p) {
		switch f.state {
		case chunkData:
			run := p[i:]
			if int64(len(run)) > f.left {
				run = run[:f.left]
			}
			if out == nil {
				out = run
			} else {
				out = append(out, run...) // moves towards the front within p
			}
			i += len(run)
			f.left -= int64(len(run))
			if f.left == 0 {
				f.state = chunkDataEnd
			}
		case bodyDone:
			return out, errExcess
		default:
			if err := f.step(p[i]); err != nil {
				return out, err
			}
			i++
		}
	}
	return out, nil
}

// step takes one byte of framing.
func (f *framing) step(c byte) error {
	f.seen++
	switch f.state {
	case chunkSize:
		return f.sizeByte(c)
	case chunkExtension:
		if c == '\n' {
			f.endOfSize()
		} else if f.seen > maxChunkLine {
			return errChunk
		}
	case chunkDataEnd:
		if c == '\n' {
			f.state, f.seen = chunkSize, 0
		} else if c != '\r' || f.seen > 2 {
			return errChunk
		}
	case chunkTrailer, chunkTrailerLine:
		switch {
		case c == '\n' && f.state == chunkTrailer:
			f.state = bodyDone
		case c == '\n':
			f.state = chunkTrailer
		case c != '\r':
			f.state = chunkTrailerLine
		}
		if f.seen > maxTrailer {
			return errChunk
		}
	}
	return nil
}

func (f *framing) sizeByte(c byte) error {
	switch {
	case '0' <= c && c <= '9':
		f.left = f.left<<4 | int64(c-'0')
	case 'a' <= c && c <= 'f':
		f.left = f.left<<4 | int64(c-'a'+10)
	case 'A' <= c && c <= 'F':
		f.left = f.left<<4 | int64(c-'A'+10)
	case f.seen == 1:
		return errChunk // no digit at all
	case c == '\n':
		f.endOfSize()
		return nil
	case c == ';' || c == '\r' || c == ' ' || c == '\t':
		f.state = chunkExtension
		return nil
	default:
		return errChunk
	}
	if f.seen > 15 {
		return errChunk // more than any body can be
	}
	return nil
}

func (f *framing) endOfSize() {
	f.seen = 0
	if f.left == 0 {
		f.state = chunkTrailer
	} else {
		f.state = chunkData
	}
}

// end tells what the end of the connection means for the body.
func (f *framing) end() error {
	if f.mode == toClose || f.state == bodyDone {
		f.state = bodyDone
		return io.EOF
	}
	return io.ErrUnexpectedEOF
}

var lastChunk = []byte("0\r\n\r\n")

// frame makes one chunk of p, a part of buf's room, without moving it; and the
// body's last chunk behind it when it is the last.
func frame(buf *readBuffer, p []byte, last bool) []byte {
	const digits = "0123456789abcdef"
	begin := bufferSize - roomAfter - cap(p)
	end := begin + len(p)
	begin -= 2
	copy(buf[begin:], "\r\n")
	for n := len(p); n > 0; n >>= 4 {
		begin--
		buf[begin] = digits[n&15]
	}
	end += copy(buf[end:], "\r\n")
	if last {
		end += copy(buf[end:], lastChunk)
	}
	return buf[begin:end]
}
