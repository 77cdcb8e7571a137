package app_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/app"
	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/config"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// The canaries of the configuration; two more keys are made at run time.
const (
	canaryPlain   = "sk-plain-V7xQ2mZp9TcR4kLw8NsB1dFh"
	canaryMeagre  = "sk-meagre-J3nH6vYt0GbE5uKa9XqC2rMz"
	canaryPoor    = "sk-poor-W4bN8mRq2TyC6eLx0PsK9vJf"
	canaryBound   = "sk-bound-P8wD1sLf4ToI7eRk2UvG6yNb"
	canaryOff     = "sk-off-C5hM9zAq3WxS6jPt1KdV8nRe"
	canaryToken   = "adm-Y4kT7bXw2QnF9cLs6HmZ1vGp"
	canarySecret  = "hook-E6uJ9xRt3MwB5zKq8CfN2yDh"
	canaryBackend = "eng-L1vP4gWs7YdH0nQx5TkR8jBm"
	canaryPrompt  = "The-parrot-Xq7-flew-over-Zw4-mountains-Kd9-at-dawn"
)

// aviary is a gateway on which everything is on that writes something down.
type aviary struct {
	*app.App
	*cage
	addr, operator string // where clients and the operator come
	dir            string // data_dir
	file           string // the configuration
	engine         *apptest.Engine
	sent           wire // to the engine
	told           wire // to the usage hook
	hook           string
	hookStatus     atomic.Int64
	panics         atomic.Bool // at the next call of the engine
	logs           apptest.Log
	access         *os.File
	clients        int
	opening        []string // keys that do
}

func startAviary(t *testing.T) *aviary {
	t.Helper()
	onLinux(t)
	dir := t.TempDir()
	a := &aviary{
		cage: &cage{t: t}, addr: fixedAddr(t), operator: fixedAddr(t), dir: filepath.Join(dir, "data"), file: filepath.Join(dir, "llmproxy.yaml"),
		engine: apptest.StartEngine(t, mockvllm.Options{Models: []string{"mock-model", "secret-model"}}),
	}
	for name, secret := range map[string]string{
		"the configured key": canaryPlain, "the key with limits": canaryMeagre, "the key with a quota": canaryPoor, "the key with addresses": canaryBound, "the disabled key": canaryOff,
		"the admin token": canaryToken, "the hook's secret": canarySecret, "the engine's key": canaryBackend, "the prompt": canaryPrompt,
	} {
		a.birds = append(a.birds, newCanary(name, secret))
	}
	a.hookStatus.Store(http.StatusOK)
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(&a.told, "%v\n%s\n", r.Header, body)
		w.WriteHeader(int(a.hookStatus.Load()))
	}))
	t.Cleanup(hook.Close)
	a.hook = hook.URL
	var err error
	if a.access, err = os.Create(filepath.Join(dir, "access.log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.access.Close() })
	writeFile(t, a.file, a.yaml())
	c, err := config.Load(a.file, nil)
	if err != nil {
		t.Fatal(err)
	}
	a.App, err = app.New(c, app.Options{
		Log: slog.New(slog.NewTextHandler(&a.logs, &slog.HandlerOptions{Level: slog.LevelDebug})), Dial: a.dialEngine, AccessLog: a.access,
		Load: func() (*config.Config, error) { return config.Load(a.file, nil) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	a.opening = []string{canaryPlain, a.makeByAPI(), a.makeByCommand()}
	return a
}

func (a *aviary) yaml() string {
	return fmt.Sprintf(`listen: %s
backends: [{url: %q, name: e0, api_key: %s, models: [mock-model, secret-model]}]
data_dir: %q
server: {max_body_size: 1MiB, body_timeout: 500ms}
health_check: {enabled: false}
admin: {token: %s, listen: %s}
log: {level: debug, access: true}
routing: {retry: {max_retries: 1, initial_wait: 1ms, max_wait: 2ms}}
usage_hook: {enabled: true, url: %q, secret: %s, max_age: 5ms, retry: 0}
rate_limit: {enabled: true, global: {requests_per_second: 100000}}
api_keys:
  - {key: %s, name: plain, user_id: u-plain, metadata: {team: birds}}
  - {key: %s, name: meagre, requests_per_minute: 3, tokens_per_minute: 2000, max_concurrent: 1, allowed_models: [mock-model]}
  - {key: %s, name: poor, total_quota: 10}
  - {key: %s, name: bound, allowed_ips: [203.0.113.0/24]}
  - {key: %s, name: off, status: disabled}
`, a.addr, a.engine.URL, canaryBackend, a.dir, canaryToken, a.operator, a.hook, canarySecret, canaryPlain, canaryMeagre, canaryPoor, canaryBound, canaryOff)
}

func (a *aviary) dialEngine(ctx context.Context, network, addr string) (net.Conn, error) {
	if a.panics.Swap(false) {
		panic("a test's")
	}
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	return tapped{c, &a.sent}, err
}

// say sends a request to clients' port, or with a path of /admin/ to the operator's,
// and keeps the answer.
func (a *aviary) say(raw string) (answer string) {
	a.t.Helper()
	line, _, _ := strings.Cut(raw, "\r\n")
	return a.answered(line, a.whisper(raw))
}

// whisper is say for an answer that may have a secret.
func (a *aviary) whisper(raw string) (answer string) {
	a.t.Helper()
	addr := a.addr
	if strings.Contains(raw[:strings.Index(raw, "\r\n")], "/admin/") {
		addr = a.operator
	}
	a.clients++
	c := dialFrom(a.t, addr, fmt.Sprintf("127.4.%d.%d", a.clients/200, 1+a.clients%200))
	defer c.Close()
	_, _ = io.WriteString(c, strings.Replace(raw, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1)) // it may be refused before its end
	return c.ended()
}

func (a *aviary) command(line, body string) string {
	return adminRequest(line, body, attackBearer+canaryToken)
}

// keep makes a canary of a new key, once the gateway knows it.
func (a *aviary) keep(name, key string) string {
	a.t.Helper()
	if len(key) < 40 {
		a.t.Fatalf("%s was not made", name)
	}
	a.birds = append(a.birds, newCanary(name, key))
	apptest.Eventually(a.t, "it is known", func() bool {
		return strings.HasPrefix(a.say("GET /v1/usage HTTP/1.1\r\nHost: g\r\nApi-Key: "+key+"\r\n\r\n"), "HTTP/1.1 200 ")
	})
	return key
}

func (a *aviary) makeByAPI() string {
	answer := a.whisper(a.command("POST /admin/api-keys", `{"name":"by API","total_quota":1000000}`))
	key := between(answer, `"key":"`, `"`)
	a.keep("the key of the API", key)
	a.silent("the rest of the answer that shows a key", strings.Replace(answer, key, "", 1))
	return key
}

func (a *aviary) makeByCommand() string {
	code, output := run(a.t, "keys", "new", "-data", a.dir, "-name", "by command")
	key, rest, _ := strings.Cut(strings.TrimPrefix(output, "key  "), "\n")
	if code != 0 {
		a.t.Fatalf("%d %s", code, rest)
	}
	a.keep("the key of the command", key)
	a.silent("the rest of what keys new says", rest)
	return key
}

// silentEverywhere looks at all that was written and answered so far.
func (a *aviary) silentEverywhere() {
	a.t.Helper()
	a.silentAnswers()
	a.silent("the log", a.logs.String())
	a.silent("the usage hook", a.told.String())
	var page strings.Builder
	a.Stats().WritePrometheus(&page)
	a.silent("the metrics", page.String())
	b, err := os.ReadFile(a.access.Name())
	if err != nil {
		a.t.Fatal(err)
	}
	a.silent("the access log", string(b))
	if n := a.silentFiles(a.dir); n < 4 {
		a.t.Errorf("%d files in the data directory: nothing is shown", n)
	}
	for _, bird := range a.birds {
		if bird.name == "the prompt" || bird.name == "the engine's key" {
			if bird.sings(a.sent.String()) == "" {
				a.t.Errorf("the engine never had %s: nothing is shown", bird.name)
			}
		} else if n := bird.sings(a.sent.String()); n != "" {
			a.t.Errorf("the engine was sent %s: %q", bird.name, n)
		}
	}
}
