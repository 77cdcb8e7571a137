package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Whatever a configuration needs is filled in, and it names both addresses.
func TestCatalogueRenders(t *testing.T) {
	const listen, engine = "127.0.0.1:1234", "127.0.0.2:4321"
	seen := map[string]bool{}
	for _, p := range catalogue() {
		t.Run(p.name, func(t *testing.T) {
			if seen[p.name] {
				t.Error("there are two of this name")
			}
			seen[p.name] = true
			dir := t.TempDir()
			cmd, err := p.start(dir, listen, engine)
			if p.version == nil { // listed as absent
				if err == nil || p.install(t.Context(), dir) == nil {
					t.Error("neither version nor a reason")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			text := strings.Join(append(cmd.Args, p.header...), " ")
			files, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range files {
				content, err := os.ReadFile(filepath.Join(dir, f.Name()))
				if err != nil {
					t.Fatal(err)
				}
				text += string(content)
			}
			for _, want := range []string{"1234", "127.0.0.2", "4321"} {
				if !strings.Contains(text, want) {
					t.Errorf("%s is not in the command and its files: %s", want, text)
				}
			}
			for _, leftover := range []string{"{{", "<no value>"} {
				if strings.Contains(text, leftover) {
					t.Errorf("%q is left in: %s", leftover, text)
				}
			}
		})
	}
}

func TestInstalledOnlyOnce(t *testing.T) {
	dir, times, broken := t.TempDir(), 0, errors.New("no network")
	var fail error
	install := func(want string) func(context.Context, string) error {
		return once(want, func(context.Context, string) error { times++; return fail })
	}
	fail = broken
	if err := install("a==1.2")(t.Context(), dir); !errors.Is(err, broken) {
		t.Fatalf("the failure is lost: %v", err)
	}
	fail = nil
	for _, step := range []struct {
		name, want string
		times      int
	}{
		{"a failed installation is tried again", "a==1.2", 2},
		{"what is there is left alone", "a==1.2", 2},
		{"another version is installed", "a==1.3", 3},
	} {
		if err := install(step.want)(t.Context(), dir); err != nil || times != step.times {
			t.Errorf("%s: %d times, want %d, %v", step.name, times, step.times, err)
		}
		if v, err := marked(t.Context(), dir); err != nil || "a=="+v != step.want {
			t.Errorf("%s: version %s, want %s, %v", step.name, v, step.want, err)
		}
	}
}

func TestCommandErrorSaysWhy(t *testing.T) {
	for _, c := range []struct{ name, output, want string }{
		{"pip's first error is a list of versions", "ERROR: no version (from 1, 2, 3)\nERROR: No matching distribution found for a", "ERROR: No matching distribution found for a: exit status 3"},
		{"npm ends with advice", "npm warn old\nnpm error code E404\nnpm error A complete log of this run is elsewhere", "npm error code E404: exit status 3"},
		{"go ends with a detail", "go: a@v1: 403 Forbidden\n\tserver response: not available", "go: a@v1: 403 Forbidden: exit status 3"},
		{"silence is not an empty reason", "", "sh: exit status 3"},
	} {
		err := command(t.Context(), t.TempDir(), "sh", "-c", `printf %s "$0"; exit 3`, c.output)
		if err == nil || err.Error() != c.want {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
	}
	if err := command(t.Context(), "", "there-is-no-such-program"); err == nil || !strings.Contains(err.Error(), "there-is-no-such-program") {
		t.Errorf("a program that is not there: got %v", err)
	}
}

// TestEveryPeer installs every peer into the directory that LLMPROXY_PEERS
// names (absolute), starts it and asks it for a whole answer and five streams at once.
func TestEveryPeer(t *testing.T) {
	home := os.Getenv("LLMPROXY_PEERS")
	if home == "" {
		t.Skip("LLMPROXY_PEERS names no directory to install the peers into")
	}
	t.Chdir("../..") // where the runner is at home
	for _, p := range catalogue() {
		t.Run(p.name, func(t *testing.T) {
			if p.version == nil {
				t.Skip("listed as absent")
			}
			dir := filepath.Join(home, p.name)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			begun := time.Now()
			if p.install != nil {
				if err := p.install(t.Context(), dir); err != nil {
					t.Fatalf("cannot install it: %v", err)
				}
			}
			version, err := p.version(t.Context(), dir)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("version %s, installed in %s", version, time.Since(begun).Round(time.Millisecond))
			askAll(t, p, dir)
		})
	}
}

// askAll starts a peer and asks it.
func askAll(t *testing.T, p peer, dir string) {
	const streams = 5
	engine := httptest.NewServer(together(streams))
	defer engine.Close()
	listen := freeListen(t)
	cmd, err := p.start(dir, listen, engine.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	proc, err := begin(cmd, "", filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer proc.stop()

	url := "http://" + listen + "/v1/chat/completions"
	ask := func(stream bool) (string, error) {
		return call(t.Context(), http.MethodPost, url, chat(stream), p.header)
	}
	begun := time.Now()
	text, err := ask(false)
	for err != nil && proc.alive() && time.Since(begun) < startLimit {
		if pause(t.Context(), 100*time.Millisecond) != nil {
			break
		}
		text, err = ask(false)
	}
	if err != nil || !strings.Contains(text, `"chat.completion"`) {
		t.Fatalf("whole: %s %v", text, err)
	}
	t.Logf("answers after %s", time.Since(begun).Round(time.Millisecond))
	var all sync.WaitGroup
	for range streams {
		all.Go(func() {
			if text, err := ask(true); err != nil || strings.Count(text, `"content":"token`) != 3 || !strings.Contains(text, "[DONE]") {
				t.Errorf("stream: %s %v", text, err)
			}
		})
	}
	all.Wait()
}

func freeListen(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// together is an engine whose streams begin when n of them are there.
func together(n int) http.HandlerFunc {
	var there sync.WaitGroup
	there.Add(n)
	return func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // a broken request is not answered right either
		const chunk = `{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"` + model + `","choices":[{"index":0,"delta":%s,"finish_reason":%s}]}`
		switch {
		case r.Method == http.MethodGet:
			fmt.Fprint(w, `{"object":"list","data":[{"id":"`+model+`","object":"model"}],"model_path":"`+model+`"}`)
		case !strings.Contains(string(body), `"stream":true`) && !strings.Contains(string(body), `"stream": true`):
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"`+model+`","choices":[{"index":0,"message":{"role":"assistant","content":"token"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`)
		default:
			there.Done()
			there.Wait()
			w.Header().Set("Content-Type", "text/event-stream")
			for _, event := range []string{
				fmt.Sprintf(chunk, `{"role":"assistant","content":"token"}`, "null"), fmt.Sprintf(chunk, `{"content":"token"}`, "null"),
				fmt.Sprintf(chunk, `{"content":"token"}`, "null"), fmt.Sprintf(chunk, `{}`, `"stop"`), "[DONE]",
			} {
				fmt.Fprintf(w, "data: %s\n\n", event)
				w.(http.Flusher).Flush()
			}
		}
	}
}
