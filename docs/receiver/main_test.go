package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/webhook"
)

const secret = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"

// request is one as LLMProxy sends it.
type request struct {
	header http.Header
	body   []byte
}

// sent has LLMProxy's own sender send events of these ids, in one batch.
func sent(t *testing.T, ids ...string) request {
	t.Helper()
	var got request
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got = request{r.Header.Clone(), body}
	}))
	defer server.Close()
	s, err := webhook.New(webhook.Config{
		URL: server.URL, Node: "gw", Secret: []byte(secret), MaxEvents: len(ids), DeadLetter: filepath.Join(t.TempDir(), "dead"),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	n := 0
	next := func(ctx context.Context) (webhook.Event, error) {
		if n == len(ids) {
			<-ctx.Done()
			return webhook.Event{}, ctx.Err()
		}
		n++
		data := fmt.Sprintf(`{"id":%q,"data":{"model":"m","prompt_tokens":1,"completion_tokens":2}}`, ids[n-1])
		return webhook.Event{Seq: uint64(n), ID: ids[n-1], Data: []byte(data)}, nil
	}
	if err := s.Run(ctx, next, func(uint64) error { stop(); return nil }); err != nil {
		t.Fatal(err)
	}
	return got
}

func opened(t *testing.T, dir string) *receiver {
	t.Helper()
	file := filepath.Join(dir, "hook.secret")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := open(file, filepath.Join(dir, "usage.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.file.Close() })
	return r
}

func (r *receiver) answer(q request) int {
	req := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(q.body))
	req.Header = q.header
	w := httptest.NewRecorder()
	r.ServeHTTP(w, req)
	return w.Code
}

// counted are the ids in the file.
func counted(t *testing.T, dir string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "usage.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for line := range strings.Lines(string(b)) {
		_, rest, _ := strings.Cut(line, `{"id":"`)
		id, _, _ := strings.Cut(rest, `"`)
		ids = append(ids, id)
	}
	return strings.Join(ids, " ")
}

func TestCountsEachEventOnce(t *testing.T) {
	dir := t.TempDir()
	r := opened(t, dir)
	both, more := sent(t, "a", "b"), sent(t, "b", "c", "c")
	for _, q := range []request{both, both, more} {
		if status := r.answer(q); status != http.StatusNoContent {
			t.Fatal(status)
		}
	}
	if got := counted(t, dir); got != "a b c" {
		t.Errorf("counted %s", got)
	}
}

// A crash comes between the first byte of a batch and the answer.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	r := opened(t, dir)
	r.answer(sent(t, "a"))
	whole, both := r.size, sent(t, "a", "b")
	r.answer(both)
	for size := r.size; size >= whole; size-- {
		if err := r.file.Truncate(size); err != nil {
			t.Fatal(err)
		}
		r = opened(t, dir)
		for range 2 {
			if status := r.answer(both); status != http.StatusNoContent {
				t.Fatal(status)
			}
		}
		if got := counted(t, dir); got != "a b" {
			t.Fatalf("cut at %d: counted %s", size, got)
		}
	}
}

func TestRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*request)
		want   int
	}{
		"an event for nothing":       {func(q *request) { q.body = bytes.ReplaceAll(q.body, []byte("2"), []byte("0")) }, 401},
		"another's batch id":         {func(q *request) { q.header.Set("Webhook-Id", "x") }, 401},
		"an old request, once more":  {func(q *request) { q.header.Set("Webhook-Timestamp", "1700000000") }, 401},
		"no signature":               {func(q *request) { q.header.Del("Webhook-Signature") }, 401},
		"a body without end":         {func(q *request) { q.body = make([]byte, 2<<20) }, 413},
		"the second of two is right": {func(q *request) { q.header.Set("Webhook-Signature", "v1,AAAA "+q.header.Get("Webhook-Signature")) }, 204},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			r := opened(t, dir)
			q := sent(t, "a")
			c.change(&q)
			if got := r.answer(q); got != c.want {
				t.Errorf("answered %d, want %d", got, c.want)
			}
			if got := counted(t, dir); (got != "") != (c.want == 204) {
				t.Errorf("counted %q", got)
			}
		})
	}
}

func TestAnswersThatKeepEvents(t *testing.T) {
	r := opened(t, t.TempDir())
	if got := r.answer(sent(t, "")); got != http.StatusBadRequest {
		t.Errorf("an event without an id: %d", got)
	}
	r.file.Close()
	if got := r.answer(sent(t, "a")); got != http.StatusInternalServerError || r.known["a"] {
		t.Errorf("a file that cannot be written: %d", got)
	}
}

func TestShortSecretIsRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("whsec_c2hvcnQ="), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open(file, filepath.Join(t.TempDir(), "usage.jsonl")); err == nil {
		t.Error("a secret that anybody could guess was taken")
	}
}
