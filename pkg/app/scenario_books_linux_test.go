package app_test

import (
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"
)

// books are where a scenario's usage is reported to.
type books struct {
	mu      sync.Mutex // guards what follows
	asked   []time.Time
	answer  func(n int, r *http.Request) int // status of the nth delivery, from 1; nil: 200
	entries map[string]bookEntry
}

// bookEntry is what is read of a usage event.
type bookEntry struct {
	ID   string
	Data struct {
		KeyName    string `json:"key_name"`
		UserID     string `json:"user_id"`
		Model      string
		Served     string `json:"served_model"`
		Prompt     int    `json:"prompt_tokens"`
		Completion int    `json:"completion_tokens"`
		Total      int    `json:"total_tokens"`
		Estimated  bool   // the engine did not tell
	}
}

// hostOf is the name in a URL.
func hostOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return u.Hostname()
}

// openBooks receives reports at a URL, and nowhere else on its host.
func openBooks(t *testing.T, raw string) *books {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	port := u.Port()
	if port == "" {
		port = "80"
	}
	ln, err := net.Listen("tcp", u.Hostname()+":"+port)
	if err != nil {
		t.Fatal(err)
	}
	b := &books{entries: map[string]bookEntry{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+u.Path, func(w http.ResponseWriter, r *http.Request) { b.receive(t, w, r) })
	mux.HandleFunc("/", func(_ http.ResponseWriter, r *http.Request) { t.Errorf("%s %s was asked for", r.Method, r.URL) })
	srv := &http.Server{Handler: mux}
	go srv.Serve(ln) // ends with Close
	t.Cleanup(func() { srv.Close() })
	return b
}

func (b *books) receive(t *testing.T, w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // cut off, at the hook's timeout on a machine that is busy: it comes again
	}
	var batch []bookEntry
	if err := json.Unmarshal(body, &batch); err != nil {
		t.Errorf("a report that is no JSON: %v", err)
	}
	b.mu.Lock()
	b.asked = append(b.asked, time.Now())
	answer, n := b.answer, len(b.asked)
	b.mu.Unlock()
	status := http.StatusOK
	if answer != nil {
		status = answer(n, r)
	}
	if status != 0 {
		w.WriteHeader(status)
	}
	if status != http.StatusOK {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range batch {
		b.entries[e.ID] = e
	}
}

// answers changes what becomes of the deliveries.
func (b *books) answers(f func(n int, r *http.Request) int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answer = f
}

// deliveries are the moments at which one came.
func (b *books) deliveries() []time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]time.Time(nil), b.asked...)
}

// refuse fails a delivery and those that follow it at once, times in all, which
// may be a quarter of a second apart, and takes what comes after them.
func (b *books) refuse(t *testing.T, times int, ask func()) {
	t.Helper()
	before := len(b.deliveries())
	b.answers(func(n int, _ *http.Request) int {
		if n <= before+times {
			return http.StatusServiceUnavailable
		}
		return http.StatusOK
	})
	ask()
	growsTo(t, "deliveries", times+1, func() int { return len(b.deliveries()) - before })
	came := b.deliveries()[before:]
	for i := range times {
		if gap := came[i+1].Sub(came[i]); gap < 50*time.Millisecond || gap > 500*time.Millisecond {
			t.Errorf("delivery %d came %v after one that failed, want 50 to 250 ms", i+2, gap)
		}
	}
}

// all are the requests reported so far, by the gateway's id.
func (b *books) all() map[string]bookEntry {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.entries)
}

func (b *books) count() int { return len(b.all()) }
