//go:build linux

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestEngineAnswersWhole(t *testing.T) {
	e := startEngine(t)
	for name, body := range map[string]io.Reader{
		"a body of known length":                strings.NewReader(`{"model":"bench"}`),
		"a body in chunks":                      io.MultiReader(strings.NewReader(`{"model":`), strings.NewReader(`"bench"}`)),
		"10 MB":                                 strings.NewReader(`{"a":"` + strings.Repeat("x", 10<<20) + `"}`),
		"10 MB in chunks":                       io.MultiReader(strings.NewReader(`{"a":"` + strings.Repeat("x", 10<<20) + `"}`)),
		"a prompt that quotes the flag":         strings.NewReader(`{"prompt":"{\"stream\":true}"}`),
		"a flag that is false":                  strings.NewReader(`{"stream": false, "n":true}`),
		"a flag too far from either end of it":  strings.NewReader(strings.Repeat("x", 2*scanned) + `"stream":true` + strings.Repeat("x", 2*scanned)),
		"no body":                               http.NoBody,
		"options of a stream, but no such flag": strings.NewReader(`{"stream_options":true}`),
	} {
		t.Run(name, func(t *testing.T) {
			b, err := io.ReadAll(e.post(t, body).Body)
			if err != nil {
				t.Fatal(err)
			}
			var got struct {
				Object  string
				Choices []struct {
					Message struct{ Role, Content string }
				}
				Usage struct {
					Completion int `json:"completion_tokens"`
				}
			}
			if err := json.Unmarshal(b, &got); err != nil {
				t.Fatal(err)
			}
			if len(b) != answerBody || got.Object != "chat.completion" || len(got.Choices) != 1 ||
				got.Choices[0].Message.Role != "assistant" || got.Usage.Completion == 0 {
				t.Errorf("answered %s", b)
			}
		})
	}
	if c := e.counts(t); c.Requests != 9 || c.Events != 0 || c.BodyBytes < 20<<20 {
		t.Errorf("counted %+v", c)
	}
}

func TestEngineStreams(t *testing.T) {
	e := startEngine(t)
	e.control(t, "interval=1ms&events=5")
	pad := strings.Repeat("x", 10<<20)
	for name, body := range map[string]io.Reader{
		"flag first":                  strings.NewReader(`{"stream":true,"model":"bench"}`),
		"flag with a space":           strings.NewReader(`{"model":"bench","stream": true}`),
		"flag at the end of 10 MB":    strings.NewReader(`{"a":"` + pad + `","stream":true}`),
		"flag at the start of 10 MB":  strings.NewReader(`{"stream":true,"a":"` + pad + `"}`),
		"flag at the end, in chunks":  io.MultiReader(strings.NewReader(`{"a":"`+pad+`","stre`), strings.NewReader(`am": true}`)),
		"flag cut by chunks in three": io.MultiReader(strings.NewReader(`{"stream`), strings.NewReader(`":`), strings.NewReader(`true}`)),
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now().UnixNano()
			resp := e.post(t, body)
			if got := resp.Header.Get("Content-Type"); !strings.HasPrefix(got, "text/event-stream") {
				t.Fatalf("content type %q", got)
			}
			checkStream(t, resp.Body, began, 5)
		})
	}
	if c := e.counts(t); c.Requests != 6 || c.Events != 30 || c.StreamsOpen != 0 || c.Aborted != 0 {
		t.Errorf("counted %+v", c)
	}
}

// checkStream reads a stream as a client does: so many events with stamps that
// rise, then the finish reason, the usage and [DONE].
func checkStream(t *testing.T, r io.Reader, last int64, events int) {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(b), "\n\n"), "\n\n")
	if len(lines) != events+3 || lines[len(lines)-1] != "data: [DONE]" {
		t.Fatalf("%d events, the last one %q", len(lines), lines[len(lines)-1])
	}
	for i, line := range lines[:len(lines)-1] {
		var got struct {
			Object  string
			Choices []struct {
				Delta  struct{ Role, Content string }
				Finish *string `json:"finish_reason"`
			}
			Usage *struct{}
		}
		if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "data: ")), &got); err != nil || got.Object != "chat.completion.chunk" {
			t.Fatalf("event %q: %v", line, err)
		}
		switch {
		case i < events:
			stamp, err := strconv.ParseInt(got.Choices[0].Delta.Content[:stampDigits], 10, 64)
			if err != nil || stamp < last || stamp > time.Now().UnixNano() {
				t.Errorf("event %d: stamp %d after %d, %v", i, stamp, last, err)
			}
			if hasRole := got.Choices[0].Delta.Role == "assistant"; hasRole != (i == 0) {
				t.Errorf("event %d: role %q", i, got.Choices[0].Delta.Role)
			}
			last = stamp
		case i == events:
			if got.Choices[0].Finish == nil || *got.Choices[0].Finish != "stop" {
				t.Errorf("no finish reason in %q", line)
			}
		case got.Usage == nil || len(got.Choices) != 0:
			t.Errorf("no usage in %q", line)
		}
	}
}

func TestEventsAreOfTheSizeThatTheFiguresAssume(t *testing.T) {
	a := newAnswers()
	if got := len(a.other.framed); got < eventBytes-5 || got > eventBytes+15 {
		t.Errorf("an event of %d bytes: %q", got, a.other.framed)
	}
}

func TestEngineSpeaksHTTP(t *testing.T) {
	e := startEngine(t)
	e.control(t, "interval=0&events=2")
	const post = "POST /v1/chat/completions HTTP/1.1\r\nHost: e\r\n"
	for _, tt := range []struct {
		name   string
		writes []string
		want   []string // in this order
		closed bool
	}{
		{name: "a head in three reads", writes: []string{"POST / HT", "TP/1.1\r\nContent-Le", "ngth: 2\r\n\r\n{}"}, want: []string{"200 OK", "chat.completion"}},
		{name: "two requests in one read", writes: []string{post + "Content-Length: 2\r\n\r\n{}" + post + "Content-Length: 2\r\n\r\n{}"}, want: []string{"200 OK", "200 OK"}},
		{
			name:   "a request that comes while a stream runs",
			writes: []string{post + "Content-Length: 15\r\n\r\n{\"stream\":true}" + post + "Content-Length: 2\r\n\r\n{}"},
			want:   []string{"event-stream", "[DONE]", "0\r\n\r\n", "200 OK", "chat.completion"},
		},
		{
			name:   "100 Continue before the body",
			writes: []string{post + "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n", "{}"},
			want:   []string{"100 Continue", "200 OK"},
		},
		{name: "HTTP/1.0", writes: []string{"POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}"}, want: []string{"200 OK", "chat.completion"}, closed: true},
		{
			name:   "HTTP/1.0 that keeps the connection",
			writes: []string{"POST / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}", "GET /version HTTP/1.0\r\n\r\n"},
			want:   []string{"200 OK", "Connection: keep-alive", "version"}, closed: true,
		},
		{
			name:   "a stream to HTTP/1.0 ends with the connection and has no chunks",
			writes: []string{"POST / HTTP/1.0\r\nContent-Length: 15\r\n\r\n{\"stream\":true}"},
			want:   []string{"Connection: close\r\n\r\ndata: ", "data: [DONE]\n\n"}, closed: true,
		},
		{name: "Connection: close", writes: []string{post + "Connection: close\r\nContent-Length: 2\r\n\r\n{}"}, want: []string{"200 OK"}, closed: true},
		{name: "a length that is none", writes: []string{post + "Content-Length: x\r\n\r\n"}, want: []string{"400"}, closed: true},
		{name: "a chunk that is none", writes: []string{post + "Transfer-Encoding: chunked\r\n\r\nxyz\r\n"}, want: []string{"400"}, closed: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := net.Dial("tcp4", e.address)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			for i, w := range tt.writes {
				if _, err := io.WriteString(c, w); err != nil {
					t.Fatal(err)
				}
				if i+1 < len(tt.writes) {
					e.counts(t) // the loop has read what came before: it serves in order
				}
			}
			var got []byte
			for _, want := range tt.want {
				got = readPast(t, c, got, want)
			}
			if tt.closed {
				if _, err := io.ReadAll(c); err != nil {
					t.Errorf("the connection was not closed: %v", err)
				}
			}
		})
	}
}

// readPast reads until want has come, and returns what came after it.
func readPast(t *testing.T, r io.Reader, got []byte, want string) []byte {
	t.Helper()
	buf := make([]byte, 4096)
	for {
		if _, after, ok := bytes.Cut(got, []byte(want)); ok {
			return after
		}
		n, err := r.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil && !bytes.Contains(got, []byte(want)) {
			t.Fatalf("%v before %q in %q", err, want, got)
		}
	}
}

func TestEngineTellsAboutItself(t *testing.T) {
	e := startEngine(t)
	for path, want := range map[string]string{
		"/health": "status", "/v1/models": "data", "/get_model_info": "model_path", "/get_server_info": "served_model_name",
		"/server_info": "tp_size", "/version": "version", "/anything": "status",
	} {
		resp, err := http.Get(e.url(path))
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]any
		err = json.NewDecoder(resp.Body).Decode(&got)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || got[want] == nil {
			t.Errorf("%s: %s %v, %v", path, resp.Status, got, err)
		}
	}
}

func TestControl(t *testing.T) {
	for query, want := range map[string]behaviour{
		"":                              usual(),
		"events=3":                      {interval: 20 * time.Millisecond, events: 3},
		"interval=0&delay=30s&stall=0":  {events: 64, delay: 30 * time.Second},
		"interval=5s&sync=true&stall=2": {interval: 5 * time.Second, events: 64, sync: true, stall: 2},
	} {
		if got, err := parseBehaviour(query); err != nil || got != want {
			t.Errorf("%q: %+v, %v", query, got, err)
		}
	}
	e := startEngine(t)
	for _, query := range []string{"interval=20", "events=0", "events=x", "sync=maybe", "delay=-1s", "stall=-1", "pace=1", "%zz"} {
		resp, err := http.Post(e.url("/control?"+query), "", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%q: %s", query, resp.Status)
		}
	}
}

func TestEngineSeesAborts(t *testing.T) {
	e := startEngine(t)
	for _, tt := range []struct{ name, manner, request string }{
		{"while a whole answer is waited for", "delay=30s", `{}`},
		{"before a stream's first byte", "delay=30s", `{"stream":true}`},
		{"between two events", "interval=30s", `{"stream":true}`},
		{"after a stream has gone silent", "interval=0&stall=2", `{"stream":true}`},
		{"while events are on their way", "interval=1ms&events=1000000", `{"stream":true}`},
		{"while the socket is full", "interval=0&events=1000000", `{"stream":true}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e.control(t, tt.manner)
			before := e.counts(t)
			c, err := net.Dial("tcp4", e.address)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(c, "POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s", len(tt.request), tt.request)
			e.await(t, "the request", func(c counts) bool { return c.Requests == before.Requests+1 })
			gone := time.Now().UnixNano()
			c.Close()
			after := e.await(t, "the abort", func(c counts) bool { return c.Aborted == before.Aborted+1 })
			if after.LastAbort < gone || after.LastAbort > time.Now().UnixNano() || after.StreamsOpen != 0 {
				t.Errorf("gone at %d, counted %+v", gone, after)
			}
		})
	}
}

func TestSilentStreamStaysOpen(t *testing.T) {
	e := startEngine(t)
	e.control(t, "interval=0&stall=2")
	r := bufio.NewReader(e.post(t, strings.NewReader(`{"stream":true}`)).Body)
	for range 4 {
		if _, err := r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	if c := e.counts(t); c.Events != 2 || c.StreamsOpen != 1 {
		t.Errorf("counted %+v", c)
	}
}

func TestStreamsInStepTickTogether(t *testing.T) {
	e := startEngine(t)
	const interval = 20 * time.Millisecond
	e.control(t, "sync=true&events=3&interval="+interval.String())
	var stamps [2][]int64
	first := e.post(t, strings.NewReader(`{"stream":true}`)) // its head comes with a tick
	tick := time.Now()
	e.await(t, "half an interval", func(counts) bool { return time.Since(tick) > interval/2 })
	second := e.post(t, strings.NewReader(`{"stream":true}`))
	for i, resp := range []*http.Response{first, second} {
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		s := stampScan{name: needle{text: contentName}}
		for stamp, rest, ok := s.next(b); ok; stamp, rest, ok = s.next(rest) {
			stamps[i] = append(stamps[i], stamp)
		}
	}
	// The two started at odds. A busy machine may delay a tick, but for both.
	nearest := interval
	for _, a := range stamps[0] {
		for _, b := range stamps[1] {
			nearest = min(nearest, time.Duration(a-b).Abs())
		}
	}
	if nearest > interval/5 {
		t.Errorf("ticks are %v apart: %v", nearest, stamps)
	}
}

func TestEngineOutOfDescriptorsGoesOnWhenSomeAreFree(t *testing.T) {
	e := startEngineBy(t, "sh", "-c", `ulimit -n 24 && exec "$0" "$@"`)
	conns := make([]net.Conn, 40)
	for i := range conns {
		var err error
		if conns[i], err = net.Dial("tcp4", e.address); err != nil {
			t.Fatal(err)
		}
		defer conns[i].Close()
	}
	ask := func(c net.Conn) {
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.WriteString(c, "GET /health HTTP/1.1\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		readPast(t, c, nil, "200 OK")
	}
	ask(conns[0])
	for _, c := range conns[:39] {
		c.Close()
	}
	ask(conns[39]) // waited until now
}

func TestSlowReaderGetsEveryEvent(t *testing.T) {
	const events = 50_000 // 12 MB, more than the sockets hold
	e := startEngine(t)
	e.control(t, fmt.Sprintf("interval=0&events=%d", events))
	resp := e.post(t, strings.NewReader(`{"stream":true}`))
	stuck := e.await(t, "the socket to be full", func(c counts) bool { return c.Events > 1000 })
	for {
		if now := e.counts(t); now.Events == stuck.Events {
			break
		} else {
			stuck = now
		}
	}
	if stuck.Events == events {
		t.Fatal("the socket took everything: the test shows nothing")
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	s, last, n := stampScan{name: needle{text: contentName}}, int64(0), 0
	for stamp, rest, ok := s.next(b); ok; stamp, rest, ok = s.next(rest) {
		if stamp < last {
			t.Fatalf("event %d is older than the one before it", n)
		}
		last = stamp
		n++
	}
	if n != events || !bytes.HasSuffix(b, []byte("data: [DONE]\n\n")) {
		t.Errorf("%d events, the end %q", n, b[max(0, len(b)-50):])
	}
}
