package app_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
)

// billingSecret signs the reports of these tests.
const billingSecret = "a secret of more than 16 bytes"

// mood is how a billing system answers. It returns true when it has taken the
// events, whatever it then let the sender know.
type mood func(w http.ResponseWriter, r *http.Request, events int) bool

// billing is a billing system that trusts nobody: of all that ever arrives it
// checks the signature, the order of what it takes, and that what comes again is
// the same bytes.
type billing struct {
	t    testing.TB
	addr string
	srv  *http.Server

	mu       sync.Mutex // guards what follows
	mood     mood
	attempts int
	repeated int // events that it had taken before
	node     string
	batches  map[string][sha256.Size]byte // what came under each Webhook-Id
	offered  map[string][sha256.Size]byte // and of each event, taken or not
	taken    map[string]usageEvent
	order    []string // ids, as they were first taken
}

func startBilling(t testing.TB) *billing {
	t.Helper()
	b := &billing{
		t: t, mood: takes,
		batches: map[string][sha256.Size]byte{}, offered: map[string][sha256.Size]byte{}, taken: map[string]usageEvent{},
	}
	apptest.Eventually(t, "the billing system has an address", func() bool {
		b.addr = fixedAddr(t)
		return b.open() == nil
	})
	t.Cleanup(b.close)
	return b
}

// open listens; before it, and after close, connections are refused.
func (b *billing) open() error {
	ln, err := net.Listen("tcp", b.addr)
	if err != nil {
		return err
	}
	b.srv = &http.Server{Handler: http.HandlerFunc(b.serve)}
	go b.srv.Serve(ln) // ends with close
	return nil
}

func (b *billing) close() { _ = b.srv.Close() }

// be changes the mood.
func (b *billing) be(m mood) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mood = m
}

func (b *billing) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the sender was killed in the middle of it
	}
	id := r.Header.Get("Webhook-Id")
	mac := hmac.New(sha256.New, []byte(billingSecret))
	fmt.Fprintf(mac, "%s.%s.%s", id, r.Header.Get("Webhook-Timestamp"), body)
	if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); r.Header.Get("Webhook-Signature") != want {
		b.t.Errorf("batch %s is signed %q, want %q", id, r.Header.Get("Webhook-Signature"), want)
	}
	var raw []json.RawMessage
	if err := json.Unmarshal(body, &raw); err != nil {
		b.t.Errorf("batch %s is no JSON: %v", id, err)
	}
	b.mu.Lock()
	b.attempts++
	mood := b.mood
	same(b.t, b.batches, id, body)
	for _, event := range raw {
		same(b.t, b.offered, eventOf(b.t, event).ID, event)
	}
	b.mu.Unlock()
	if !mood(w, r, len(raw)) {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, event := range raw {
		b.take(eventOf(b.t, event))
	}
}

// same wants what comes again under a name to be the same bytes.
func same(t testing.TB, seen map[string][sha256.Size]byte, name string, b []byte) {
	sum := sha256.Sum256(b)
	if before, ok := seen[name]; ok && before != sum {
		t.Errorf("%s came again as other bytes: %s", name, b)
	}
	seen[name] = sum
}

func eventOf(t testing.TB, raw []byte) (e usageEvent) {
	if err := json.Unmarshal(raw, &e); err != nil {
		t.Errorf("an event that is none: %v: %s", err, raw)
	}
	return e
}

// take keeps an event. Those it had not seen must come in the order of their
// numbers, with no number missing.
func (b *billing) take(e usageEvent) {
	if _, ok := b.taken[e.ID]; ok {
		b.repeated++
		return
	}
	if b.node == "" {
		b.node = e.Source
	}
	b.order = append(b.order, e.ID)
	if want := fmt.Sprintf("%020d", len(b.order)); e.Sequence != want || e.Source != b.node {
		b.t.Errorf("event %s of %s came as number %s of %s", e.Sequence, e.Source, want, b.node)
	}
	b.taken[e.ID] = e
}

// asked is how often a sender has come with a batch.
func (b *billing) asked() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.attempts
}

// count is the number of different events taken.
func (b *billing) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.taken)
}

func takes(w http.ResponseWriter, _ *http.Request, _ int) bool {
	w.WriteHeader(http.StatusOK)
	return true
}

// fails answers a status, with a Retry-After in seconds unless that is "".
func fails(status int, retryAfter string) mood {
	return func(w http.ResponseWriter, _ *http.Request, _ int) bool {
		if retryAfter != "" {
			w.Header().Set("Retry-After", retryAfter)
		}
		w.WriteHeader(status)
		return false
	}
}

// takesFew says of a batch of more events that it is too large.
func takesFew(most int) mood {
	return func(w http.ResponseWriter, r *http.Request, events int) bool {
		if events > most {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return false
		}
		return takes(w, r, events)
	}
}

// takesSlowly answers after d.
func takesSlowly(d time.Duration) mood {
	return func(w http.ResponseWriter, r *http.Request, events int) bool {
		<-time.After(d)
		return takes(w, r, events)
	}
}

// hangs never answers.
func hangs(_ http.ResponseWriter, r *http.Request, _ int) bool {
	<-r.Context().Done()
	return false
}

// resets breaks the connection after it has written a part of an answer; it has
// taken the events, and the sender may know or not.
func resets(part string) mood {
	return func(w http.ResponseWriter, _ *http.Request, _ int) bool {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return false
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, part)
		_ = conn.(*net.TCPConn).SetLinger(0)
		return true
	}
}
