package admin_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/admin"
)

func readAnswer(c net.Conn) (*http.Response, string, error) {
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return nil, "", err
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	return resp, string(body), err
}

// lastFree is the number of failures that are not slowed.
const lastFree = 20

func TestWithoutTheTokenNothingIsTold(t *testing.T) {
	var body string
	for _, c := range []struct{ name, target, lines string }{
		{"no token", "/admin/api-keys", ""},
		{"path that is none", "/admin/nothing", ""},
		{"path with tricks", "/admin/%2e%2e/api-keys", ""},
		{"method that is none", "/admin/config", "X-HTTP-Method-Override: DELETE\r\n"},
		{"token in the query", "/admin/api-keys?token=admin-token&access_token=admin-token", ""},
		{"token without a scheme", "/admin/api-keys", "Authorization: admin-token\r\n"},
		{"basic", "/admin/api-keys", "Authorization: Basic YWRtaW46YWRtaW4tdG9rZW4=\r\n"},
		{"another scheme", "/admin/api-keys", "Authorization: Token admin-token\r\n"},
		{"another header", "/admin/api-keys", "X-API-Key: admin-token\r\n"},
		{"empty token", "/admin/api-keys", "Authorization: Bearer \r\n"},
		{"beginning of the token", "/admin/api-keys", "Authorization: Bearer admin-toke\r\n"},
		{"more than the token", "/admin/api-keys", "Authorization: Bearer admin-token2\r\n"},
		{"another case", "/admin/api-keys", "Authorization: Bearer Admin-Token\r\n"},
		{"list of tokens", "/admin/api-keys", "Authorization: Bearer admin-token, Bearer x\r\n"},
		{"two tokens", "/admin/api-keys", "Authorization: Bearer admin-token\r\nAuthorization: Bearer x\r\n"},
		{"the same token twice", "/admin/api-keys", "Authorization: Bearer admin-token\r\nAuthorization: Bearer admin-token\r\n"},
		{"key of a client", "/admin/api-keys", "Authorization: Bearer " + configured + "\r\n"},
		{"long token", "/admin/api-keys", "Authorization: Bearer " + strings.Repeat("a", 3000) + "\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := start(t)
			resp, got := s.raw("GET " + c.target + " HTTP/1.1\r\nHost: x\r\n" + c.lines + "\r\n")
			if resp.StatusCode != 401 || resp.Header.Get("WWW-Authenticate") != `Bearer realm="llmproxy admin"` {
				t.Errorf("%d %v", resp.StatusCode, resp.Header)
			}
			if body == "" {
				body = got
			}
			if got != body || strings.Contains(got, "sk-") {
				t.Errorf("%s, want %s", got, body)
			}
			if lines := s.log.take(t); lines != nil {
				t.Errorf("log %v", lines)
			}
		})
	}
}

func TestTheTokenIsTaken(t *testing.T) {
	s := start(t)
	for _, line := range []string{"Authorization: Bearer admin-token", "authorization: bearer admin-token", "AUTHORIZATION: BEARER  admin-token "} {
		if resp, body := s.raw("GET /admin/config HTTP/1.1\r\nHost: x\r\n" + line + "\r\n\r\n"); resp.StatusCode != 200 {
			t.Errorf("%q: %d %s", line, resp.StatusCode, body)
		}
	}
}

func TestNoTokenIsNoAPI(t *testing.T) {
	defer func() {
		if p := recover(); p == nil {
			t.Error("an empty token is accepted")
		}
	}()
	admin.New(admin.Options{Log: slog.New(slog.DiscardHandler)})
}

func TestGuessesAreSlowedAndTheOperatorIsNot(t *testing.T) {
	s := start(t)
	waits, over := make(chan time.Duration, 100), make(chan time.Time)
	s.api.SetTimer(func(d time.Duration) <-chan time.Time {
		waits <- d
		return over
	})
	guess := func() answer { return s.ask("GET", "/admin/config", "", "Authorization", "Bearer guess") }
	for range lastFree {
		s.refuses(401, "invalid_admin_token", "", guess())
	}
	if len(waits) != 0 {
		t.Fatal("the first failures are slowed")
	}
	answered := make(chan answer)
	go func() { answered <- guess() }()
	if d := <-waits; d <= 0 || d > 2*time.Second {
		t.Errorf("waits for %v", d)
	}
	s.wants(200, s.ask("GET", "/admin/config", ""))
	select {
	case <-answered:
		t.Error("the guess was answered at once")
	default:
	}
	over <- time.Time{}
	s.refuses(401, "invalid_admin_token", "", <-answered)
	s.clock.Add(int64(time.Minute))
	if s.refuses(401, "invalid_admin_token", "", guess()); len(waits) != 0 {
		t.Error("nothing is forgiven in a minute")
	}
}

func TestAShutdownDoesNotWaitForGuesses(t *testing.T) {
	s := start(t)
	waiting := make(chan struct{})
	s.api.SetTimer(func(time.Duration) <-chan time.Time {
		close(waiting)
		return nil // for ever
	})
	answered := make(chan answer)
	go func() {
		var last answer
		for range lastFree + 1 {
			last = s.ask("GET", "/admin/config", "", "Authorization", "Bearer guess")
		}
		answered <- last
	}()
	<-waiting
	if err := s.server.ShutdownWithContext(t.Context()); err != nil {
		t.Error(err)
	}
	if a := <-answered; a.status != 401 {
		t.Errorf("%d", a.status)
	}
}

func TestOnlyPlainPathsAreServed(t *testing.T) {
	s := start(t)
	for code, targets := range map[string][]string{
		`"unknown_url"`: {
			"/admin", "/admin/", "/admin//api-keys", "//admin/api-keys", "/admin/./api-keys", "/admin/../admin/api-keys",
			"/v1/../admin/api-keys", "/admin/api-keys/", "/admin/api-keys/..", "/admin/api-keys/.", "/admin/%61pi-keys",
			"/admin/api%2Dkeys", "/admin%2fapi-keys", "/admin/api-keys%00", "/admin/api-keys;x=1", "/admin;/api-keys",
			`/admin\api-keys`, `/admin/..\admin/api-keys`, "/admin/%2e%2e/admin/api-keys", "/Admin/api-keys", "/admin/API-keys",
			"/admin/config#", "/admin/config#?x", "/admin/configx", "/admin/config/x", "/admin/backends/", "/admin/backends/gpu-1:8000",
			"/admin/backends//drain", "/admin/backends/drain", "/admin/backends/gpu-1%3A8000/drain", "/admin/backends/a;b/drain",
			`/admin/backends/a\b/drain`, "/admin/backends/a//b/drain", "/admin/backends/a/./drain", "/admin/backends/../drain",
			"/admin/backends/a\xff/drain", "/admin/api-keys/" + s.configuredID() + "/reset-quota/", "/admin/api-keys/" + s.configuredID() + "/",
		},
		`"key_not_found"`: {
			"/admin/api-keys/0123456789abcde", "/admin/api-keys/" + strings.ToUpper(s.configuredID()),
		},
		"": {"/admin/config\x01", "/admin/config\x7f"}, // refused by the server
	} {
		for _, target := range targets {
			resp, body := s.raw("GET " + target + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer admin-token\r\n\r\n")
			if want := (map[bool]int{true: 400, false: 404})[code == ""]; resp.StatusCode != want || !strings.Contains(body, code) {
				t.Errorf("%q: %d %s", target, resp.StatusCode, body)
			}
		}
	}
	if resp, body := s.raw("GET http://x/admin/config HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer admin-token\r\n\r\n"); resp.StatusCode != 200 {
		t.Errorf("absolute form: %d %s", resp.StatusCode, body)
	}
}

func TestMethods(t *testing.T) {
	s := start(t)
	for _, c := range []struct{ path, allow string }{
		{"/admin/api-keys", "GET, HEAD, POST, OPTIONS"},
		{"/admin/api-keys/" + s.configuredID(), "GET, HEAD, PATCH, DELETE, OPTIONS"},
		{"/admin/api-keys/" + s.configuredID() + "/reset-quota", "POST, OPTIONS"},
		{"/admin/backends", "GET, HEAD, OPTIONS"},
		{"/admin/backends/gpu-1:8000/drain", "POST, OPTIONS"},
		{"/admin/backends/gpu-1:8000/undrain", "POST, OPTIONS"},
		{"/admin/config", "GET, HEAD, OPTIONS"},
		{"/admin/reload", "POST, OPTIONS"},
	} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "BREW"} {
			a := s.ask(method, c.path, "")
			allowed := strings.Contains(", "+c.allow+",", ", "+method+",")
			switch {
			case method == "OPTIONS" && (a.status != 204 || a.header.Get("Allow") != c.allow),
				!allowed && (a.status != 405 || a.header.Get("Allow") != c.allow),
				allowed && (a.status == 405 || a.status == 404),
				method == "HEAD" && a.body != "":
				t.Errorf("%s %s: %d, Allow: %s, %s", method, c.path, a.status, a.header.Get("Allow"), a.body)
			}
		}
	}
	if a := s.ask("OPTIONS", "/admin/nothing", ""); a.status != 404 {
		t.Errorf("OPTIONS of nothing: %d", a.status)
	}
	a := s.ask("OPTIONS", "/admin/api-keys", "", "Authorization", "", "Origin", "https://evil.example", "Access-Control-Request-Method", "POST")
	if a.status != 401 || a.header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("a browser asks first and gets %d %v", a.status, a.header)
	}
}

func TestQueriesThatAreWrongListNothing(t *testing.T) {
	s := start(t)
	for query, param := range map[string]string{
		"limit=0": "limit", "limit=1001": "limit", "limit=x": "limit", "limit=": "limit", "limit=1&limit=2": "limit",
		"after=x": "after", "after=": "after", "status=on": "status", "status=": "status", "source=me": "source", "source=": "source",
		"user-id=a": "", "name=%zz": "", "name=a;b": "", "name=%ff": "name", "x": "",
	} {
		s.refuses(400, "invalid_request", param, s.ask("GET", "/admin/api-keys?"+query, ""))
	}
	s.refuses(400, "invalid_request", "", s.ask("GET", "/admin/config?verbose=1", ""))
}

func TestBodiesThatAreNotReadAreRefused(t *testing.T) {
	s := start(t)
	big := `{"name": "` + strings.Repeat("a", admin.MaxBody) + `"}`
	s.refuses(413, "request_too_large", "", s.ask("POST", "/admin/api-keys", big))
	resp, body := s.raw("POST /admin/api-keys HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer admin-token\r\nContent-Type: application/json\r\n" +
		fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(big), big))
	if resp.StatusCode != 413 {
		t.Errorf("in chunks: %d %s", resp.StatusCode, body)
	}
	for _, header := range [][]string{
		{"Content-Type", ""},
		{"Content-Type", "application/x-www-form-urlencoded"},
		{"Content-Type", "text/plain"},
		{"Content-Type", "application/jsonp"},
		{"Content-Encoding", "gzip"},
	} {
		s.refuses(415, "unsupported_media_type", "", s.ask("POST", "/admin/api-keys", customer, header...))
	}
	s.makes(`{"name": "with a charset"}`)
	s.wants(201, s.ask("POST", "/admin/api-keys", customer, "Content-Type", "application/json; charset=utf-8"))
	s.refuses(400, "invalid_request", "", s.ask("POST", "/admin/api-keys", ""))
	s.refuses(400, "invalid_request", "", s.ask("POST", "/admin/backends/gpu-1:8000/drain", `{"after": "10s"}`))
	s.wants(200, s.ask("POST", "/admin/backends/gpu-1:8000/drain", " {} "))
}

func TestBackends(t *testing.T) {
	s := start(t)
	a := s.ask("GET", "/admin/backends", "")
	data := s.wants(200, a)["data"].([]any)
	one, two := data[0].(map[string]any), data[1].(map[string]any)
	if strings.Contains(a.body, "hunter") || data[2].(map[string]any)["url"] != "" || one["url"] != "http://gpu-1:8000/v1" {
		t.Errorf("url is %v", one["url"])
	}
	want := `map[drained:false draining:false ejected:false healthy:true in_flight:0 latency_ms:<nil> models:[qwen-*] name:gpu-1:8000 region:north url:http://gpu-1:8000/v1 weight:10]`
	if fmt.Sprint(one) != want {
		t.Errorf("%v, want %v", one, want)
	}
	if two["draining"] != true || two["drained"] != true || fmt.Sprint(two["models"]) != "[]" {
		t.Errorf("a backend that the file drains is %v", two)
	}
	b := s.table.Backends()[0]
	b.Enter()
	m := s.wants(200, s.ask("POST", "/admin/backends/gpu-1:8000/drain", ""))
	if m["drained"] != false || m["draining"] != true || m["in_flight"] != 1.0 || m["latency_ms"] != 250.0 || !b.Drained() {
		t.Errorf("with a request under way: %v", m)
	}
	b.Leave()
	if m = s.wants(200, s.ask("POST", "/admin/backends/gpu-1:8000/drain", "")); m["drained"] != true || m["draining"] != true {
		t.Errorf("after the drain: %v", m)
	}
	m = s.wants(200, s.ask("POST", "/admin/backends/gpu-1:8000/undrain", ""))
	if m["drained"] != false || m["draining"] != false || b.Drained() {
		t.Errorf("after the undrain: %v", m)
	}
	s.refuses(409, "backend_is_configured", "", s.ask("POST", "/admin/backends/gpu-2:8000/undrain", ""))
	s.refuses(404, "backend_not_found", "", s.ask("POST", "/admin/backends/gpu-4:8000/drain", ""))
	s.refuses(404, "backend_not_found", "", s.ask("POST", "/admin/backends/a/b/drain", ""))
}

func TestConfigAndReload(t *testing.T) {
	s := start(t)
	if m := s.wants(200, s.ask("GET", "/admin/config", "")); m["listen"] != ":8000" {
		t.Errorf("%v", m)
	}
	if m := s.wants(200, s.ask("POST", "/admin/reload", "")); m["reloaded"] != true || s.reloads != 1 {
		t.Errorf("%v", m)
	}
	s.log.take(t)
	s.reloadErr = errors.New("llmproxy.yaml:7: backends: must not be empty")
	msg := s.refuses(422, "configuration_refused", "", s.ask("POST", "/admin/reload", ""))
	if !strings.Contains(msg, "llmproxy.yaml:7: backends") || s.log.take(t) != nil {
		t.Errorf("%s", msg)
	}
	s.reloadErr = fmt.Errorf("too late: %w", admin.ErrShuttingDown)
	s.refuses(503, "shutting_down", "", s.ask("POST", "/admin/reload", "")) // no fault of the configuration
}

func TestEachChangeLeavesOneLineWithoutItsValues(t *testing.T) {
	s := start(t)
	const canary = "canary-7f3a"
	_, id := s.makes(`{"name": "A", "metadata": {"note": "` + canary + `"}, "user_id": "` + canary + `"}`)
	path := "/admin/api-keys/" + id
	s.ask("PATCH", path, `{"user_id": "`+canary+`2", "total_quota": 5}`, "X-Request-Id", "req-1")
	s.ask("POST", path+"/reset-quota", "")
	s.ask("POST", "/admin/backends/gpu-1:8000/drain", "")
	s.ask("POST", "/admin/backends/gpu-1:8000/undrain", "")
	s.ask("POST", "/admin/reload", "")
	s.ask("DELETE", path, "")
	for _, read := range []string{path, "/admin/api-keys?name=" + canary, "/admin/backends", "/admin/config", "/admin/" + canary} {
		s.ask("GET", read, "")
	}
	if strings.Contains(s.log.String(), canary) {
		t.Error("a value is in the log")
	}
	want := []string{
		"map[action:create_key client:192.0.2.7 fields:[metadata name user_id] id:" + id + " level:INFO msg:admin name:A]",
		"map[action:change_key client:192.0.2.7 fields:[total_quota user_id] id:" + id + " level:INFO msg:admin name:A request_id:req-1]",
		"map[action:reset_quota client:192.0.2.7 id:" + id + " level:INFO msg:admin name:A]",
		"map[action:drain_backend client:192.0.2.7 level:INFO msg:admin name:gpu-1:8000]",
		"map[action:undrain_backend client:192.0.2.7 level:INFO msg:admin name:gpu-1:8000]",
		"map[action:reload client:192.0.2.7 level:INFO msg:admin]",
		"map[action:delete_key client:192.0.2.7 id:" + id + " level:INFO msg:admin name:A]",
	}
	lines := s.log.take(t)
	for i := range max(len(lines), len(want)) {
		switch {
		case i >= len(lines), i >= len(want):
			t.Errorf("%d lines, want %d", len(lines), len(want))
		case fmt.Sprint(lines[i]) != want[i]:
			t.Errorf("%v, want %v", lines[i], want[i])
		}
	}
}
