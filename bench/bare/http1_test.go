//go:build linux

package main

import (
	"strings"
	"testing"
	"time"
)

func TestFraming(t *testing.T) {
	for _, tt := range []struct {
		name, head, in string
		body, rest     string
		ended, fails   bool
	}{
		{name: "length", head: "Content-Length: 3", in: "abcdef", body: "abc", rest: "def", ended: true},
		{name: "length not reached", head: "content-length: 30", in: "abcdef", body: "abcdef"},
		{name: "no length", in: "abc", rest: "abc", ended: true},
		{name: "chunks", head: "Transfer-Encoding: Chunked", in: "3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\nnext", body: "abc0123456789", rest: "next", ended: true},
		{name: "chunks win over a length", head: "Content-Length: 1\r\nTransfer-Encoding: chunked", in: "2\r\nab\r\n0\r\n\r\n", body: "ab", ended: true},
		{name: "extension and trailers", head: "Transfer-Encoding: chunked", in: "3;x=\"y\"\r\nabc\r\n0\r\nA: b\r\nC: d\r\n\r\nnext", body: "abc", rest: "next", ended: true},
		{name: "data that looks like an end", head: "Transfer-Encoding: chunked", in: "7\r\n\r\n0\r\n\r\n\r\n", body: "\r\n0\r\n\r\n"},
		{name: "last chunk cut", head: "Transfer-Encoding: chunked", in: "1\r\na\r\n0\r\n\r", body: "a"},
		{name: "no size", head: "Transfer-Encoding: chunked", in: "zz\r\n", fails: true},
		{name: "a size that overflows", head: "Transfer-Encoding: chunked", in: "fffffffffffffffff\r\n", fails: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for piece := 1; piece <= len(tt.in); piece++ { // however it is cut
				h, _, err := parseHead([]byte("POST / HTTP/1.1\r\n" + tt.head + strings.Repeat("\r\n", min(len(tt.head), 1)) + "\r\n"))
				if err != nil {
					t.Fatal(err)
				}
				f := h.framing(byLength)
				var body string
				in := []byte(tt.in)
				for len(in) > 0 && err == nil && !f.ended {
					n := min(piece, len(in))
					var data, rest []byte
					data, rest, err = f.next(in[:n])
					body += string(data)
					in = in[n-len(rest):]
				}
				if (err != nil) != tt.fails {
					t.Fatalf("in pieces of %d: %v", piece, err)
				}
				if err == nil && (body != tt.body || f.ended != tt.ended || string(in) != tt.rest) {
					t.Fatalf("in pieces of %d: body %q, ended %v, rest %q", piece, body, f.ended, in)
				}
			}
		})
	}
}

func TestHead(t *testing.T) {
	h, n, err := parseHead([]byte("GET /x HTTP/1.0\r\ncontent-LENGTH:7 \r\nConnection: Keep-Alive\r\nExpect: 100-continue\r\nX: y:z\r\n\r\nbody"))
	if err != nil || n != 92 || string(h.start) != "GET /x HTTP/1.0" || h.length != 7 || !h.keepAlive || h.close || !h.expect || h.chunked {
		t.Errorf("%+v, %d, %v", h, n, err)
	}
	if _, n, err := parseHead([]byte("GET / HTTP/1.1\r\nA: b\r\n")); n != 0 || err != nil {
		t.Errorf("half a head: %d, %v", n, err)
	}
	if _, _, err := parseHead(make([]byte, maxHead+1)); err == nil {
		t.Error("a head without an end was taken")
	}
	for _, length := range []string{"-1", "x", "1.5", "99999999999999999999"} {
		if _, _, err := parseHead([]byte("GET / HTTP/1.1\r\nContent-Length: " + length + "\r\n\r\n")); err == nil {
			t.Errorf("length %s was taken", length)
		}
	}
}

func TestStampsAcrossEveryCut(t *testing.T) {
	const in = `data: {"content":""}{"content": "1795394112123456789 a"}{"content":null}"cont{"content":"179539411212345678x"}` +
		`{"content":"1795394112123456790"}`
	for i := range len(in) + 1 {
		for _, k := range []int{1, 5, len(in)} {
			s := stampScan{name: needle{text: contentName}}
			var got []int64
			for _, piece := range []string{in[:i], in[i:min(i+k, len(in))], in[min(i+k, len(in)):]} {
				for b := []byte(piece); ; {
					stamp, rest, ok := s.next(b)
					if !ok {
						break
					}
					got, b = append(got, stamp), rest
				}
			}
			if len(got) != 2 || got[0] != 1795394112123456789 || got[1] != 1795394112123456790 {
				t.Fatalf("cut at %d and %d later: %v", i, k, got)
			}
		}
	}
}

func TestTimersComeInOrder(t *testing.T) {
	var h timers
	all := make([]timer, 20)
	for i := range all {
		all[i].id = i
		h.set(&all[i], time.Duration(i*7%20))
	}
	h.set(&all[3], 100) // moved
	h.cancel(&all[5])
	h.cancel(&all[5])
	if d := h.next(-3, -1); d != 3 {
		t.Errorf("the next one is due in %v", d)
	}
	n, last := 0, time.Duration(-1)
	for timer := h.expired(99); timer != nil; timer = h.expired(99) {
		if timer.due < last {
			t.Errorf("%v after %v", timer.due, last)
		}
		last = timer.due
		n++
	}
	if n != 18 || h.next(99, -1) != 1 || h.next(200, -1) != 0 {
		t.Errorf("%d came, the next in %v", n, h.next(99, -1))
	}
}

func TestLoopsDoNotAllocate(t *testing.T) {
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n")
	length := []byte("POST / HTTP/1.1\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n")
	a, f := newAnswers(), newFigures()
	var h timers
	h.set(&timer{}, 1)
	if n := testing.AllocsPerRun(100, func() {
		if _, n, err := parseHead(length); n == 0 || err != nil {
			t.Error("not read")
		}
		head, _, err := parseHead(answer)
		body := head.framing(byClose)
		data, _, err2 := body.next(a.other.at(1795394112123456789).framed)
		s := stampScan{name: needle{text: contentName}}
		if _, _, ok := s.next(data); !ok || err != nil || err2 != nil {
			t.Error("not read")
		}
		h.set(h.expired(1), 1)
		f.event.add(time.Millisecond)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestLatenciesAreWithinAPercent(t *testing.T) {
	l := newLatencies()
	if l.micros(99) != 0 {
		t.Error("something where nothing was measured")
	}
	for i := 1; i <= 1000; i++ {
		l.add(time.Duration(i) * 10 * time.Microsecond)
	}
	l.add(-time.Second)
	for q, want := range map[float64]float64{50: 5000, 99: 9900, 99.9: 9990} {
		if got := l.micros(q); got < want*0.99 || got > want*1.01 {
			t.Errorf("p%v is %v, want %v", q, got, want)
		}
	}
}
