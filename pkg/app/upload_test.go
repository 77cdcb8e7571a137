package app_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// TestFormThatIsNotPosted: the gateway reads a form itself where one is taken.
// With any other method it takes none, and the body must not be left on the
// connection, where it would be read as the next request.
func TestFormThatIsNotPosted(t *testing.T) {
	leavesNothing(t)
	const smuggled = "GET /v1/models HTTP/1.1\r\nHost: smuggled\r\n\r\n"
	const next = "GET /healthz HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n"
	preflight := "Origin: https://a.example\r\nAccess-Control-Request-Method: POST\r\n"
	framed := map[string]string{
		"length": fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(smuggled), smuggled),
		"chunks": "Transfer-Encoding: chunked\r\n\r\n" + chunk(smuggled).wire + lastChunk.wire,
	}
	e := apptest.StartEngine(t, mockvllm.Options{})
	for cors, yaml := range map[string]string{"no CORS": "", "CORS": "cors: {enabled: true, allowed_origins: [\"https://a.example\"]}\n"} {
		g := apptest.Start(t, yaml, e)
		for _, path := range []string{uploadPath, "/v1/audio/translations"} {
			for _, method := range []string{"PUT", "GET", "HEAD", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW"} {
				for framing, rest := range framed {
					t.Run(strings.Join([]string{"the body of a " + method, path[1:], framing, cors}, "/"), func(t *testing.T) {
						head := method + " " + path + " HTTP/1.1\r\nHost: gateway\r\nContent-Type: multipart/form-data; boundary=frontier\r\n"
						if yaml != "" {
							head += preflight
						}
						c := dialRaw(t, g.Addr)
						c.send(head + rest + next)
						got := c.ended()
						c.Close()
						answers := strings.Count(got, "HTTP/1.1 ")
						if answers < 1 || answers > 2 || strings.Contains(got, `"object":"list"`) || answers == 2 && !strings.HasSuffix(got, "\r\n\r\nok\n") {
							t.Errorf("%d answers, want one and at most that to the next request:\n%s", answers, got)
						}
					})
				}
			}
		}
		quiet(t, g)
	}
}

// TestUploadThatCannotBeKept: where a large form finds no room, the client is
// told to come back and the operator why, once; the client hears nothing of files.
// What needs no file is served all the same.
func TestUploadThatCannotBeKept(t *testing.T) {
	leavesNothing(t)
	for _, w := range []struct {
		name string
		size int // what is sent of the file when there is no room any more
		dir  func(t *testing.T) string
		gone bool // the directory is taken away once the gateway runs
	}{
		{"no directory", 5 << 18, func(t *testing.T) string { return filepath.Join(t.TempDir(), "gone") }, true},
		{"the disk is full at the first byte", 5 << 18, func(t *testing.T) string { return tmpfs(t, "512k") }, false},
		{"the disk is full in the middle", 5 << 19, func(t *testing.T) string { return tmpfs(t, "2m") }, false},
	} {
		for _, chunked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/chunked %t", w.name, chunked), func(t *testing.T) {
				e, dir := apptest.StartEngine(t, mockvllm.Options{}), w.dir(t)
				if err := os.MkdirAll(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				g := apptest.Start(t, fmt.Sprintf("server: {upload_dir: %q}\n", dir)+uploadYAML, e)
				if w.gone {
					if err := os.Remove(dir); err != nil {
						t.Fatal(err)
					}
				}
				u, begun := upload{}, uploadStart+strings.Repeat("x", w.size)
				raw := u.head(8<<20) + begun
				if chunked {
					raw = u.head(-1) + chunk(begun).wire
				}
				c := dialRaw(t, g.Addr)
				c.send(raw)
				resp, body := c.answer("POST")
				if resp.StatusCode != 503 || errorShape(body) != "OpenAI" || resp.Header.Get("Retry-After") == "" || strings.Contains(body, "upload") {
					t.Errorf("%d %v %s", resp.StatusCode, resp.Header, body)
				}
				if rest := c.ended(); rest != "" {
					t.Errorf("went on with %q", rest)
				}
				c.Close()
				quiet(t, g)
				logged := g.Logs.String()
				if n := strings.Count(logged, "cannot keep an upload"); n != 1 || strings.Count(logged, "level=ERROR") != 1 || !strings.Contains(logged, dir) {
					t.Errorf("logged %d times, want once:\n%s", n, logged)
				}
				if n := openFiles(t, dir); n != 0 {
					t.Errorf("%d files are open", n)
				}
				if status, answer, err := (&upload{size: 1000}).send(t, g.Addr); status != 200 || len(posts(e)) != 1 {
					t.Errorf("a small one: %d %s %v", status, answer, err)
				}
				quiet(t, g)
			})
		}
	}
}

// tmpfs is a file system of that size.
func tmpfs(t *testing.T, size string) (dir string) {
	t.Helper()
	onLinux(t)
	if os.Getuid() != 0 {
		t.Skip("only root can mount a small disk")
	}
	dir = t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "mount", "-t", "tmpfs", "-o", "size="+size, "none", dir).CombinedOutput(); err != nil {
		t.Skipf("cannot mount a small disk: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil { // t.Context is over by now
			t.Errorf("cannot unmount: %v: %s", err, out)
		}
	})
	return dir
}

// request is the whole form with its head.
func (u *upload) request(t *testing.T, model string) string {
	t.Helper()
	body, length := u.body(model)
	b, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	return u.head(length) + string(b)
}

// TestIdleConnectionHoldsNoForm: a form is let go when it has been answered, not
// when its connection sends another.
func TestIdleConnectionHoldsNoForm(t *testing.T) {
	leavesNothing(t)
	const clients, size = 50, 200 << 10
	for _, w := range []struct {
		name, model string
		status      int
	}{{"served", "mock-model", 200}, {"refused", "none", 404}} {
		t.Run(w.name, func(t *testing.T) {
			e := apptest.StartEngine(t, mockvllm.Options{})
			g := apptest.Start(t, fmt.Sprintf("backends: [{url: %q, name: e0, models: [mock-model]}]\n", e.URL)+uploadYAML)
			form := (&upload{size: size}).request(t, w.model)
			var before int64
			for i := range 1 + clients {
				if i == 1 {
					before = heap()
				}
				c := dialRaw(t, g.Addr)
				defer c.Close()
				c.send(form)
				if resp, body := c.answer("POST"); resp.StatusCode != w.status || resp.Close {
					t.Fatalf("%d, closing: %t, %s", resp.StatusCode, resp.Close, body)
				}
			}
			if n := g.Metric("llmproxy_connections_open"); n != 1+clients {
				t.Errorf("%v connections are open, want %d", n, 1+clients)
			}
			if each := (heap() - before) / clients; each > size/5 {
				t.Errorf("an idle connection holds %d bytes after a form of %d", each, size)
			}
		})
	}
}

// TestShutdownDuringAnUpload: a client that is still sending when
// shutdown_timeout is over is told so, and does not hold the gateway up.
func TestShutdownDuringAnUpload(t *testing.T) {
	onLinux(t)
	leavesNothing(t)
	for _, u := range []upload{{size: 100e3}, {size: 4e6}, {size: 100e3, chunked: true}, {size: 4e6, chunked: true}} {
		t.Run(fmt.Sprintf("%+v", u), func(t *testing.T) {
			e, dir := apptest.StartEngine(t, mockvllm.Options{}), t.TempDir()
			g := apptest.Start(t, fmt.Sprintf("server: {shutdown_timeout: 100ms, upload_dir: %q}\n", dir)+uploadYAML, e)
			_, length := u.body("alias")
			begun := uploadStart + strings.Repeat("x", int(u.size)/2)
			if u.chunked {
				length, begun = -1, chunk(begun).wire
			}
			c := dialRaw(t, g.Addr)
			c.send(strings.Replace(u.head(length), "\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n", 1))
			if line, err := c.br.ReadString('\n'); err != nil || !strings.Contains(line, " 100 ") {
				t.Fatalf("%q %v", line, err)
			}
			if line, err := c.br.ReadString('\n'); err != nil || line != "\r\n" {
				t.Fatalf("%q %v", line, err)
			}
			c.send(begun)
			if u.size > 2<<20 {
				apptest.Eventually(t, "the file is there", func() bool { return openFiles(t, dir) == 1 })
			}
			closed, begin := make(chan struct{}), time.Now()
			go func() {
				defer close(closed)
				g.Close()
			}()
			resp, body := c.answer("POST")
			if resp.StatusCode != 503 || !strings.Contains(body, `"code":"shutting_down"`) || !resp.Close {
				t.Errorf("%d %v %s", resp.StatusCode, resp.Header, body)
			}
			if took := time.Since(begin); took < 100*time.Millisecond {
				t.Errorf("told after %v, before shutdown_timeout was over", took)
			}
			if rest := c.ended(); rest != "" {
				t.Errorf("went on with %q", rest)
			}
			c.Close()
			<-closed
			if took := time.Since(begin); took > 2*time.Second {
				t.Errorf("the gateway took %v to end", took)
			}
			if files, open := openFiles(t, dir), g.Metric("llmproxy_connections_open"); files != 0 || open != 0 || len(posts(e)) != 0 {
				t.Errorf("%d files and %v connections are left, the engine was asked %d times", files, open, len(posts(e)))
			}
		})
	}
}

// TestFormWithContentEncoding: engines read no compressed forms, and neither
// does the gateway, which would look for the model in it.
func TestFormWithContentEncoding(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{})
	g := apptest.Start(t, uploadYAML, e)
	form := (&upload{size: 1000}).request(t, "mock-model")
	for coding, status := range map[string]int{"gzip": 415, "GZIP": 415, "identity, gzip": 415, "identity": 200, "Identity": 200} {
		t.Run(coding, func(t *testing.T) {
			before := len(posts(e))
			c := dialRaw(t, g.Addr)
			c.send(strings.Replace(form, "\r\n\r\n", "\r\nContent-Encoding: "+coding+"\r\n\r\n", 1))
			resp, body := c.answer("POST")
			c.Close()
			asked := len(posts(e)) - before
			if resp.StatusCode != status || asked != map[bool]int{true: 1}[status == 200] {
				t.Errorf("%d %s, the engine was asked %d times, want %d", resp.StatusCode, body, asked, status)
			}
			if status == 415 && (errorShape(body) != "OpenAI" || !resp.Close) {
				t.Errorf("closing: %t, %s", resp.Close, body)
			}
		})
	}
	quiet(t, g)
}

// TestGenerateHasTwoRows: TGI and SGLang have a /generate each. The backend's
// engine tells which is meant, and where it does not, the body.
func TestGenerateHasTwoRows(t *testing.T) {
	leavesNothing(t)
	const tgi, sglang = `{"inputs":"hi","parameters":{"max_new_tokens":4}}`, `{"text":"hi","sampling_params":{"max_new_tokens":4}}`
	tgiFirst, sglangFirst := []string{mockvllm.DialectTGI, mockvllm.DialectSGLang}, []string{mockvllm.DialectSGLang, mockvllm.DialectTGI}
	for _, w := range []struct {
		name    string
		engines []string
		body    string
		asked   string
		shape   string // of the gateway's own errors
	}{
		{"TGI's body among both", tgiFirst, tgi, mockvllm.DialectTGI, "TGI"},
		{"TGI's body among both, turned round", sglangFirst, tgi, mockvllm.DialectTGI, "TGI"},
		{"SGLang's body among both", tgiFirst, sglang, mockvllm.DialectSGLang, "OpenAI"},
		{"SGLang's body among both, turned round", sglangFirst, sglang, mockvllm.DialectSGLang, "OpenAI"},
		{"TGI's body where there is no TGI", []string{mockvllm.DialectSGLang}, tgi, mockvllm.DialectSGLang, "OpenAI"},
		{"SGLang's body where there is no SGLang", []string{mockvllm.DialectTGI}, sglang, mockvllm.DialectTGI, "TGI"},
		{"TGI's body for an engine that is not named", []string{""}, tgi, "", "TGI"},
		{"SGLang's body for an engine that is not named", []string{""}, sglang, "", "OpenAI"},
	} {
		t.Run(w.name, func(t *testing.T) {
			yaml := "load_balance_strategy: round_robin\n" + unretried + "backends:\n"
			var engines []*apptest.Engine
			for i, name := range w.engines {
				e := apptest.StartEngine(t, mockvllm.Options{Dialect: name})
				engines = append(engines, e)
				yaml += fmt.Sprintf("  - {url: %q, name: e%d, engine: %q}\n", e.URL, i, name)
			}
			g := apptest.Start(t, strings.ReplaceAll(yaml, `, engine: ""`, ""))
			const times = 3 // by turns, another would have been asked
			for range times {
				g.Post(t, "/generate", w.body)
			}
			if n := len(posts(engines[slices.Index(w.engines, w.asked)])); n != times {
				t.Errorf("the right engine was asked %d times of %d", n, times)
			}
			for _, e := range engines {
				_ = e.Close()
			}
			if status, body := g.Post(t, "/generate", w.body); status != 502 || errorShape(body) != w.shape {
				t.Errorf("%d %s, want an error of %s", status, body, w.shape)
			}
			quiet(t, g)
		})
	}
}
