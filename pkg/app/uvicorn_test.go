package app_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
)

// debianPython is the interpreter that has Debian's uvicorn and FastAPI.
const debianPython = "/usr/bin/python3"

// uvicorn is a FastAPI application that speaks vLLM's format, in a real
// uvicorn.
type uvicorn struct {
	t      *testing.T
	url    string
	client *http.Client
}

// startUvicorn runs it with the time after which it closes idle connections.
func startUvicorn(t *testing.T, keepAlive time.Duration) *uvicorn {
	t.Helper()
	if err := exec.Command(debianPython, "-c", "import uvicorn, fastapi").Run(); err != nil {
		skipUnlessRequired(t, "no uvicorn for "+debianPython+": apt-get install python3-uvicorn python3-fastapi")
	}
	p := startProcess(t, debianPython, "testdata/uvicorn/engine.py", fmt.Sprint(keepAlive.Seconds()))
	p.says("listening on")
	url := regexp.MustCompile(`listening on (\S+)`).FindStringSubmatch(p.output.String())[1]
	u := &uvicorn{t: t, url: url, client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}}
	apptest.Eventually(t, "uvicorn serves", func() bool {
		resp, err := u.client.Get(url + "/health")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return u
}

// get reads one of its own pages.
func (u *uvicorn) get(path string, v any) {
	u.t.Helper()
	resp, err := u.client.Get(u.url + path)
	if err != nil {
		u.t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(v); err != nil {
		u.t.Fatal(err)
	}
}

type uvicornCounts struct {
	Connections int `json:"connections"`
	ClosedIdle  int `json:"closed_idle"`
	Served      int `json:"served"`
}

type uvicornRow struct {
	Phase string `json:"phase"`
	State string `json:"state"`
}

// startBehind runs a gateway in front of it, whose idle connections to it live
// that long. It retries nothing: a connection closed when idle is no failure.
func (u *uvicorn) startBehind(keepAlive time.Duration) *apptest.Gateway {
	return apptest.Start(u.t, fmt.Sprintf(
		"backends: [{url: %q, name: uvicorn, keep_alive: %v}]\nrouting: {retry: {enabled: false}}\n", u.url, keepAlive))
}

// TestUvicornKeepAlive: uvicorn closes a connection that was idle for long
// enough, whatever is on its way to it. Rounds of requests come in gaps of
// about that length, so that many meet the close; none may fail, and none may
// be answered twice.
func TestUvicornKeepAlive(t *testing.T) {
	const idle = 50 * time.Millisecond
	rounds, clients := 63, 16
	if long {
		rounds = 625
	}
	for _, c := range []struct {
		name      string
		keepAlive time.Duration
		races     bool
	}{
		{"the gateway keeps connections longer", 4 * time.Second, true},
		{"the gateway keeps them a little shorter", idle - 10*time.Millisecond, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			leavesNothing(t)
			u := startUvicorn(t, idle)
			g := u.startBehind(c.keepAlive)
			transport := &http.Transport{MaxIdleConnsPerHost: clients}
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport, Timeout: patience}
			var before, after uvicornCounts
			u.get("/counts", &before)
			start := time.Now()
			for round := range rounds {
				var wg sync.WaitGroup
				for i := range clients {
					wg.Go(func() { askUvicorn(t, client, g.URL, i%2 == 0) })
				}
				wg.Wait()
				// The answers of a round come apart, so that the connections have
				// been idle for different times: all a little less than the gap.
				<-time.After(idle + time.Duration(round%25-20)*time.Millisecond)
			}
			u.get("/counts", &after)
			after.Served -= before.Served
			after.Connections -= before.Connections
			if after.Served != rounds*clients {
				t.Errorf("uvicorn answered %d requests, want %d", after.Served, rounds*clients)
			}
			if c.races && after.ClosedIdle < rounds/4 {
				t.Errorf("uvicorn closed %d idle connections: the gaps do not meet its closing", after.ClosedIdle)
			}
			if n := g.Metric(`llmproxy_backend_ejections_total{backend="uvicorn"}`); n != 0 {
				t.Errorf("%v ejections of an engine that did nothing wrong", n)
			}
			t.Logf("%d requests in %v: %+v", rounds*clients, time.Since(start).Round(time.Millisecond), after)
			transport.CloseIdleConnections()
			quiet(t, g)
		})
	}
}

// askUvicorn sends one request, which must be answered whole.
func askUvicorn(t *testing.T, client *http.Client, url string, stream bool) {
	body := fmt.Sprintf(`{"model":"m","messages":[],"stream":%v}`, stream)
	resp, err := client.Post(url+"/v1/chat/completions", "application/json", strings.NewReader(body))
	if err != nil {
		t.Error(err)
		return
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	end := `"total_tokens":5}}`
	if stream {
		end = "data: [DONE]\n\n"
	}
	if err != nil || resp.StatusCode != http.StatusOK || !strings.HasSuffix(string(b), end) {
		t.Errorf("status %d, error %v, body %s", resp.StatusCode, err, b)
	}
}

// TestUvicornAbort: a client that leaves ends the work that uvicorn's
// application does for it, whatever that is.
func TestUvicornAbort(t *testing.T) {
	times := 5
	if long {
		times = 100
	}
	leavesNothing(t)
	u := startUvicorn(t, 5*time.Second)
	g := u.startBehind(100 * time.Millisecond)
	for _, c := range []struct {
		name, hold string
		stream     bool
	}{
		{"stream, before the head", "queue", true},
		{"stream, before the first token", "prefill", true},
		{"stream, in the middle", "decode", true},
		{"whole, queued", "queue", false},
		{"whole, in the middle", "decode", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			for i := range times {
				tag := fmt.Sprintf("%s-%v-%d", c.hold, c.stream, i)
				body := fmt.Sprintf(`{"model":"m","messages":[],"stream":%v,"hold":%q,"tag":%q}`, c.stream, c.hold, tag)
				u.abort(t, g, body, tag, c.hold)
			}
		})
	}
	quiet(t, g)
	if n := g.Metric(`llmproxy_client_aborts_total{phase="waiting"}`) + g.Metric(`llmproxy_client_aborts_total{phase="streaming"}`); n != float64(5*times) {
		t.Errorf("%v aborts counted, want %d", n, 5*times)
	}
}

// abort sends a request, leaves when it has come to the phase it is held in,
// and waits until the application has noticed.
func (u *uvicorn) abort(t *testing.T, g *apptest.Gateway, body, tag, phase string) {
	t.Helper()
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, g.URL+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body) // ends with the request
			resp.Body.Close()
		}
	}()
	u.await(t, tag, uvicornRow{phase, "running"})
	leave()
	<-gone
	u.await(t, tag, uvicornRow{phase, "aborted"})
}

func (u *uvicorn) await(t *testing.T, tag string, want uvicornRow) {
	t.Helper()
	var rows []uvicornRow
	defer func() {
		if t.Failed() {
			t.Logf("rows of %s: %+v", tag, rows)
		}
	}()
	apptest.Eventually(t, fmt.Sprintf("%s is %+v", tag, want), func() bool {
		u.get("/ledger?tag="+tag, &rows)
		return len(rows) == 1 && rows[0] == want
	})
}
