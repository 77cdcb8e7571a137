package mockvllm

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// States of an Entry.
const (
	StateQueued  = "queued"  // waiting to be scheduled, or not a generation at all
	StatePrefill = "prefill" // scheduled, no token yet
	StateDecode  = "decode"  // generating, or still writing the answer
	StateDone    = "done"    // the whole answer was written, whatever its status
	StateAborted = "aborted" // the client went first
	StateFaulted = "faulted" // an injected fault broke it off
)

// MethodTask is the Method of a row that is no request: the generation of a
// response made in the background.
const MethodTask = "TASK"

// Entry is one row of the ledger: what one request was and how it ended.
type Entry struct {
	Seq        uint64 `json:"seq"` // order of arrival, from 1
	Engine     string `json:"engine"`
	ID         string `json:"id"` // the engine's id, made from XRequestID
	XRequestID string `json:"x_request_id"`
	Method     string `json:"method"`
	Path       string `json:"path"` // with the query
	Host       string `json:"host"`
	Chunked    bool   `json:"chunked"` // the request's body came in chunks
	Model      string `json:"model"`
	Stream     bool   `json:"stream"`
	Tag        string `json:"tag"`
	Conn       uint64 `json:"conn"` // the connection it came on, from 1

	Arrived    time.Time `json:"arrived"`   // the header was read
	Scheduled  time.Time `json:"scheduled"` // left the waiting queue
	FirstToken time.Time `json:"first_token"`
	LastToken  time.Time `json:"last_token"`
	Done       time.Time `json:"done"`

	PromptTokens int   `json:"prompt_tokens"`
	CachedTokens int   `json:"cached_tokens"`
	Tokens       int   `json:"tokens"` // generated, over all choices
	Status       int   `json:"status"` // 0: no header was sent
	Events       int   `json:"events"` // SSE events written, [DONE] included
	Bytes        int64 `json:"bytes"`  // written to the connection, header and framing included

	State      string    `json:"state"`
	Aborted    time.Time `json:"aborted"`
	AbortPhase string    `json:"abort_phase"` // "body" (of the request), "queue", "prefill" (no token or event yet) or "decode"
	Fault      string    `json:"fault"`       // the injected fault, "" = none

	Header     http.Header `json:"header"` // as received, names in canonical form
	BodyBytes  int         `json:"body_bytes"`
	BodySHA256 string      `json:"body_sha256"` // hex; of forms, and of other bodies up to 1 MiB, "" beyond
	FileBytes  int64       `json:"file_bytes"`  // of the file in a form
}

// Ended tells whether the row will change no more.
func (e *Entry) Ended() bool { return !e.Done.IsZero() }

// ledger is a bounded ring of rows. A row is changed only under mu.
type ledger struct {
	mu      sync.Mutex
	rows    []*Entry // at most size, then a ring
	size    int
	next    uint64 // Seq of the newest row
	base    uint64 // rows forgotten by clear
	waiters map[*waiter]struct{}
}

type waiter struct {
	match func(Entry) bool
	found chan Entry
}

func newLedger(size int) *ledger {
	return &ledger{size: size, waiters: map[*waiter]struct{}{}}
}

// add appends a row, dropping the oldest when the ring is full.
func (l *ledger) add(e *Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next++
	e.Seq = l.next
	if len(l.rows) < l.size {
		l.rows = append(l.rows, e)
	} else {
		l.rows[(l.next-l.base-1)%uint64(l.size)] = e
	}
	l.tell(e)
}

// update changes a row and tells those who wait for it.
func (l *ledger) update(e *Entry, change func(*Entry)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(e)
	l.tell(e)
}

func (l *ledger) tell(e *Entry) {
	for w := range l.waiters {
		if w.match(*e) {
			w.found <- *e
			delete(l.waiters, w)
		}
	}
}

func (l *ledger) wait(ctx context.Context, match func(Entry) bool) (Entry, error) {
	w := &waiter{match: match, found: make(chan Entry, 1)}
	l.mu.Lock()
	for _, e := range l.ordered() {
		if match(*e) {
			defer l.mu.Unlock()
			return *e, nil
		}
	}
	l.waiters[w] = struct{}{}
	l.mu.Unlock()
	select {
	case e := <-w.found:
		return e, nil
	case <-ctx.Done():
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.waiters, w)
		return Entry{}, ctx.Err()
	}
}

// ordered returns the rows oldest first; mu is held.
func (l *ledger) ordered() []*Entry {
	if len(l.rows) < l.size {
		return l.rows
	}
	at := int((l.next - l.base) % uint64(l.size))
	return append(append(make([]*Entry, 0, l.size), l.rows[at:]...), l.rows[:at]...)
}

func (l *ledger) all() []Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	rows := l.ordered()
	out := make([]Entry, len(rows))
	for i, e := range rows {
		out[i] = *e
	}
	return out
}

func (l *ledger) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rows, l.base = nil, l.next
}
