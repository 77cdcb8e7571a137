package app_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

const responsesURL = "/v1/responses"

// homes is a gateway over three engines that take turns.
type homes struct {
	*apptest.Gateway
	t       *testing.T
	engines []*apptest.Engine
}

func startHomes(t *testing.T) *homes {
	t.Helper()
	h := &homes{t: t}
	for range 3 {
		h.engines = append(h.engines, apptest.StartEngine(t, mockvllm.Options{StepBase: time.Millisecond}))
	}
	h.Gateway = apptest.Start(t, h.yaml(""), h.engines...)
	return h
}

// yaml is the gateway's configuration, with more at the first backend.
func (h *homes) yaml(more string) string {
	b := strings.Builder{}
	b.WriteString("load_balance_strategy: round_robin\nhealth_check: {enabled: false}\nbackends:\n")
	for i, e := range h.engines {
		fmt.Fprintf(&b, "  - {url: %q, name: e%d%s}\n", e.URL, i, more)
		more = ""
	}
	return b.String()
}

// ask sends a request and returns the answer, and which engines were asked: a
// digit for each time.
func (h *homes) ask(method, path, body string) (status int, answer, asked string) {
	h.t.Helper()
	before := h.asked()
	req, err := http.NewRequestWithContext(h.t.Context(), method, h.URL+path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	for i, n := range h.asked() {
		asked += strings.Repeat(itoa(i), n-before[i])
	}
	return resp.StatusCode, string(b), asked
}

func (h *homes) asked() (n [3]int) {
	for i, e := range h.engines {
		for _, r := range posts(e) {
			if r.Method != mockvllm.MethodTask {
				n[i]++
			}
		}
	}
	return n
}

// create makes a response and returns its id and its engine.
func (h *homes) create(fields string) (id, home string) {
	h.t.Helper()
	status, answer, home := h.ask("POST", responsesURL, `{"model":"mock-model","input":"hi","max_output_tokens":3`+fields+`}`)
	id = between(answer, `"id":"`, `"`)
	if status != 200 || len(home) != 1 || !strings.HasPrefix(id, "resp_") {
		h.t.Fatalf("%d %s from %q", status, answer, home)
	}
	return id, home
}

// followUps are the requests that name a response, and what they come to.
var followUps = []struct {
	name, method, path, body string
	status                   int
}{
	{"previous_response_id", "POST", "", `{"model":"mock-model","input":"and?","previous_response_id":"ID"}`, 200},
	{"previous_response_id, streamed", "POST", "", `{"model":"mock-model","input":"and?","previous_response_id":"ID","stream":true}`, 200},
	{"get", "GET", "/ID", "", 200},
	{"cancel", "POST", "/ID/cancel", "", 400}, // it is complete
	{"delete", "DELETE", "/ID", "", 405},      // vLLM has none
}

// follow asks for a response in all ways; want is the engine that is to be
// asked, "" for none and a 404.
func (h *homes) follow(id, want string) {
	h.t.Helper()
	for _, f := range followUps {
		status, answer, asked := h.ask(f.method, responsesURL+strings.Replace(f.path, "ID", id, 1), strings.Replace(f.body, "ID", id, 1))
		wanted, word := f.status, ""
		if want == "" {
			wanted, word = 404, `"code":"previous_response_not_found"`
		}
		if status != wanted || asked != want || !strings.Contains(answer, word) {
			h.t.Errorf("%s: %d %.300s from %q, want %d from %q", f.name, status, answer, asked, wanted, want)
		}
	}
}

// TestResponsesStick: what names a response goes to the engine that made it,
// however it was made.
func TestResponsesStick(t *testing.T) {
	leavesNothing(t)
	h := startHomes(t)
	used := map[string]bool{}
	for _, fields := range []string{"", `,"stream":true`, "", `,"stream":true`} {
		id, home := h.create(fields)
		used[home] = true
		h.follow(id, home)
	}
	if len(used) < 2 {
		t.Errorf("all were made by %v: nothing is shown", used)
	}
	id, home := h.create(`,"background":true,"mock_prefill_ms":3600000`)
	if status, answer, asked := h.ask("POST", responsesURL+"/"+id+"/cancel", ""); status != 200 || asked != home || !strings.Contains(answer, `"status":"cancelled"`) {
		t.Errorf("cancel: %d %s from %q, want %q", status, answer, asked, home)
	}
	quiet(t, h.Gateway)
}

// TestResponsesAfterRestart: a gateway that has forgotten all asks the engines
// for a response, and then knows.
func TestResponsesAfterRestart(t *testing.T) {
	leavesNothing(t)
	h := startHomes(t)
	for range 3 {
		id, home := h.create("")
		for _, f := range followUps[:4] {
			h.Gateway = apptest.Start(t, h.yaml(""))
			status, answer, asked := h.ask(f.method, responsesURL+strings.Replace(f.path, "ID", id, 1), strings.Replace(f.body, "ID", id, 1))
			if status != f.status || !strings.Contains(asked, home) {
				t.Errorf("%s: %d %.300s from %q, want %q among them", f.name, status, answer, asked, home)
			}
			if f.name == "get" && !strings.Contains(answer, `"id":"`+id+`"`) {
				t.Errorf("another response: %.300s", answer)
			}
			if f.status == 200 {
				h.follow(id, home)
			}
			quiet(t, h.Gateway)
		}
	}
	if status, answer, asked := h.ask("GET", responsesURL+"/resp_nobodys", ""); status != 404 || asked != "012" || errorShape(answer) != "OpenAI" {
		t.Errorf("a response that nobody made: %d %s from %q", status, answer, asked)
	}
	for line := range strings.Lines(h.Metrics()) {
		if strings.HasPrefix(line, "llmproxy_backend_ejections_total") && !strings.HasSuffix(line, " 0\n") {
			t.Errorf("an engine that has not the response is no broken one: %s", line)
		}
	}
	quiet(t, h.Gateway)
}

// TestResponsesOfADeadEngine: nobody else has them, and the client is told so in
// words on which it can act.
func TestResponsesOfADeadEngine(t *testing.T) {
	leavesNothing(t)
	h := startHomes(t)
	id, home := h.create("")
	_ = h.engines[home[0]-'0'].Close()
	h.follow(id, "")
	if status, answer, _ := h.ask("POST", responsesURL, `{"model":"mock-model","input":"hi"}`); status != 200 {
		t.Errorf("a new one: %d %s", status, answer)
	}
	quiet(t, h.Gateway)
}

// TestDrainByReload: a backend that is drained ends its streams and gets nothing
// new, but for what names its responses.
func TestDrainByReload(t *testing.T) {
	leavesNothing(t)
	h := startHomes(t)
	var id, home string
	for home != "0" {
		id, home = h.create("")
	}
	var open []*rawClient
	for range 3 {
		c := dialRaw(t, h.Addr)
		c.send(post(chatPath, strings.Replace(streamChat, `"max_tokens":4`, `"max_tokens":200`, 1)))
		if line, err := c.br.ReadString('\n'); err != nil || !strings.Contains(line, "200") {
			t.Fatalf("%s %v", line, err)
		}
		open = append(open, c)
	}
	if err := h.Reload(apptest.Config(t, h.yaml(", drain: true"))); err != nil {
		t.Fatal(err)
	}
	for range 9 {
		if _, _, asked := h.ask("POST", chatPath, streamChat); asked != "1" && asked != "2" {
			t.Errorf("engine %q was asked, which drains", asked)
		}
	}
	h.follow(id, "0")
	for _, c := range open {
		rest := c.streamRest()
		if !strings.Contains(rest, "data: [DONE]") || strings.Contains(rest, `"error"`) {
			t.Errorf("an open stream ended with %q", rest[max(0, len(rest)-200):])
		}
		c.Close()
	}
	for i := range h.engines {
		for _, r := range posts(h.engines[i]) {
			if r.State == mockvllm.StateAborted {
				t.Errorf("aborted: %+v", r)
			}
		}
	}
	if err := h.Reload(apptest.Config(t, h.yaml(""))); err != nil {
		t.Fatal(err)
	}
	back := map[string]bool{}
	for range 6 {
		_, _, asked := h.ask("POST", chatPath, wholeChat)
		back[asked] = true
	}
	if !back["0"] {
		t.Errorf("after the drain was taken back %v were asked", back)
	}
	quiet(t, h.Gateway)
}

// streamRest reads to the last chunk of a stream whose status line was read.
func (c *rawClient) streamRest() string {
	c.t.Helper()
	var b strings.Builder
	for !strings.HasSuffix(b.String(), "\r\n0\r\n\r\n") {
		line, err := c.br.ReadString('\n')
		if b.WriteString(line); err != nil {
			c.t.Fatalf("%v after %q", err, b.String())
		}
	}
	return b.String()
}

// TestSlowStart: an engine that was killed and came back gets few requests at
// first, and its share in the end.
func TestSlowStart(t *testing.T) {
	leavesNothing(t)
	const slow = 500 * time.Millisecond
	h := startHomes(t)
	yaml := strings.Replace(h.yaml(""), "{enabled: false}", "{interval: 100ms, healthy_threshold: 1, unhealthy_threshold: 1, slow_start: "+slow.String()+"}", 1)
	if err := h.Reload(apptest.Config(t, yaml)); err != nil {
		t.Fatal(err)
	}
	share := func(n int) (first int) {
		for range n {
			if _, _, asked := h.ask("POST", chatPath, `{"model":"mock-model","messages":[],"max_tokens":1}`); asked == "0" {
				first++
			}
		}
		return first
	}
	const healthy = `llmproxy_backend_healthy{backend="e0"}`
	apptest.Eventually(t, "all are healthy", func() bool { return h.Metric(healthy) == 1 })
	_ = h.engines[0].Close()
	apptest.Eventually(t, "its death is noticed", func() bool { return h.Metric(healthy) == 0 })
	if n := share(6); n != 0 {
		t.Errorf("a dead engine was asked %d times", n)
	}
	h.engines[0] = h.engines[0].Restart(t, mockvllm.Options{})
	apptest.Eventually(t, "its return is noticed", func() bool { return h.Metric(healthy) == 1 })
	back := time.Now()
	if n := share(30); time.Since(back) < slow/2 && n > 6 {
		t.Errorf("%d of 30 requests within %v of its return, want at most 6", n, time.Since(back))
	}
	apptest.Eventually(t, "it has its share", func() bool { return share(30) >= 9 })
	if took := time.Since(back); took < slow/2 {
		t.Errorf("it had its share after %v, slow start is %v", took, slow)
	}
	quiet(t, h.Gateway)
}
