package app_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// apiTry is one surface of one kind of engine.
type apiTry struct {
	*apiSite
	t     *testing.T
	row   *apiRow
	seen  *apiSeen
	marks [2]int // the rows of each engine's ledger before the last request
}

// apiAnswer is what came of a request.
type apiAnswer struct {
	status int
	kind   string // Content-Type
	body   string
	ids    []string // that differ from one request to the next
}

func (a *apiAnswer) isStream() bool { return strings.HasPrefix(a.kind, "text/event-stream") }

// run tries all there is to try and leaves in seen what it came to.
func (y *apiTry) run() {
	y.t.Helper()
	direct := y.ask(y.engines[0].Addr, apiAsk{})
	has, listed := direct.status < 400, slices.Contains(y.row.engines, y.engine)
	switch {
	case !listed:
		if has && !y.row.sharesItsPath {
			y.t.Errorf("the engine has it: %d, and the gateway believes that it has not", direct.status)
		}
		if !y.row.sharesItsPath {
			y.notServed()
		}
		y.seen.modes = []string{"-"}
	case !has:
		if direct.status != 404 && direct.status != 405 {
			y.t.Errorf("the engine answered %d %s", direct.status, direct.body)
		}
		if got := y.ask(y.gateway.Addr, apiAsk{}); got.status != direct.status || errorShape(got.body) != y.shape() {
			y.t.Errorf("%d %s, the engine said %d", got.status, got.body, direct.status)
		}
		y.seen.modes = []string{itoa(direct.status)}
	default:
		y.served()
	}
}

// served is run for a surface that the engine has.
func (y *apiTry) served() {
	y.seen.modes = nil
	for _, stream := range []bool{false, true} {
		direct := y.ask(y.engines[0].Addr, apiAsk{stream: stream})
		if direct.isStream() != stream || direct.status != 200 {
			continue // a surface that always streams, or never does
		}
		y.equals(direct, y.ask(y.gateway.Addr, apiAsk{stream: stream}))
		saw(&y.seen.modes, map[bool]string{false: "whole", true: "stream"}[stream])
		y.unavailable(stream)
		y.breaks(stream)
		y.leaves(stream)
		y.refused(stream)
	}
	if y.row.hasModel() {
		y.mapped()
	}
	y.amongOthers()
}

// ask sends a request to the gateway, or to an engine, and reads the answer.
func (y *apiTry) ask(addr string, a apiAsk) apiAnswer {
	y.t.Helper()
	c, id := y.open(addr, a)
	defer c.Close()
	resp, err := http.ReadResponse(c.br, &http.Request{Method: y.row.method})
	if err != nil {
		y.t.Fatalf("no answer: %v", err)
	}
	body, cut := readAll(resp.Body)
	if cut {
		y.t.Errorf("the answer was cut short: %q", body)
	}
	answer := apiAnswer{resp.StatusCode, resp.Header.Get("Content-Type"), string(body), []string{"direct", id}}
	for i := range y.engines {
		for _, r := range y.rows(i) {
			answer.ids = append(answer.ids, r.XRequestID)
		}
	}
	return answer
}

// open sends a request; id is that of the response it is about.
func (y *apiTry) open(addr string, a apiAsk) (c *rawClient, id string) {
	y.t.Helper()
	if a.model == "" {
		a.model = "mock-model"
	}
	if y.row.stored && a.id == "" {
		a.id = y.create(a)
	}
	for i, e := range y.engines {
		y.marks[i] = len(e.Ledger())
	}
	head, body := y.row.request(y.t, y.dialect, a)
	if addr != y.gateway.Addr {
		head += "X-Request-Id: direct\r\n"
	}
	c = dialRaw(y.t, addr)
	c.send(head + "Content-Length: " + itoa(len(body)) + "\r\n\r\n" + body)
	return c, strings.TrimPrefix(a.id, "resp_")
}

// create makes the response that a request is about, and returns its id.
func (y *apiTry) create(a apiAsk) string {
	y.t.Helper()
	if !slices.Contains(y.row.engines, y.engine) {
		return "resp_none"
	}
	body := `{"model":"mock-model","input":"hi","max_output_tokens":` + itoa(max(a.tokens, 4))
	switch {
	case a.stream:
		body += `,"background":true,"stream":true`
	case strings.HasSuffix(y.row.path, "/cancel"):
		body += `,"background":true,"mock_prefill_ms":3600000`
	}
	c := dialRaw(y.t, y.gateway.Addr)
	defer c.Close()
	c.send(post("/v1/responses", body+"}"))
	var b strings.Builder
	for !strings.Contains(b.String(), `"id":"resp_`) {
		line, err := c.br.ReadString(',')
		if err != nil {
			y.t.Fatalf("no response was made: %v", err)
		}
		b.WriteString(line)
	}
	return between(b.String(), `"id":"`, `"`)
}

// rows are what came to engine i since the last request was sent.
func (y *apiTry) rows(i int) []mockvllm.Entry {
	return slices.DeleteFunc(y.engines[i].Ledger()[y.marks[i]:], func(r mockvllm.Entry) bool { return r.Method == mockvllm.MethodTask })
}

// counts are the requests that came to each engine since then.
func (y *apiTry) counts() [2]int { return [2]int{len(y.rows(0)), len(y.rows(1))} }

// fault makes e0 misbehave until the returned function is called.
func (y *apiTry) fault(name string) (end func()) {
	y.t.Helper()
	if err := y.engines[0].Fault(mockvllm.FaultRule{Fault: name}); err != nil {
		y.t.Fatal(err)
	}
	return y.engines[0].ClearFaults
}

// clocks are the numbers in an answer that are times.
var clocks = regexp.MustCompile(`"(created|created_at|completed_at|e2e_latency|\w+_ms|\w+_per_second)":[-+.e0-9]+`)

// normal is the body of an answer without what is different each time.
func (a *apiAnswer) normal() string {
	body := clocks.ReplaceAllString(a.body, `"$1":0`)
	for _, id := range a.ids {
		if id != "" {
			body = strings.ReplaceAll(body, id, "ID")
		}
	}
	return body
}

func (y *apiTry) equals(direct, got apiAnswer) {
	y.t.Helper()
	if got.status != direct.status || got.kind != direct.kind || got.normal() != direct.normal() {
		y.t.Errorf("%d %s %q\nthe engine says %d %s %q", got.status, got.kind, got.normal(), direct.status, direct.kind, direct.normal())
	}
}

// mapped checks that the engine gets the very request with the name it knows.
func (y *apiTry) mapped() {
	places := []bool{false}
	if y.row.form {
		places = []bool{false, true}
	}
	for _, last := range places {
		a := apiAsk{model: "alias", modelLast: last}
		got := y.ask(y.gateway.Addr, a)
		a.model = "mock-model"
		_, body := y.row.request(y.t, y.dialect, a)
		sum := sha256.Sum256([]byte(body))
		rows := y.rows(0)
		if got.status != 200 || len(rows) != 1 || rows[0].BodySHA256 != hex.EncodeToString(sum[:]) || rows[0].Model == "alias" {
			y.t.Errorf("model last: %t: %d %s; the engine saw %+v", last, got.status, got.body, rows)
			continue
		}
		saw(&y.seen.mapped, map[bool]string{false: "body", true: "form"}[y.row.form])
	}
}

// refused checks a client's mistake: the engine's status, in the words that the
// surface's clients read.
func (y *apiTry) refused(stream bool) {
	a := apiAsk{wrong: true, stream: stream}
	if y.row.stored {
		a.id = "resp_unknown"
	}
	direct := y.ask(y.engines[0].Addr, a)
	if direct.status == 200 { // nothing is a mistake to llama.cpp's tokenizer
		defer y.fault("404")()
		direct = y.ask(y.engines[0].Addr, a)
	}
	got := y.ask(y.gateway.Addr, a)
	if direct.status/100 != 4 || got.status != direct.status || errorShape(got.body) != y.shape() {
		y.t.Errorf("%d %s\nthe engine said %d %s", got.status, got.body, direct.status, direct.body)
	}
	if errorShape(direct.body) == y.shape() {
		y.equals(direct, got)
	}
	saw(&y.seen.errors, errorShape(got.body))
}

// notServed checks the answer for an engine that does not have the surface,
// which does not hear of it.
func (y *apiTry) notServed() {
	got := y.ask(y.gateway.Addr, apiAsk{})
	if got.status != 404 || errorShape(got.body) != y.shape() || !strings.Contains(got.body, "has this endpoint") {
		y.t.Errorf("%d %s", got.status, got.body)
	}
	if y.shape() == "OpenAI" && !strings.Contains(got.body, `"code":"endpoint_not_supported"`) {
		y.t.Errorf("%s", got.body)
	}
	if y.counts() != [2]int{} {
		y.t.Errorf("%v requests came to the engine", y.counts())
	}
}

// amongOthers checks that an engine that does not have the surface is not asked
// for it, though its backend comes first.
func (y *apiTry) amongOthers() {
	for _, d := range apiDialects {
		if slices.Contains(y.row.engines, d.engine) || y.row.sharesItsPath && d.engine != "vllm" {
			continue
		}
		g, other := y.beside(d.name, d.engine)
		before, a := len(posts(other)), apiAsk{}
		if y.row.stored {
			a.id = y.create(a)
		}
		if got := y.ask(g.Addr, a); got.status != 200 {
			y.t.Errorf("beside %s: %d %s", d.name, got.status, got.body)
		}
		if n := len(posts(other)) - before; n != 0 || y.counts() != [2]int{1, 0} {
			y.t.Errorf("%s got %d requests, the engine that has it %v", d.name, n, y.counts())
		}
		quiet(y.t, g)
		return
	}
}

// awaitRow waits for the request that has come to e0 to be as wanted.
func (y *apiTry) awaitRow(what string, is func(*mockvllm.Entry) bool) mockvllm.Entry {
	y.t.Helper()
	ctx, cancel := context.WithTimeout(y.t.Context(), patience)
	defer cancel()
	row, err := y.engines[0].WaitEntry(ctx, func(r mockvllm.Entry) bool {
		return r.Seq > uint64(y.marks[0]) && r.Method != mockvllm.MethodTask && is(&r)
	})
	if err != nil {
		y.t.Fatalf("the engine never had the request %s: %+v", what, y.rows(0))
	}
	return row
}

// readEvents reads the head of a stream, and n of its events.
func (c *rawClient) readEvents(n int) {
	c.t.Helper()
	resp, err := http.ReadResponse(c.br, &http.Request{Method: "POST"})
	if err != nil {
		c.t.Fatalf("no answer: %v", err)
	}
	lines := bufio.NewReader(resp.Body)
	for n > 0 {
		line, err := lines.ReadString('\n')
		if err != nil {
			c.t.Fatalf("the stream ended early: %v", err)
		}
		if strings.HasPrefix(line, "data:") {
			n--
		}
	}
}
