package app_test

import (
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
)

const (
	attackForm = "Content-Type: multipart/form-data; boundary=frontier\r\n"
	attackJSON = "Content-Type: application/json\r\n"
	// unkeyedBody is how much of a body is read of who has no key.
	unkeyedBody = 16 << 10
)

// unkeyed are requests without a key that do not end, up to where they must have
// been refused.
var unkeyed = []struct {
	name, raw string
	status    int
}{
	{"JSON", "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\n" + attackJSON + "Content-Length: 1000000\r\n\r\n", 401},
	{"JSON, just too much", "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\n" + attackJSON + "Content-Length: 16385\r\n\r\n", 401},
	{"JSON, as much as is allowed", "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\n" + attackJSON + "Content-Length: 33554432\r\n\r\n", 401},
	{"JSON, more", "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\n" + attackJSON + "Content-Length: 1000000000000\r\n\r\n", 413},
	{"JSON in chunks", "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\n" + attackJSON + "Transfer-Encoding: chunked\r\n\r\nSOME", 401},
	{"messages", "POST /v1/messages HTTP/1.1\r\nHost: g\r\n" + attackJSON + "Content-Length: 1000000\r\n\r\n", 401},
	{"a form", "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: g\r\n" + attackForm + "Content-Length: 1000000\r\n\r\n", 401},
	{"a form, more than a file's", "POST /v1/audio/translations HTTP/1.1\r\nHost: g\r\n" + attackForm + "Content-Length: 33000000\r\n\r\n", 401},
	{"a form in chunks", "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: g\r\n" + attackForm + "Transfer-Encoding: chunked\r\n\r\nSOME", 401},
	{"a form with a key that is none", "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: g\r\n" + attackBearer + attackDisabled + "\r\n" + attackForm + "Content-Length: 1000000\r\n\r\n", 401},
	{"a form with two keys", "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: g\r\n" + attackBearer + attackVictim + "\r\nX-Api-Key: x\r\n" + attackForm + "Content-Length: 1000000\r\n\r\n", 400},
	{"JSON where forms go", "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: g\r\n" + attackJSON + "Content-Length: 1000000\r\n\r\n", 401},
	{"JSON with a key that is none", "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\n" + attackBearer + "sk-x\r\n" + attackJSON + "Content-Length: 1000000\r\n\r\n", 401},
	{"JSON with two keys", "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\n" + attackBearer + attackVictim + "\r\nX-Api-Key: x\r\n" + attackJSON + "Content-Length: 1000000\r\n\r\n", 400},
	{"to /admin", "POST /admin/api-keys HTTP/1.1\r\nHost: g\r\n" + attackJSON + "Content-Length: 1000000\r\n\r\n", 413},
	{"to /admin in chunks", "POST /admin/api-keys HTTP/1.1\r\nHost: g\r\n" + attackJSON + "Transfer-Encoding: chunked\r\n\r\nSOME", 413},
	{"to nothing", "POST /nothing HTTP/1.1\r\nHost: g\r\n" + attackJSON + "Content-Length: 1000000\r\n\r\n", 404},

	{"JSON, asked for", "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nExpect: 100-continue\r\n" + attackJSON + "Content-Length: 10\r\n\r\n", 401},
	{"JSON in chunks, asked for", "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nExpect: 100-continue\r\n" + attackJSON + "Transfer-Encoding: chunked\r\n\r\n", 401},
	{"a form, asked for", "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: g\r\nExpect: 100-continue\r\n" + attackForm + "Content-Length: 1000\r\n\r\n", 401},
	{"a large form, asked for", "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: g\r\nExpect: 100-Continue\r\n" + attackForm + "Content-Length: 1000000\r\n\r\n", 401},
	{"a form in chunks, asked for", "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: g\r\nExpect: 100-continue\r\n" + attackForm + "Transfer-Encoding: chunked\r\n\r\n", 401},
	{"with a key that is none, asked for", "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nExpect: 100-continue\r\n" + attackBearer + attackExpired + "\r\n" + attackJSON + "Content-Length: 10\r\n\r\n", 401},
}

// fillSome puts a little more than unkeyedBody in the place of SOME.
func fillSome(raw string) string {
	return strings.Replace(raw, "SOME", itoa16(100<<10)+"\r\n"+strings.Repeat(" ", unkeyedBody+512), 1)
}

// TestAttackBodiesWithoutKey: who has no key is refused by the head of a request, or
// at the latest when 16 KiB of its body are there; nobody is asked for a body that
// will be refused, and none is kept on the disk.
func TestAttackBodiesWithoutKey(t *testing.T) {
	leavesNothing(t)
	dir := t.TempDir()
	s := startAttacked(t, fmt.Sprintf("server: {upload_dir: %q, max_body_size: 32MiB}\n", dir))
	for _, w := range unkeyed {
		t.Run(w.name, func(t *testing.T) {
			c := s.dial(t)
			defer c.Close()
			if err := c.SetReadDeadline(time.Now().Add(patience / 3)); err != nil {
				t.Fatal(err)
			}
			c.send(fillSome(w.raw))
			resp, err := http.ReadResponse(c.br, &http.Request{Method: "POST"})
			if n := openFiles(t, dir); n != 0 {
				t.Errorf("%d files", n)
			}
			if err != nil {
				t.Fatalf("not refused before its body is there: %v", err)
			}
			status, body := readAnswer(resp)
			if status != w.status || !resp.Close {
				t.Errorf("%d %s, want %d; closing: %t", status, body, w.status, resp.Close)
			}
		})
	}
	if n := len(s.engine.Ledger()); n != 0 {
		t.Errorf("the engine was asked %d times", n)
	}
	quiet(t, s.Gateway)
}

// TestAttackSlowBodies: who has no key and sends a small body byte by byte is cut
// off when body_timeout is over, and until then costs no more than a connection with
// that body.
func TestAttackSlowBodies(t *testing.T) {
	leavesNothing(t)
	const clients, each = 120, 64 << 10
	s := startAttacked(t, "server: {body_timeout: 5s, header_timeout: 5s}\n")
	begun := []string{
		strings.Replace(post(chatPath, ""), "Content-Length: 0", "Content-Length: 16384", 1) + strings.Repeat(" ", unkeyedBody-1),
		"POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nX: " + strings.Repeat("x", 8<<10),
	}
	var open []*rawClient
	before := heap()
	for i := range clients {
		c := s.dial(t)
		defer c.Close()
		c.send(begun[i%len(begun)])
		open = append(open, c)
	}
	apptest.Eventually(t, "all connections are there", func() bool { return s.Metric("llmproxy_connections_open") == clients })
	held := (heap() - before) / clients
	for _, c := range open {
		resp, body := c.answer("POST")
		if resp.StatusCode != 408 || !resp.Close {
			t.Fatalf("%d %s, closing: %t", resp.StatusCode, body, resp.Close)
		}
		c.Close()
	}
	t.Logf("%d bytes a client", held)
	if held > each {
		t.Errorf("a client without a key holds %d bytes, want at most %d", held, each)
	}
	quiet(t, s.Gateway)
}

// TestAttackFloods: large bodies of many clients without a key cost no memory, and
// who has a key is served in the meantime.
func TestAttackFloods(t *testing.T) {
	leavesNothing(t)
	const clients, size, each = 60, 4 << 20, 256 << 10
	s := startAttacked(t, "")
	length, chunks := strings.Replace(unkeyed[0].raw, "1000000", itoa(size), 1), strings.Replace(unkeyed[4].raw, "SOME", itoa16(size)+"\r\n", 1)
	form := strings.Replace(unkeyed[6].raw, "1000000", itoa(size), 1)
	body := []byte(strings.Repeat(" ", size))
	before := allocated()
	var work sync.WaitGroup
	for i := range clients {
		c := s.dial(t)
		c.send([]string{length, chunks, form}[i%3])
		work.Go(func() { _, _ = c.Write(body) }) // as much of it as is taken
		work.Go(func() {
			if resp, err := http.ReadResponse(c.br, nil); err != nil {
				t.Errorf("not refused: %v", err)
			} else if resp.StatusCode != 401 {
				t.Errorf("refused with %s", resp.Status)
			}
		})
	}
	if resp, answer, _ := s.try(t, post(chatPath, wholeChat, attackBearer+attackVictim)); resp.StatusCode != 200 {
		t.Errorf("who has a key: %d %s", resp.StatusCode, answer)
	}
	work.Wait()
	spent := (allocated() - before) / clients
	t.Logf("%d bytes were allocated for a client, which sent %d", spent, size)
	if spent > each {
		t.Errorf("%d bytes were allocated for a client without a key, want at most %d", spent, each)
	}
	quiet(t, s.Gateway)
}

// allocated is how many bytes have ever been.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}
