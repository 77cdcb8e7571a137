//go:build linux

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestLoadCountsWhatTheEngineServed(t *testing.T) {
	for _, tt := range []struct {
		name, manner string
		args         []string
		cut          int64 // requests that may be under way at the end
		measured     func(report) bool
	}{
		{"closed", "", []string{"-mode", "closed", "-conns", "8"}, 8, func(r report) bool { return r.P50 > 0 && r.P999 >= r.P99 && r.P99 >= r.P50 && r.TTFTP50 == 0 }},
		{"open", "", []string{"-mode", "open", "-rate", "500"}, 8, func(r report) bool { return r.P50 > 0 && r.RPS > 450 && r.RPS < 550 }},
		{"body", "", []string{"-mode", "body", "-size", "1000000", "-conns", "2"}, 2, func(r report) bool { return r.P50 > 0 }},
		{"stream", "interval=5ms&events=8", []string{"-mode", "stream", "-conns", "8", "-together"}, 8, func(r report) bool { return r.TTFTP50 > 0 && r.EventP50 > 0 && r.P50 == 0 }},
		{"stream, at full speed", "interval=0", []string{"-mode", "stream", "-conns", "8"}, 8, func(r report) bool { return r.TTFTP50 > 0 && r.EventP50 > 0 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := startEngine(t)
			e.control(t, tt.manner)
			r := runReport(t, append(tt.args, "-target", e.address, "-duration", "300ms", "-warmup", "0")...)
			c := e.await(t, "the load to be gone", func(c counts) bool { return c.Connections == 1 })
			if r.Errors != 0 || r.Requests == 0 || r.Requests > c.Requests || r.Requests < c.Requests-tt.cut {
				t.Errorf("the engine counted %+v, the load %+v", c, r)
			}
			// Only events of streams that were cut may have been missed.
			perStream := (c.Events + c.Requests) / max(c.Requests, 1)
			if r.Events > c.Events || r.Events < c.Events-tt.cut*perStream {
				t.Errorf("the engine sent %d events, the load counted %d", c.Events, r.Events)
			}
			if !tt.measured(r) || r.Seconds < 0.3 || r.Seconds > 1 {
				t.Errorf("measured %+v", r)
			}
		})
	}
}

func TestWarmUpIsNotCounted(t *testing.T) {
	e := startEngine(t)
	r := runReport(t, "-mode", "open", "-rate", "500", "-target", e.address, "-duration", "200ms", "-warmup", "200ms")
	if c := e.counts(t); c.Requests < 190 || r.Requests < 90 || r.Requests > 110 || r.Seconds > 0.3 {
		t.Errorf("the engine counted %+v, the load %+v", c, r)
	}
}

func TestHeldStreams(t *testing.T) {
	e := startEngine(t)
	e.control(t, "interval=5ms&events=4")
	cmd := bare(t.Context(), "load", "-mode", "hold", "-conns", "20", "-ramp", "1000", "-target", e.address)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	if line, err := lines.ReadString('\n'); line != "held 20 failed 0\n" {
		t.Fatalf("said %q, %v", line, err)
	}
	e.await(t, "the streams to end", func(c counts) bool { return c.Events == 80 && c.StreamsOpen == 0 })
	if c := e.counts(t); c.Connections != 21 {
		t.Errorf("connections were not kept: %+v", c)
	}
	in.Close()
	rest, err := io.ReadAll(lines)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if r := decodeReport(t, rest); r.Requests != 20 || r.Events != 80 || r.Errors != 0 {
		t.Errorf("counted %+v", r)
	}
}

func TestHeldStreamsThatFail(t *testing.T) {
	var n atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch n.Add(1) % 3 {
		case 0: // refused
			http.Error(w, "full", http.StatusServiceUnavailable)
		case 1: // never gets its first event
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		case 2:
			fmt.Fprintf(w, "data: {\"content\":\"%d x\"}\n\n", time.Now().UnixNano())
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}
	}))
	defer srv.Close()
	out, err := bare(t.Context(), "load", "-mode", "hold", "-conns", "9", "-wait", "200ms", "-target", srv.Listener.Addr().String()).Output()
	if err != nil {
		t.Fatal(err)
	}
	said, rest, _ := bytes.Cut(out, []byte("\n"))
	if string(said) != "held 3 failed 6" {
		t.Errorf("said %q", said)
	}
	if r := decodeReport(t, rest); r.Errors != 3 || r.Events != 3 || !strings.Contains(r.Error, "503") {
		t.Errorf("counted %+v", r)
	}
}

// brokenServer answers each connection's bytes as answer says, which is called
// for every request, and closes the connection when it returns false.
func brokenServer(t *testing.T, answer func(n int, w net.Conn) bool) string {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				r := bufio.NewReader(c)
				for n := 1; ; n++ {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					if _, err := io.Copy(io.Discard, req.Body); err != nil || !answer(n, c) {
						return
					}
				}
			}()
		}
	}()
	return ln.Addr().String()
}

func TestErrorsAreCounted(t *testing.T) {
	whole := []string{"-mode", "closed", "-conns", "2"}
	stream := []string{"-mode", "stream", "-conns", "2", "-together"}
	const ok = "HTTP/1.1 200 OK\r\n"
	for _, tt := range []struct {
		name   string
		args   []string
		answer string
		stays  bool
		want   string
	}{
		{"500", whole, "HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\nbusy", true, "500 Oops: busy"},
		{"500 to an open loop", []string{"-mode", "open"}, "HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\nbusy", true, "500 Oops: busy"},
		{"429 without a body to a stream", stream, "HTTP/1.1 429 Slow\r\nContent-Length: 0\r\n\r\n", true, "429 Slow"},
		{"closed before the answer", whole, "", false, "closed before the end"},
		{"closed within the head", whole, ok + "Content-", false, "closed before the end"},
		{"closed within the body", whole, ok + "Content-Length: 10\r\n\r\nabc", false, "closed before the end"},
		{"closed within a chunk", stream, ok + "Transfer-Encoding: chunked\r\n\r\nff\r\ndata: [DONE]", false, "closed before the end"},
		{"closed before the last chunk", stream, ok + "Transfer-Encoding: chunked\r\n\r\ne\r\ndata: [DONE]\n\n\r\n", false, "closed before the end"},
		{"a stream with no [DONE]", stream, ok + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", true, "before [DONE]"},
		{"a stream cut where its end is the connection's", stream, ok + "\r\ndata: x\n\n", false, "before [DONE]"},
		{"not HTTP", whole, "SSH-2.0-OpenSSH_9.9\r\n\r\n", true, "status line"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			target := brokenServer(t, func(_ int, c net.Conn) bool {
				_, err := io.WriteString(c, tt.answer)
				return tt.stays && err == nil
			})
			r := runReport(t, append(tt.args, "-target", target, "-duration", "100ms", "-warmup", "0")...)
			if r.Requests != 0 || r.Errors == 0 || !strings.Contains(r.Error, tt.want) {
				t.Errorf("counted %+v, want an error with %q", r, tt.want)
			}
		})
	}
}

func TestErrorsOfATargetThatDies(t *testing.T) {
	e := startEngine(t)
	e.control(t, "interval=1ms")
	cmd := bare(t.Context(), "load", "-mode", "stream", "-conns", "4", "-together", "-target", e.address, "-duration", "500ms", "-warmup", "0")
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	e.await(t, "events", func(c counts) bool { return c.Events > 20 })
	e.stop()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	// Each stream breaks once; then every attempt is refused, at a bounded pace.
	if r := decodeReport(t, out.Bytes()); r.Errors < 4 || r.Errors > 4*(1+500/10) || r.Events == 0 || r.Error == "" {
		t.Errorf("counted %+v", r)
	}
}

func TestClosedConnectionsAreReopenedQuietly(t *testing.T) {
	const answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
	for name, keep := range map[string]func(n int, c net.Conn) bool{
		"said so": func(n int, c net.Conn) bool {
			_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")
			return false && err == nil
		},
		"closed after some answers": func(n int, c net.Conn) bool {
			_, err := io.WriteString(c, answer)
			return err == nil && n < 3
		},
		"crossed with the next request": func(n int, c net.Conn) bool {
			if n == 3 {
				return false
			}
			_, err := io.WriteString(c, answer)
			return err == nil
		},
		"the end of the body is the connection's": func(n int, c net.Conn) bool {
			_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n{}")
			return false && err == nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := runReport(t, "-mode", "closed", "-conns", "2", "-target", brokenServer(t, keep), "-duration", "100ms", "-warmup", "0")
			if r.Errors != 0 || r.Requests < 10 {
				t.Errorf("counted %+v", r)
			}
		})
	}
}

func TestEventsAreFoundHoweverTheyAreCut(t *testing.T) {
	for name, cut := range map[string]func(events []byte) []string{
		"a byte a chunk, ten chunks a write": func(b []byte) []string {
			var out []string
			for i := 0; i < len(b); i += 10 {
				var s string
				for _, c := range b[i:min(i+10, len(b))] {
					s += "1\r\n" + string(c) + "\r\n"
				}
				out = append(out, s)
			}
			return out
		},
		"all in one chunk with an extension": func(b []byte) []string { return []string{fmt.Sprintf("%X;a=b\r\n%s\r\n", len(b), b)} },
		"chunks cut between writes": func(b []byte) []string {
			s := fmt.Sprintf("%x\r\n%s\r\n", len(b), b)
			return []string{s[:2], s[2:40], s[40:60], s[60:]}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target := brokenServer(t, func(_ int, c net.Conn) bool {
				now := time.Now().UnixNano()
				events := fmt.Sprintf("data: {\"delta\":{\"content\": \"%d a\",\"role\":\"assistant\"}}\n\n"+
					"data: {\"delta\":{\"content\":\"\"}}\n\ndata: {\"delta\":{\"content\":null}}\n\n"+
					"data: {\"delta\":{\"content\":\"%d b\"}}\n\ndata: [DONE]\n\n", now, now)
				parts := append([]string{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"}, cut([]byte(events))...)
				for _, part := range append(parts, "0\r\nTrailer: x\r\n\r\n") {
					if _, err := io.WriteString(c, part); err != nil {
						return false
					}
				}
				return true
			})
			r := runReport(t, "-mode", "stream", "-conns", "2", "-target", target, "-duration", "100ms", "-warmup", "0")
			if r.Errors != 0 || r.Requests == 0 || r.Events < 2*r.Requests || r.Events > 2*(r.Requests+2) {
				t.Errorf("counted %+v", r)
			}
		})
	}
}

func TestOpenLoopCountsFromTheDueTime(t *testing.T) {
	e := startEngine(t)
	e.control(t, "delay=50ms")
	// One connection bears 20 requests a second: of 100 a second each waits
	// longer than the one before it.
	r := runReport(t, "-mode", "open", "-rate", "100", "-conns", "1", "-target", e.address, "-duration", "500ms", "-warmup", "0")
	if r.Requests < 5 || r.Requests > 10 || r.P99 < 200_000 || r.Errors != 0 {
		t.Errorf("the waiting was left out: %+v", r)
	}
}

// Connections that were used last are used first: with few requests under way all
// would go to one target.
func TestTargetsShareTheLoad(t *testing.T) {
	for _, mode := range []string{"open", "closed"} {
		a, b := startEngine(t), startEngine(t)
		r := runReport(t, "-mode", mode, "-rate", "200", "-conns", "4", "-target", a.address+","+b.address, "-duration", "300ms", "-warmup", "0")
		of, both := a.counts(t).Requests, a.counts(t).Requests+b.counts(t).Requests
		if of < both/4 || of > both*3/4 || r.Requests < 50 || r.Errors != 0 {
			t.Errorf("%s: %d of %d went to the first target: %+v", mode, of, both, r)
		}
	}
}

func TestTheRequest(t *testing.T) {
	e := make(chan *http.Request, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case e <- r:
		default:
		}
	}))
	defer srv.Close()
	runReport(t, "-target", srv.Listener.Addr().String(), "-path", "/x?y=1", "-header", "X-One: 1", "-header", "authorization: Bearer other",
		"-model", "m", "-conns", "1", "-duration", "50ms", "-warmup", "0")
	r := <-e
	if r.RequestURI != "/x?y=1" || r.Header.Get("X-One") != "1" || len(r.Header["Authorization"]) != 1 ||
		r.Header.Get("Authorization") != "Bearer other" || r.Header.Get("User-Agent") == "" {
		t.Errorf("%s %v", r.RequestURI, r.Header)
	}
}

func TestRequestIsOfTheSizeThatTheFiguresAssume(t *testing.T) {
	for mode, want := range map[string][2]int{closedLoop: {1000, 1200}, streaming: {1000, 1200}, bodies: {1 << 20, 1<<20 + 1000}} {
		o, err := parseOptions([]string{"-mode", mode, "-size", strconv.Itoa(1 << 20)})
		if err != nil {
			t.Fatal(err)
		}
		if b, err := o.request(); err != nil || len(b) < want[0] || len(b) > want[1] {
			t.Errorf("%s: %d bytes, %v", mode, len(b), err)
		}
	}
}

func TestOptionsThatAreRefused(t *testing.T) {
	for _, args := range []string{
		"-mode turbo", "-target localhost:80", "-target [::1]:80", "-conns -1", "-rate 0", "-ramp 0", "-size 0",
		"-duration 0", "-warmup -1s", "-wait -1s", "-header nonsense", "-unknown",
		"-target 127.0.0.1:80,", "-target 127.0.0.1:80,127.0.0.2:80 -conns 1",
	} {
		if _, err := parseOptions(strings.Fields(args)); err == nil {
			t.Errorf("%s was taken", args)
		}
	}
}
