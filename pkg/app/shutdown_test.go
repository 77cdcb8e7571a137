package app_test

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
)

// startDraining runs a gateway over one engine that makes a token every 20 ms.
func startDraining(t *testing.T, server string) *gatewayProcess {
	t.Helper()
	engines := []*fakeEngine{startFakeEngine(t, "-itl", "20ms")}
	return startGateway(t, backendsYAML(engines)+"server: {"+server+"}\n")
}

// openStream starts a stream of so many tokens and returns what it comes to,
// once its first event is there.
func openStream(t *testing.T, g *gatewayProcess, tokens int) <-chan result {
	t.Helper()
	body := fmt.Sprintf(`{"model":"mock-model","messages":[{"role":"user","content":"hi"}],"max_tokens":%d,"stream":true}`, tokens)
	resp, err := g.client.Post(g.url+"/v1/chat/completions", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(resp.Body)
	if _, err := br.Peek(1); err != nil {
		t.Fatal(err)
	}
	end := make(chan result, 1)
	go func() {
		defer resp.Body.Close()
		r := judgeStream(br, tokens)
		r.ended = time.Now()
		end <- r
	}()
	return end
}

// keptAlive are connections that have had an answer and wait for the next
// request.
func keptAlive(t *testing.T, g *gatewayProcess, n int) []*rawClient {
	t.Helper()
	conns := make([]*rawClient, n)
	for i := range conns {
		conns[i] = dialRaw(t, g.addr)
		if status, closing := askAgain(conns[i]); status != 200 || closing {
			t.Fatalf("status %d, closing %t", status, closing)
		}
	}
	return conns
}

// askAgain sends a request and tells the status of the answer, and whether it says
// that it is the last of its connection.
func askAgain(c *rawClient) (status int, closing bool) {
	c.t.Helper()
	c.send(post("/v1/chat/completions", wholeChat))
	resp, _ := c.answer("POST")
	return resp.StatusCode, resp.Close
}

// await is what came out of a stream.
func await(t *testing.T, end <-chan result) result {
	t.Helper()
	select {
	case r := <-end:
		return r
	case <-time.After(patience):
		t.Fatal("a stream does not end")
		return result{}
	}
}

// TestSIGTERM: a gateway that is told to end is not ready at once, serves for
// as long as a load balancer takes to notice, lets streams run to their end if
// they are through in time, and tells those that are not.
func TestSIGTERM(t *testing.T) {
	leavesNothing(t)
	t.Run("all", func(t *testing.T) {
		t.Run("drains", func(t *testing.T) { together(t); drains(t) })
		t.Run("idle", func(t *testing.T) { together(t); endsIdle(t) })
		t.Run("twice", func(t *testing.T) { together(t); endsTwice(t) })
		t.Run("SIGKILL and restart", func(t *testing.T) { together(t); restartsAtOnce(t) })
	})
}

func drains(t *testing.T) {
	g := startDraining(t, "shutdown_delay: 1s, shutdown_timeout: 2s")
	l := startLoad(t, g.url, "mock-model", 50, 5)
	l.more(t, 50)
	conns := keptAlive(t, g, 5)
	var short, endless []<-chan result
	for range 5 {
		short = append(short, openStream(t, g, 75)) // 1.5 s
		endless = append(endless, openStream(t, g, 10000))
	}
	at := time.Now()
	g.signal(syscall.SIGTERM)
	apptest.Eventually(t, "not ready", func() bool { status, _ := g.get("/readyz"); return status == 503 })
	l.stop() // as the load balancer does
	if status, body := g.get("/healthz"); status != 200 {
		t.Errorf("not alive while it drains: %d %s", status, body)
	}
	for _, c := range conns {
		if status, closing := askAgain(c); status != 200 || !closing {
			t.Errorf("a request while it is not ready: status %d, Connection: close %t", status, closing)
		}
	}
	if counts, _ := l.finish(t); counts[served] != len(l.results) {
		t.Errorf("%d of %d requests were served", counts[served], len(l.results))
	}
	for _, end := range short {
		if r := await(t, end); r.verdict != served {
			t.Errorf("a stream that was through in time: %s: %s", verdictNames[r.verdict], r.detail)
		}
	}
	for _, end := range endless {
		r := await(t, end)
		if r.verdict != told || !strings.Contains(r.detail, `"code":"shutting_down"`) {
			t.Errorf("a stream that was not through in time: %s: %s", verdictNames[r.verdict], r.detail)
		}
		if took := r.ended.Sub(at); took < 3*time.Second {
			t.Errorf("a stream was cut after %v, before shutdown_delay and shutdown_timeout were over", took)
		}
	}
	if code := g.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	t.Logf("ended after %v", time.Since(at))
}

// endsIdle: connections without a request do not hold it up.
func endsIdle(t *testing.T) {
	g := startDraining(t, "shutdown_timeout: 1h")
	conns := keptAlive(t, g, 5)
	short := openStream(t, g, 25)
	g.signal(syscall.SIGTERM)
	for _, c := range conns {
		if _, err := c.br.ReadByte(); err != io.EOF {
			t.Errorf("an idle connection was not closed: %v", err)
		}
	}
	if r := await(t, short); r.verdict != served {
		t.Errorf("%s: %s", verdictNames[r.verdict], r.detail)
	}
	if code := g.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// endsTwice: who asks twice does not want to wait.
func endsTwice(t *testing.T) {
	g := startDraining(t, "shutdown_delay: 1h")
	endless := openStream(t, g, 10000)
	g.signal(syscall.SIGTERM)
	apptest.Eventually(t, "not ready", func() bool { status, _ := g.get("/readyz"); return status == 503 })
	g.signal(syscall.SIGTERM)
	g.exit()
	if s := g.cmd.ProcessState.Sys().(syscall.WaitStatus); !s.Signaled() || s.Signal() != syscall.SIGTERM {
		t.Errorf("ended by %v, want the signal", g.cmd.ProcessState)
	}
	await(t, endless)
}

// restartsAtOnce: what a killed gateway leaves behind does not keep its port.
func restartsAtOnce(t *testing.T) {
	g := startDraining(t, "")
	keptAlive(t, g, 5)
	var endless []<-chan result
	for range 5 {
		endless = append(endless, openStream(t, g, 10000))
	}
	g.kill()
	g.start(t)
	if status, body := g.post(wholeChat); status != 200 {
		t.Errorf("%d %s", status, body)
	}
	for _, end := range endless {
		if r := await(t, end); r.verdict != cut {
			t.Errorf("a stream of a gateway that was killed: %s: %s", verdictNames[r.verdict], r.detail)
		}
	}
}
