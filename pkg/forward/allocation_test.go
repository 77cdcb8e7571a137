//go:build !race

package forward

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/route"
	"github.com/llmproxy/llmproxy/pkg/stats"
)

// lockstep takes what is relayed and only then lets the engine write on, so
// that each write of the engine is one read of the gateway.
type lockstep chan struct{}

func (l lockstep) Write(p []byte) (int, error) {
	l <- struct{}{}
	return len(p), nil
}

// TestRelayAllocatesNothing: a token on its way through costs no allocation,
// whether its chunk stands alone or not.
func TestRelayAllocatesNothing(t *testing.T) {
	const event = "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" token\"}}]}\n\n"
	chunk := []byte("71\r\n" + event + "\r\n")
	if len(event) != 0x71 {
		t.Fatalf("the event has %#x bytes", len(event))
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	relayed := make(lockstep)
	const warm, rounds = 100, 2000
	mallocs := make(chan float64, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		next := func() {
			_, _ = c.Write(chunk)
			<-relayed
		}
		_, _ = io.ReadFull(c, make([]byte, 16))
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"+string(chunk))
		<-relayed
		for range warm {
			next()
		}
		mallocs <- testing.AllocsPerRun(rounds, next)
		_, _ = io.WriteString(c, "0\r\n\r\n")
		<-relayed // the last chunk
	}()

	set := stats.New("", "")
	u, err := NewUpstream(UpstreamConfig{URL: "http://" + ln.Addr().String(), KeepAlive: time.Minute, Connect: time.Minute}, set.Backend("a"), NewHangups(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	f := &Forwarder{Upstreams: []*Upstream{u}, Timeouts: Timeouts{BetweenChunks: time.Minute}, Stats: set}
	table, err := route.Build(route.TableConfig{Backends: []route.BackendConfig{{Name: "a", URL: u.URL}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	r, _ := table.Resolve("m")
	c := NewCall()
	c.Pool, c.Path, c.Body, c.Start = r.Pool, "/v1/chat/completions", [][]byte{[]byte("{}")}, time.Now()
	if fail := f.Open(c); fail != nil {
		t.Fatal(fail.Err)
	}
	c.Chunked = true // as for a client of HTTP/1.1
	if err := c.Relay(relayed); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if n := <-mallocs; n != 0 {
		t.Errorf("%v allocations a chunk, want none", n)
	}
	if c.Events.Count != warm+rounds+2 {
		t.Errorf("%d events were seen, want %d", c.Events.Count, warm+rounds+2)
	}
}
