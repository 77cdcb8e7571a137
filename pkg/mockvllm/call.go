package mockvllm

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// call is one request being answered.
type call struct {
	e    *Engine
	conn *conn
	req  *http.Request
	ctx  context.Context // ends when the client goes
	wire wire
	body []byte
	form *form // what a multipart body held besides text; nil = another body

	arrived time.Time // the header was read
	entry   *Entry    // changed through the ledger only
	id      string    // X-Request-Id or 32 hex digits: the tail of the engine's ids
	fault   fault
	native  bool // an engine's own API, not OpenAI's
	out     *sse // the stream, once it is open

	// broken is the last event of a generation that failed, where events have
	// names; nil = as the dialect has it.
	broken func() (name string, data []byte)

	stop    func() bool   // ends the watch for the client going
	settled bool          // the watch was ended in time
	wake    chan struct{} // a token has come

	mu   sync.Mutex  // guards what follows: the client may go at any time
	seqs []*sequence // the answers being generated
	left bool        // the client has gone
}

// errBroken ends a call whose fault has already broken the answer.
var errBroken = errors.New("broken by a fault")

// begin opens the row of the call.
func (x *call) begin() {
	h := x.req.Header
	rid := h.Get("X-Request-Id")
	x.id = rid
	if x.id == "" {
		var b [16]byte
		_, _ = rand.Read(b[:])
		x.id = hex.EncodeToString(b[:])
	}
	x.arrived = time.Now()
	x.entry = &Entry{
		Engine: x.e.opt.Name, XRequestID: rid, Method: x.req.Method, Host: x.req.Host, Path: x.req.URL.RequestURI(),
		Conn: x.conn.id, Arrived: x.arrived, State: StateQueued,
		Chunked: len(x.req.TransferEncoding) > 0, Header: h, Tag: h.Get("X-Mock-Tag"),
	}
	x.e.ledger.add(x.entry)
}

// readBody reads the request's body, after asking for it when the client waits
// to be asked.
func (x *call) readBody() error {
	if strings.EqualFold(x.req.Header.Get("Expect"), "100-continue") {
		if _, err := io.WriteString(x.conn.nc, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
			return err
		}
	}
	if b := x.boundary(); b != "" {
		x.form = &form{}
		return x.readForm(b)
	}
	var buf bytes.Buffer
	buf.Grow(int(min(max(x.req.ContentLength, 0), maxBody)) + bytes.MinRead)
	if _, err := buf.ReadFrom(io.LimitReader(x.req.Body, maxBody+1)); err != nil {
		return err
	}
	body := buf.Bytes()
	if len(body) > maxBody {
		return errors.New("body too large")
	}
	x.body = body
	x.set(func(r *Entry) {
		r.BodyBytes = len(body)
		if len(body) <= 1<<20 {
			sum := sha256.Sum256(body)
			r.BodySHA256 = hex.EncodeToString(sum[:])
		}
	})
	return nil
}

func (x *call) set(change func(*Entry)) { x.e.ledger.update(x.entry, change) }

// serve answers the call and closes its row.
func (x *call) serve() {
	x.stop = context.AfterFunc(x.ctx, func() { x.gone("") })
	err := x.route()
	switch {
	case errors.Is(err, errBroken):
		x.wire.closing = true
		x.finish(StateFaulted)
	case !x.settled && (err != nil || x.ctx.Err() != nil):
		// A write may fail before the end of the connection is read.
		x.wire.closing = true
		x.gone("")
	case x.fault.instead:
		x.settle()
		x.finish(StateFaulted)
	default:
		x.settle()
		x.finish(StateDone)
	}
	x.stop()
}

// settle marks the point from which nothing is left to abort: the client may go
// as soon as it has the last byte, and that is no abort.
func (x *call) settle() {
	if !x.settled {
		x.settled = x.stop()
	}
}

// finish closes the row, unless the client's going has done so.
func (x *call) finish(state string) {
	x.close(func(r *Entry) { r.State = state })
}

// gone closes the row because the client went. It may run at any time, also
// while an answer is being written. phase is what was going on, "" when the
// scheduler knows.
func (x *call) gone(phase string) {
	x.mu.Lock()
	x.left = true
	x.mu.Unlock()
	x.close(func(r *Entry) {
		r.State = StateAborted
		r.Aborted = time.Now()
		switch {
		case phase != "":
			r.AbortPhase = phase
		case !r.FirstToken.IsZero() && (r.Events > 0 || !r.Stream):
			r.AbortPhase = "decode"
		case !r.Scheduled.IsZero():
			r.AbortPhase = "prefill"
		default:
			r.AbortPhase = "queue"
		}
	})
}

// close frees the slots of the call and ends its row; only the first close of a
// row counts.
func (x *call) close(how func(*Entry)) {
	x.mu.Lock()
	seqs := x.seqs
	x.mu.Unlock()
	x.e.sched.abort(seqs)
	p := x.e.sched.progress(seqs)
	x.set(func(r *Entry) {
		if r.Ended() {
			return
		}
		r.Scheduled, r.FirstToken, r.LastToken = p.scheduled, p.first, p.last
		r.CachedTokens, r.Tokens = p.cached, p.produced
		how(r)
		r.Done = time.Now()
	})
}

// sent records in the row what has been written so far.
func (x *call) sent(events int) {
	x.set(func(r *Entry) {
		r.Status, r.Bytes = x.wire.status, x.wire.bytes
		r.Events += events
	})
}

// sleep waits for d; it fails when the client goes first.
func (x *call) sleep(d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	return pause(x, t.C)
}

// run queues the sequences of the call; false when the queue is full or nobody
// waits for them any more.
func (x *call) run(seqs []*sequence) bool {
	x.wake = make(chan struct{}, 1)
	for _, q := range seqs {
		q.wake = x.wake
		q.report = x.report
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.left || !x.e.sched.submit(seqs, x.e.opt.MaxQueued) {
		return false
	}
	x.seqs = seqs
	return true
}

// report notes in the row that a sequence of the call has been scheduled or has
// its first token. The scheduler calls it while it holds its lock.
func (x *call) report(state string, at time.Time) {
	x.set(func(r *Entry) {
		switch {
		case r.Ended():
		case state == StatePrefill && r.State == StateQueued:
			r.State, r.Scheduled = state, at
		case state == StateDecode && r.State != StateDecode:
			r.State, r.FirstToken = state, at
		}
	})
}

// more waits for the next token of any sequence of the call.
func (x *call) more() error { return pause(x, x.wake) }

// pause waits until something comes, or for ever from nil; it fails when the
// client goes first. An open stream gets comments meanwhile when the engine is
// to send them.
func pause[T any](x *call, until <-chan T) error {
	var silent <-chan time.Time
	if x.out != nil && x.e.opt.Comments > 0 {
		t := time.NewTicker(x.e.opt.Comments)
		defer t.Stop()
		silent = t.C
	}
	for {
		select {
		case <-until:
			return nil
		case <-silent:
			if err := x.out.ping(); err != nil {
				return err
			}
		case <-x.ctx.Done():
			return x.ctx.Err()
		}
	}
}
