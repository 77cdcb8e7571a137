package mockvllm

import (
	"bytes"
	"compress/gzip"
	"io"
	"strconv"
	"strings"
	"time"
)

// strikeEarly applies the faults that come before any answer. handled is true
// when the fault was the answer.
func (x *call) strikeEarly() (handled bool, err error) {
	_, later := x.fault.events()
	switch x.fault.name {
	case "refuse":
		x.e.refuse(x.fault.duration(time.Second))
		return true, x.breakOff(true)
	case "die":
		_ = x.breakOff(false)
		x.e.kill()
		if x.e.opt.OnDie != nil {
			x.e.opt.OnDie()
		}
		return true, errBroken
	case "hang":
		<-x.ctx.Done()
		return true, x.ctx.Err()
	case "reset", "fin":
		if !later {
			return true, x.breakOff(x.fault.is("reset"))
		}
	case "slow-headers":
		return false, x.sleep(x.fault.duration(time.Second))
	case "close-on-reuse":
		x.conn.doomed = true
	case "1xx":
		_, err = io.WriteString(x.conn.nc, "HTTP/1.1 102 Processing\r\n\r\n"+
			"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n")
		return false, err
	default:
		return x.strikeStatus()
	}
	return false, nil
}

// strikeStatus applies the faults that are an error answer.
func (x *call) strikeStatus() (handled bool, err error) {
	h := head{contentType: "application/json"}
	body := ""
	switch x.fault.name {
	case "503":
		h.status, body = 503, `{"error":"The model is currently scaling. Please try again later."}`
	case "429":
		if x.e.opt.Dialect == DialectTGI && tgiPost[x.req.URL.Path] != nil {
			return false, nil // TGI's answer depends on the request: see tgiEnter
		}
		h.status, body = 429, vllmError("Too many requests", "Too Many Requests", "", 429)
		if x.fault.arg != "" {
			h.extra = [][2]string{{"retry-after", x.fault.arg}}
		}
	case "401":
		h.status, body = 401, `{"error":"Unauthorized"}`
	case "404":
		h.status, body = 404, vllmError("The model has been unloaded.", "NotFoundError", "model", 404)
	case "500-empty":
		h.status, h.contentType = 500, ""
	case "500-text":
		h.status, h.contentType, body = 500, "text/plain; charset=utf-8", "Internal Server Error"
	case "500-json":
		h.status, body = 500, vllmError("Internal server error", "InternalServerError", "", 500)
	case "500-engine-dead":
		h.status, body = 500, vllmError("EngineCore encountered an issue. See stack trace (above) for the root cause.",
			"EngineDeadError", "", 500)
	default:
		return false, nil
	}
	x.fault.instead = true
	return true, x.whole(&h, []byte(body))
}

// breakOff ends the connection, with an RST or without.
func (x *call) breakOff(rst bool) error {
	x.settle()
	x.sent(0)
	if rst {
		reset(x.conn.nc)
	} else {
		_ = x.conn.nc.Close()
	}
	return errBroken
}

// refuse closes the listeners for d, and every idle connection with them.
func (e *Engine) refuse(d time.Duration) {
	e.mu.Lock()
	for _, g := range e.listeners {
		g.refuse(d)
	}
	e.mu.Unlock()
	e.closeIdle()
}

// whole writes an answer that is not a stream, with the faults that concern it.
func (x *call) whole(h *head, body []byte) error {
	x.decorate(h)
	if err := x.strikeWhole(h, &body); err != nil {
		return err
	}
	body = x.translate(h, body)
	x.settle()
	if !x.settled {
		return x.ctx.Err()
	}
	cut := false
	switch x.fault.name {
	case "truncated-json", "reset", "fin":
		cut = true
	case "wrong-length":
		h.length = max(1, len(body)+x.fault.number(-10))
		cut = h.length > len(body)
	case "gzip":
		var z bytes.Buffer
		zw := gzip.NewWriter(&z)
		_, _ = zw.Write(body)
		_ = zw.Close()
		body = z.Bytes()
	}
	if !cut {
		err := x.wire.send(h, body)
		x.sent(0)
		if x.fault.is("close-idle") {
			x.wire.closing = true
		}
		return err
	}
	if h.length == 0 {
		h.length, body = len(body), body[:len(body)/2]
	}
	_ = x.wire.send(h, body)
	return x.breakOff(x.fault.is("reset"))
}

// strikeWhole applies the faults of a whole answer that take time or replace
// it; the client may still go meanwhile.
func (x *call) strikeWhole(h *head, body *[]byte) error {
	switch x.fault.name {
	case "slow-first-token":
		return x.sleep(x.fault.duration(time.Second))
	case "error-event", "error-event-first":
		x.fault.instead = true
		h.status, *body = 500, []byte(vllmError("Internal server error", "InternalServerError", "", 500))
	case "stall":
		half := *h
		half.length = len(*body)
		if err := x.wire.send(&half, (*body)[:len(*body)/2]); err != nil {
			return err
		}
		x.wire.closing = true
		x.sent(0)
		if strings.Contains(x.fault.arg, ",") {
			_ = x.sleep(x.fault.duration(0))
			return x.breakOff(false)
		}
		<-x.ctx.Done()
		return x.ctx.Err()
	}
	return nil
}

// decorate adds the headers that a fault or the dialect wants.
func (x *call) decorate(h *head) {
	if other, ok := x.e.dialect.types[h.contentType]; ok {
		h.contentType = other
	}
	if x.wire.stack == stackHTTPLib {
		h.extra = append(h.extra, [2]string{"access-control-allow-origin", x.req.Header.Get("Origin")})
	}
	switch x.fault.name {
	case "huge-header":
		h.extra = append(h.extra, [2]string{"x-huge", strings.Repeat("h", x.fault.number(65536))})
	case "gzip":
		h.extra = append(h.extra, [2]string{"content-encoding", "gzip"})
	}
	if x.e.opt.RequestIDHeaders {
		h.extra = append(h.extra, [2]string{"x-request-id", x.id})
	}
}

// vllmError is an error body as vLLM's Python frontend writes it; an empty
// param is null.
func vllmError(message, kind, param string, code int) string {
	b := append([]byte(nil), `{"error":{"message":`...)
	b = appendString(b, message)
	b = append(b, `,"type":`...)
	b = appendString(b, kind)
	b = append(b, `,"param":`...)
	if param == "" {
		b = append(b, "null"...)
	} else {
		b = appendString(b, param)
	}
	b = append(b, `,"code":`...)
	b = strconv.AppendInt(b, int64(code), 10)
	return string(append(b, "}}"...))
}
