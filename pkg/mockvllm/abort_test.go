package mockvllm

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestAbort lets the client go in every phase and in every way a connection can
// end: the row must name the phase and the slot must be free at once.
func TestAbort(t *testing.T) {
	leave := map[string]func(*net.TCPConn){
		"FIN":        func(c *net.TCPConn) { _ = c.Close() },
		"RST":        func(c *net.TCPConn) { reset(c) },
		"half-close": func(c *net.TCPConn) { _ = c.CloseWrite() },
	}
	phases := []struct{ phase, state, more string }{
		{"queue", StateQueued, ``},
		{"prefill", StatePrefill, `"mock_prefill_ms":60000`},
		{"decode", StateDecode, ``},
	}
	for how, goAway := range leave {
		for _, ph := range phases {
			for _, stream := range []string{`"stream":true`, `"stream":false`} {
				t.Run(ph.phase+"/"+how+"/"+stream, func(t *testing.T) {
					t.Parallel()
					e, addr := tcpEngine(t, Options{MaxNumSeqs: 1, StepBase: time.Millisecond})
					running := 0
					if ph.phase == "queue" {
						first := dial(t, addr)
						write(t, first, request(chatPath, chatBody(`"max_tokens":100000`)))
						await(t, e, "that occupies the slot", func(r Entry) bool { return r.State == StateDecode })
						running = 1
					}
					more := strings.TrimPrefix(ph.more+","+stream+`,"max_tokens":100000,"mock_tag":"me"`, ",")
					c := dial(t, addr)
					write(t, c, request(chatPath, chatBody(more)))
					await(t, e, "in the phase", func(r Entry) bool {
						events := r.Events > 0 || ph.phase != "decode" || stream != `"stream":true`
						return r.Tag == "me" && r.State == ph.state && events
					})
					left := time.Now()
					goAway(c)
					row := await(t, e, "aborted", func(r Entry) bool { return r.Tag == "me" && r.Ended() })
					if row.State != StateAborted || row.AbortPhase != ph.phase || row.Aborted.Before(left) {
						t.Errorf("row %+v", row)
					}
					if r, w, _ := e.Load(); r != running || w != 0 {
						t.Errorf("running %d, want %d; waiting %d", r, running, w)
					}
					if (ph.phase == "decode") != (row.Tokens > 0) {
						t.Errorf("%d tokens in phase %s", row.Tokens, ph.phase)
					}
				})
			}
		}
	}
}

// TestAbortWhileBodyArrives: a client that goes before its request is complete
// has cost no generation.
func TestAbortWhileBodyArrives(t *testing.T) {
	e, addr := tcpEngine(t, Options{})
	c := dial(t, addr)
	write(t, c, request(chatPath, chatBody(""))[:150])
	await(t, e, "opened", func(r Entry) bool { return true })
	_ = c.Close()
	row := await(t, e, "ended", func(r Entry) bool { return r.Ended() })
	if row.State != StateAborted || row.AbortPhase != "body" {
		t.Errorf("row %+v", row)
	}
}

// TestGoneAfterDone: a client that leaves as soon as it has read [DONE] was
// served; SDKs do so all the time.
func TestGoneAfterDone(t *testing.T) {
	e, addr := tcpEngine(t, Options{})
	for range 200 {
		c := dial(t, addr)
		write(t, c, request(chatPath, chatBody(`"stream":true`)))
		br := bufio.NewReader(c)
		for line := ""; line != "data: [DONE]\n"; {
			var err error
			if line, err = br.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
		reset(c)
	}
	for seq := uint64(1); seq <= 200; seq++ {
		r := await(t, e, "ended", func(r Entry) bool { return r.Seq == seq && r.Ended() })
		if r.State != StateDone {
			t.Fatalf("row %+v", r)
		}
	}
}

// TestKeepAlive: an idle connection lives exactly KeepAlive after the answer,
// however long the answer took, and any number of requests fit on it.
func TestKeepAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, dial := pipeEngine(Options{StepBase: time.Second})
		defer e.Close()
		c := dial()
		br := bufio.NewReader(c)
		for range 3 {
			go write(t, c, request(chatPath, chatBody(`"max_tokens":20`)))
			resp, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				t.Fatal(err)
			}
		}
		idle := time.Now()
		_, err := br.ReadByte()
		if got := time.Since(idle); err != io.EOF || got != 5*time.Second {
			t.Errorf("%v after %v, want EOF after 5s", err, got)
		}
	})
}

// TestPipelined: a second request on the wire is answered after the first.
func TestPipelined(t *testing.T) {
	_, addr := tcpEngine(t, Options{})
	got := exchange(t, addr, request(chatPath, chatBody("")+" ")+get("/health"))
	if n := strings.Count(got, "HTTP/1.1 200 OK\r\n"); n != 2 {
		t.Errorf("%d answers in %s", n, got)
	}
}

func write(t testing.TB, c net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Error(err)
	}
}
