package app_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
)

// openPaths need no key: load balancers and scrapers have none.
var openPaths = []string{"/healthz", "/readyz", "/metrics"}

// ownPaths reads from the gateway's source what it answers itself, so that no route
// comes without a key.
func ownPaths(t *testing.T) (paths []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../gateway/gateway.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	registers := 0
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		switch f := call.Fun.(type) {
		case *ast.Ident:
			if f.Name == "get" {
				path, err := strconv.Unquote(call.Args[0].(*ast.BasicLit).Value)
				if err != nil {
					t.Fatal(err)
				}
				paths = append(paths, strings.Replace(path, "{id:*}", "mock-model", 1))
			}
		case *ast.SelectorExpr:
			if x, ok := f.X.(*ast.Ident); ok && x.Name == "r" && slices.Contains([]string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "ANY", "Handle", "Group"}, f.Sel.Name) {
				registers++
			}
		}
		return true
	})
	// Two in get, two for the table of surfaces, one for /admin/, which has tests of
	// its own.
	if registers != 5 || len(paths) < 5 {
		t.Fatalf("%d registrations and %q: is there another way to a route?", registers, paths)
	}
	return append(paths, "/metrics")
}

// TestAttackRoutesWithoutKey: every route there is needs a key, and no engine hears
// of a request that has none. With one, each of them is more than a refusal.
func TestAttackRoutesWithoutKey(t *testing.T) {
	leavesNothing(t)
	s := startAttacked(t, "")
	keyed := func(raw string) string {
		return strings.Replace(raw, "\r\n", "\r\n"+attackBearer+attackVictim+"\r\n", 1)
	}
	for _, row := range apiRows(t) {
		for _, stream := range []bool{false, true} {
			head, body := row.request(t, "", apiAsk{model: "mock-model", id: "resp_1", stream: stream})
			raw := head + "Content-Length: " + itoa(len(body)) + "\r\n\r\n" + body
			resp, answer, asked := s.try(t, raw)
			if resp.StatusCode != 401 || asked != 0 || resp.Header.Get("Www-Authenticate") != "Bearer" {
				t.Errorf("%s: %d %s %v, the engine was asked %d times", row.name(), resp.StatusCode, answer, resp.Header, asked)
			}
			wanted := map[string]string{"apiAnthropic": "Anthropic", "apiTGI": "TGI"}[row.api]
			if wanted == "" {
				wanted = "OpenAI"
			}
			if shape := errorShape(answer); shape != wanted && !row.sharesItsPath {
				t.Errorf("%s: an error in the shape of %s, want %s: %s", row.name(), shape, wanted, answer)
			}
			if resp, answer, _ := s.try(t, keyed(raw)); resp.StatusCode == 401 || resp.StatusCode == 403 {
				t.Errorf("%s with a key: %d %s", row.name(), resp.StatusCode, answer)
			}
		}
	}
	for _, path := range ownPaths(t) {
		for _, method := range []string{"GET", "HEAD"} {
			raw := method + " " + path + " HTTP/1.1\r\nHost: gateway\r\n\r\n"
			resp, body, asked := s.try(t, raw)
			if open := slices.Contains(openPaths, path); open != (resp.StatusCode == 200) || !open && resp.StatusCode != 401 || asked != 0 {
				t.Errorf("%s %s: %d %s", method, path, resp.StatusCode, body)
			}
			if resp, body, _ := s.try(t, keyed(raw)); resp.StatusCode != 200 {
				t.Errorf("%s %s with a key: %d %s", method, path, resp.StatusCode, body)
			}
		}
	}
	quiet(t, s.Gateway)
}

// TestAttackPathsAroundTheKey: no spelling of a path comes to an engine without a
// key, nor does a method.
func TestAttackPathsAroundTheKey(t *testing.T) {
	leavesNothing(t)
	s := startAttacked(t, "")
	for _, w := range []struct {
		line   string
		status int
	}{
		{"POST /v1/chat/completions/", 404},
		{"POST //v1/chat/completions", 404},
		{"POST /v1//chat/completions", 404},
		{"POST /v1/%63hat/completions", 404},
		{"POST /v1/x/../chat/completions", 404},
		{"POST /healthz/../v1/chat/completions", 404},
		{"POST /v1/chat/completions;x", 404},
		{"POST /v1/chat/completions.", 404},
		{"POST /V1/chat/completions", 404},
		{"POST \\v1\\chat\\completions", 400},
		{"POST http://gateway/v1/chat/completions", 401},
		{"POST http://user:" + attackVictim + "@gateway/v1/chat/completions", 401},
		{"POST https://other/v1/chat/completions", 401},
		{"PUT /v1/chat/completions", 405},
		{"GET /v1/chat/completions", 405},
		{"HEAD /v1/chat/completions", 405},
		{"TRACE /v1/chat/completions", 405},
		{"CONNECT /v1/chat/completions", 405},
		{"post /v1/chat/completions", 405},
		{"POST /v1/models", 405},
		{"GET /v1/models/", 404},
		{"GET /v1/models/../../healthz", 401},
		{"GET /v1/internal", 404},
		{"GET /metrics/", 404},
		{"GET /debug/pprof/", 404},
		{"POST /health", 404},
		{"POST /reset_prefix_cache", 404},
	} {
		t.Run(w.line, func(t *testing.T) {
			resp, body, asked := s.try(t, strings.Replace(post("PATH", wholeChat), "POST PATH", w.line, 1))
			if resp.StatusCode != w.status || asked != 0 {
				t.Errorf("%d %s, want %d; the engine was asked %d times", resp.StatusCode, body, w.status, asked)
			}
		})
	}
	for _, extra := range []string{"X-HTTP-Method-Override: GET", "X-Original-URL: /healthz", "X-Rewrite-URL: /healthz", "X-Forwarded-Prefix: /healthz"} {
		if resp, body, asked := s.try(t, post(chatPath, wholeChat, extra)); resp.StatusCode != 401 || asked != 0 {
			t.Errorf("%s: %d %s", extra, resp.StatusCode, body)
		}
	}
	quiet(t, s.Gateway)
}

// guesses are the ways to find out whether a key is one.
func guesses(t *testing.T) map[string]string {
	t.Helper()
	form := (&upload{size: 100}).request(t, "mock-model")
	large := strings.Replace(post(chatPath, "", attackBearer+"sk-guess"), "Content-Length: 0", "Content-Length: 1000000", 1)
	return map[string]string{
		"chat":      post(chatPath, wholeChat, attackBearer+"sk-guess"),
		"X-Api-Key": post("/v1/messages", wholeChat, "X-Api-Key: sk-guess"),
		"no key":    post(chatPath, wholeChat),
		"models":    "GET /v1/models HTTP/1.1\r\nHost: gateway\r\nApi-Key: sk-guess\r\n\r\n",
		"usage":     "HEAD /v1/usage HTTP/1.1\r\nHost: gateway\r\nApi-Key: sk-guess\r\n\r\n",
		"disabled":  post(chatPath, wholeChat, attackBearer+attackDisabled),
		"form":      strings.Replace(form, "\r\n\r\n", "\r\n"+attackBearer+"sk-guess\r\n\r\n", 1),
		"large":     large,
		"expect":    strings.Replace(large, "\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n", 1),
		"admin":     "GET /admin/api-keys HTTP/1.1\r\nHost: gateway\r\n" + attackBearer + "guess-guess\r\n\r\n",
	}
}

// TestAttackGuessesAreSlowed: an address that tries one key after the other has
// twenty tries, and one a second from then on, whichever way it takes; and each of
// them is counted.
func TestAttackGuessesAreSlowed(t *testing.T) {
	leavesNothing(t)
	s := startAttacked(t, "")
	const tries = 22
	ways := guesses(t)
	from := 0
	var work sync.WaitGroup
	for name, raw := range ways {
		from++
		var clients []*rawClient
		for range tries {
			clients = append(clients, dialFrom(t, s.Addr, "127.2.0."+itoa(from)))
		}
		work.Go(func() {
			begin := time.Now()
			method, _, _ := strings.Cut(raw, " ")
			for _, c := range clients {
				_, _ = io.WriteString(c, raw)
				resp, err := http.ReadResponse(c.br, &http.Request{Method: method})
				if err != nil || resp.StatusCode != 401 {
					t.Errorf("%s: not refused: %v", name, err)
					return
				}
			}
			if took := time.Since(begin); took < (tries-20)*time.Second {
				t.Errorf("%s: %d guesses took %v", name, tries, took)
			}
		})
	}
	work.Wait()
	counted := 0.0
	for _, reason := range []string{"no_key", "unknown_key", "disabled_key", "admin_token"} {
		counted += s.Metric(`llmproxy_auth_failures_total{reason="` + reason + `"}`)
	}
	if want := float64(tries * len(ways)); counted != want {
		t.Errorf("%v guesses are counted, want %v", counted, want)
	}
}

// TestAttackSlowsNobodyElse: while a guess is held up, who has a key is served, from
// the same address too, and so is another address that fails for once.
func TestAttackSlowsNobodyElse(t *testing.T) {
	leavesNothing(t)
	s := startAttacked(t, "")
	const guesses = 24 // the last of them waits for two seconds
	guess := post(chatPath, wholeChat, attackBearer+"sk-guess")
	for attempt := range 5 { // a machine that stood still for so long shows nothing
		from, other := "127.2.1."+itoa(1+attempt), "127.2.2."+itoa(1+attempt)
		before := s.Metric(`llmproxy_auth_failures_total{reason="unknown_key"}`)
		var answered atomic.Int64
		var held sync.WaitGroup
		for range guesses {
			c := dialFrom(t, s.Addr, from)
			c.send(guess)
			held.Go(func() {
				_, _ = c.br.Peek(1)
				answered.Add(1)
			})
		}
		apptest.Eventually(t, "all guesses are there", func() bool {
			return s.Metric(`llmproxy_auth_failures_total{reason="unknown_key"}`) == before+guesses
		})
		for _, w := range []struct {
			from, key string
			status    int
		}{{from, attackVictim, 200}, {from, s.made, 200}, {other, "sk-guess", 401}} {
			c := dialFrom(t, s.Addr, w.from)
			c.send(post(chatPath, wholeChat, attackBearer+w.key))
			if resp, body := c.answer("POST"); resp.StatusCode != w.status {
				t.Errorf("%s from %s: %d %s", w.key, w.from, resp.StatusCode, body)
			}
			c.Close()
		}
		first := answered.Load() < guesses
		held.Wait()
		if first {
			return
		}
	}
	t.Error("who guesses nothing is answered after all who do")
}
