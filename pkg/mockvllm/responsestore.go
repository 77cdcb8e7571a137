package mockvllm

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// maxResponses bounds the responses an engine remembers; the oldest go.
const maxResponses = 1024

// responseStore holds the responses to continue or to ask for again. Its zero
// value is ready.
type responseStore struct {
	mu    sync.Mutex
	byID  map[string]*response
	order []string // of arrival
}

func (s *responseStore) put(r *response) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID == nil {
		s.byID = map[string]*response{}
	}
	if s.byID[r.id] == nil {
		s.order = append(s.order, r.id)
	}
	s.byID[r.id] = r
	if len(s.order) > maxResponses {
		delete(s.byID, s.order[0])
		s.order = s.order[1:]
	}
}

func (s *responseStore) get(id string) *response {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byID[id]
}

// task is a response being made with nobody waiting.
type task struct {
	cancel context.CancelFunc

	mu      sync.Mutex
	status  string // "queued" until it has ended, as in vLLM
	events  []namedEvent
	changed chan struct{} // closed at every change
	over    bool          // no more events
}

type namedEvent struct {
	name string
	data []byte
}

func (t *task) state() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.status
}

// change does something under the lock and tells those who wait.
func (t *task) change(do func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	do()
	close(t.changed)
	t.changed = make(chan struct{})
}

// end sets the status of a task that has not ended; false when it has.
func (t *task) end(status string) (first bool) {
	t.change(func() {
		if first = t.status == "queued"; first {
			t.status = status
		}
	})
	return first
}

// detach makes a call of the background for what outlives the request; its row
// is in no ledger yet.
func (x *call) detach(ctx context.Context, id string) *call {
	bg := &call{e: x.e, req: x.req, ctx: ctx, id: x.id, fault: x.fault, arrived: time.Now()}
	bg.entry = &Entry{
		Engine: x.entry.Engine, ID: id, XRequestID: x.entry.XRequestID, Method: MethodTask, Path: x.entry.Path,
		Model: x.entry.Model, Tag: x.entry.Tag, Arrived: bg.arrived, State: StateQueued,
	}
	bg.stop = context.AfterFunc(ctx, func() { bg.gone("") })
	return bg
}

// complete makes a response of the background until it is done or cancelled.
func (r *response) complete(bg *call) {
	defer r.kept.cancel()
	defer r.kept.change(func() { r.kept.over = true })
	var err error
	if r.stream {
		w := &responseWriter{response: r, emit: func(name string, data []byte) error {
			if name == "response.completed" {
				r.kept.end(r.outcome())
			}
			r.kept.change(func() { r.kept.events = append(r.kept.events, namedEvent{name, data}) })
			return nil
		}}
		err = w.write()
	} else if err = r.wait(); err == nil {
		r.kept.end(r.outcome())
	}
	if err != nil {
		bg.gone("")
		return
	}
	bg.settle()
	bg.finish(StateDone)
}

// storedResponse answers GET /v1/responses/{id} and POST /v1/responses/{id}/cancel,
// which are all that vLLM has below /v1/responses.
func (x *call) storedResponse() error {
	id, verb, deeper := strings.Cut(strings.TrimPrefix(x.req.URL.Path, "/v1/responses/"), "/")
	method := http.MethodGet
	if deeper {
		method = http.MethodPost
	}
	switch {
	case deeper && verb != "cancel":
		return x.refuse(notFound())
	case x.req.Method != method:
		return x.notAllowed(method)
	}
	r := x.e.responses.get(id)
	if r == nil {
		return x.refuse(noResponse(id))
	}
	x.set(func(row *Entry) { row.ID, row.Model = id, r.model })
	if deeper {
		if r.kept == nil || !r.kept.end("cancelled") {
			return x.refuse(&apiError{400, vllmError("Cannot cancel a synchronous response.", "invalid_request_error", "response_id", 400)})
		}
		r.kept.cancel()
		return x.json(r.object("cancelled"))
	}
	query := x.req.URL.Query()
	if stream, _ := strconv.ParseBool(query.Get("stream")); !stream {
		return x.json(r.object(r.status()))
	}
	if r.kept == nil || !r.stream {
		return x.refuse(badRequest("response_id", "Unknown response_id: %s", id))
	}
	from := 0
	if after, err := strconv.Atoi(query.Get("starting_after")); err == nil {
		from = after + 1
	}
	return x.replay(r, from)
}

// replay streams the events of a background response, those to come included.
func (x *call) replay(r *response, from int) error {
	x.broken = func() (string, []byte) { return r.failed(from + x.out.events) }
	h := sseHead
	x.set(func(row *Entry) { row.Stream = true })
	out, err := x.open(&h)
	if err != nil {
		return err
	}
	for at := max(0, from); ; {
		r.kept.mu.Lock()
		events, changed, over := r.kept.events, r.kept.changed, r.kept.over
		r.kept.mu.Unlock()
		for ; at < len(events); at++ {
			if err := out.named(events[at].name, events[at].data); err != nil {
				return err
			}
		}
		if over {
			return out.close(false)
		}
		select {
		case <-changed:
		case <-x.ctx.Done():
			return x.ctx.Err()
		}
	}
}
