package app_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httputil"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

const uploadPath = "/v1/audio/transcriptions"

// upload is a form with a large file, the model after it.
type upload struct {
	size    int64
	chunked bool
}

const (
	uploadStart = "--frontier\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\n"
	uploadEnd   = "\r\n--frontier\r\nContent-Disposition: form-data; name=\"max_completion_tokens\"\r\n\r\n1\r\n" +
		"--frontier\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n%s\r\n--frontier--\r\n"
)

// body is the form with that model; what is in the file is always the same.
func (u *upload) body(model string) (r io.Reader, length int64) {
	end := fmt.Sprintf(uploadEnd, model)
	file := io.LimitReader(rand.NewChaCha8([32]byte{}), u.size)
	return io.MultiReader(strings.NewReader(uploadStart), file, strings.NewReader(end)), int64(len(uploadStart)+len(end)) + u.size
}

// sum is the hash of the body that an engine is to get.
func (u *upload) sum(t *testing.T) string {
	t.Helper()
	h := sha256.New()
	r, _ := u.body("mock-model")
	if _, err := io.Copy(h, r); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// head is that of a request with a body of that length, -1 for chunks.
func (u *upload) head(length int64) string {
	head := "POST " + uploadPath + " HTTP/1.1\r\nHost: gateway\r\nContent-Type: multipart/form-data; boundary=frontier\r\n"
	if length < 0 {
		return head + "Transfer-Encoding: chunked\r\n\r\n"
	}
	return head + fmt.Sprintf("Content-Length: %d\r\n\r\n", length)
}

// send uploads the form under a model's other name and returns the answer.
func (u *upload) send(t testing.TB, addr string) (status int, answer string, err error) {
	c := dialRaw(t, addr)
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(6 * patience)); err != nil {
		return 0, "", err
	}
	body, length := u.body("alias")
	var w io.Writer = c
	if u.chunked {
		length = -1
		w = httputil.NewChunkedWriter(c)
	}
	if _, err := io.WriteString(c, u.head(length)); err != nil {
		return 0, "", err
	}
	if _, err := io.Copy(w, body); err != nil {
		return 0, "", err
	}
	if u.chunked {
		if _, err := io.WriteString(c, lastChunk.wire); err != nil {
			return 0, "", err
		}
	}
	resp, err := http.ReadResponse(c.br, &http.Request{Method: "POST"})
	if err != nil {
		return 0, "", err
	}
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

const uploadYAML = "routing: {model_mapping: {alias: mock-model}, retry: {initial_wait: 1ms, max_wait: 2ms}}\nhealth_check: {enabled: false}\n"

// TestUploadMemory: four times 100 MB of audio at once pass through the program
// in less than 64 MiB of memory, byte for byte.
func TestUploadMemory(t *testing.T) {
	onLinux(t)
	const most = 64 << 10 // KiB
	e := apptest.StartEngine(t, mockvllm.Options{})
	g := startGateway(t, fmt.Sprintf("backends: [{url: %q, name: e0, keep_alive: 100ms}]\nserver: {max_body_size: 128MiB, upload_dir: %q}\n", e.URL, t.TempDir())+uploadYAML)
	if status, answer, err := (&upload{size: 1 << 10}).send(t, g.addr); status != 200 {
		t.Fatalf("%d %s %v", status, answer, err)
	}
	base, memory := g.footprint(), g.highWater()
	want := (&upload{size: 100e6}).sum(t)
	runs := [][]bool{{false, true, false, true}} // chunked or not
	if long {
		runs = append([][]bool{{false}, {true}}, runs...)
	}
	for _, at := range runs {
		before := len(posts(e))
		var all sync.WaitGroup
		for _, chunked := range at {
			all.Go(func() {
				u := upload{size: 100e6, chunked: chunked}
				if status, answer, err := u.send(t, g.addr); status != 200 || !strings.Contains(answer, `"text":`) {
					t.Errorf("chunked: %t: %d %s %v", chunked, status, answer, err)
				}
			})
		}
		all.Wait()
		rows := posts(e)[before:]
		for _, r := range rows {
			if r.BodySHA256 != want || r.FileBytes != 100e6 || r.Model != "mock-model" {
				t.Errorf("the engine got %d bytes of file, for the model %q, with the hash %s, want %s", r.FileBytes, r.Model, r.BodySHA256, want)
			}
		}
		if len(rows) != len(at) {
			t.Errorf("the engine got %d requests, want %d", len(rows), len(at))
		}
		grown := g.highWater() - memory
		if grown >= most {
			t.Errorf("%d uploads at once took %d KiB more memory, want less than %d", len(at), grown, most)
		}
	}
	g.nothingLeft(base, "e0")
}

func onLinux(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("needs /proc")
	}
}

// highWater is the most memory the process has had, in KiB.
func (g *gatewayProcess) highWater() (kib int) {
	g.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.cmd.Process.Pid))
	if err != nil {
		g.t.Fatal(err)
	}
	if _, err := fmt.Sscan(between(string(status), "VmHWM:", "kB"), &kib); err != nil {
		g.t.Fatal(err)
	}
	return kib
}

// TestUploadFailover: an upload whose engine is gone, or fails once it has it
// all, goes whole to another one.
func TestUploadFailover(t *testing.T) {
	leavesNothing(t)
	for name, fault := range map[string]string{"refuses connections": "-", "is lost": "fin", "is reset": "reset", "is not able": "503", "is full": "429", "dies": "die"} {
		for _, u := range []upload{{size: 1000}, {size: 4e6}, {size: 4e6, chunked: true}} {
			t.Run(fmt.Sprintf("%s/%+v", name, u), func(t *testing.T) {
				a, b := apptest.StartEngine(t, mockvllm.Options{}), apptest.StartEngine(t, mockvllm.Options{})
				if fault == "-" {
					_ = a.Close()
				} else if err := a.Fault(mockvllm.FaultRule{Fault: fault, Path: uploadPath}); err != nil {
					t.Fatal(err)
				}
				yaml := inOrder(a.URL, b.URL) + fmt.Sprintf("server: {upload_dir: %q}\n", t.TempDir())
				g := apptest.Start(t, strings.Replace(yaml, "routing: {", "routing: {model_mapping: {alias: mock-model}, ", 1))
				status, answer, err := u.send(t, g.Addr)
				rows := posts(b)
				if status != 200 || len(rows) != 1 || rows[0].BodySHA256 != u.sum(t) || rows[0].FileBytes != u.size {
					t.Errorf("%d %s %v; the engine saw %+v", status, answer, err, rows)
				}
				for _, r := range posts(a) {
					if r.BodySHA256 != u.sum(t) {
						t.Errorf("the engine that failed had seen %+v", r)
					}
				}
				quiet(t, g)
			})
		}
	}
}

// TestUploadRefused: what cannot be served is refused before it has all come.
func TestUploadRefused(t *testing.T) {
	leavesNothing(t)
	e, u := apptest.StartEngine(t, mockvllm.Options{}), upload{}
	g := apptest.Start(t, "server: {max_body_size: 8MiB}\n"+uploadYAML, e)
	part := func(n int) string { return itoa16(n) + "\r\n" + strings.Repeat("x", n) + "\r\n" }
	start := itoa16(len(uploadStart)) + "\r\n" + uploadStart + "\r\n"
	for _, w := range []struct {
		name, raw string
		status    int
		code      string
	}{
		{"a length above the limit", u.head(9 << 20), 413, "request_too_large"},
		{"a length above the limit, and a part of it", u.head(9<<20) + uploadStart + strings.Repeat("x", 1<<20), 413, "request_too_large"},
		{"more chunks than the limit", u.head(-1) + start + part(4<<20) + part(5<<20), 413, "request_too_large"},
		{"a length above the limit, asked before", strings.Replace(u.head(9<<20), "\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n", 1), 413, "request_too_large"},
		{"no form", u.head(8<<20) + strings.Repeat("x", 1<<20), 400, "invalid_request"},
		{"two models", u.head(8<<20) + strings.Repeat("--frontier\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\na\r\n", 3), 400, "invalid_request"},
		{"no boundary", strings.Replace(u.head(8<<20), "; boundary=frontier", "", 1), 415, "unsupported_media_type"},
		{"chunks that are none", u.head(-1) + "nonsense\r\n", 400, "invalid_request"},
	} {
		t.Run(w.name, func(t *testing.T) {
			c := dialRaw(t, g.Addr)
			sent := make(chan struct{})
			go func() { // the answer may come while this still goes on
				defer close(sent)
				_, _ = io.WriteString(c, w.raw)
			}()
			resp, body := c.answer("POST")
			if resp.StatusCode != w.status || errorShape(body) != "OpenAI" || !strings.Contains(body, `"code":"`+w.code+`"`) {
				t.Errorf("%d %s", resp.StatusCode, body)
			}
			if rest := c.ended(); rest != "" {
				t.Errorf("went on with %q", rest)
			}
			c.Close()
			<-sent
		})
	}
	if n := len(posts(e)); n != 0 {
		t.Errorf("the engine was asked %d times", n)
	}
	quiet(t, g)
}

// openFiles are those of this process below a directory, without a name or with.
func openFiles(t *testing.T, dir string) (n int) {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if file, err := os.Readlink(link); err == nil && strings.HasPrefix(file, dir) { // else it is closed by now
			n++
		}
	}
	return n
}

// TestUploaderLeaves: of a client that goes in the middle of its upload, or
// while the engine listens to it, nothing is left.
func TestUploaderLeaves(t *testing.T) {
	onLinux(t)
	leavesNothing(t)
	for _, d := range departures {
		for _, u := range []upload{{size: 4e6}, {size: 4e6, chunked: true}} {
			for _, whole := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%+v/whole %t", d.name, u, whole), func(t *testing.T) { u.leave(t, d, whole) })
			}
		}
	}
}

// leave lets a client go, in the middle of the upload unless that is whole.
func (u *upload) leave(t *testing.T, d departure, whole bool) {
	e, dir := apptest.StartEngine(t, mockvllm.Options{PrefillDelay: time.Hour}), t.TempDir()
	g := apptest.Start(t, fmt.Sprintf("server: {upload_dir: %q}\n", dir)+uploadYAML, e)
	body, length := u.body("alias")
	c := dialRaw(t, g.Addr)
	var w io.Writer = c
	if u.chunked {
		length, w = -1, httputil.NewChunkedWriter(c)
	}
	c.send(u.head(length))
	if !whole {
		body = io.LimitReader(body, u.size/2)
	}
	if _, err := io.Copy(w, body); err != nil {
		t.Fatal(err)
	}
	if whole {
		if u.chunked {
			c.send(lastChunk.wire)
		}
		apptest.Eventually(t, "the engine has it", func() bool { rows := posts(e); return len(rows) == 1 && rows[0].State == mockvllm.StatePrefill })
		if n := openFiles(t, dir); n != 1 {
			t.Errorf("%d files while it may have to be sent again, want 1", n)
		}
	} else {
		apptest.Eventually(t, "the file is there", func() bool { return openFiles(t, dir) == 1 })
	}
	left := time.Now()
	d.leave(c.Conn)
	apptest.Eventually(t, "no file is left", func() bool { return openFiles(t, dir) == 0 })
	if took := time.Since(left); took > time.Second { // or it was the garbage collector
		t.Errorf("the file was there for %v", took)
	}
	c.Close()
	quiet(t, g)
	rows := posts(e)
	switch {
	case !whole && len(rows) != 0:
		t.Errorf("the engine was asked: %+v", rows)
	case whole && (rows[0].State != mockvllm.StateAborted || rows[0].Aborted.Sub(left) > time.Second):
		t.Errorf("the engine saw %+v", rows)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 0 {
		t.Errorf("left behind: %v %v", names, err)
	}
}
