package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/llmproxy/llmproxy/bench/results"
)

// abortCase is a moment at which a client leaves.
type abortCase struct {
	name   string
	engine string // how it behaves
	stream bool
	events bool // the client leaves after the first event
}

// aborts are in an order in which what a gateway did not notice is over, or
// stays silent, while the next ones are tried: the engine tells how many peers
// left, not which.
var aborts = [...]abortCase{
	{results.AbortTicking, "interval=20ms&events=64", true, true},
	{results.AbortSilent, "stall=1", true, true},
	{results.AbortWhole, "delay=30s", false, false},
	{results.AbortFirst, "delay=30s", true, false},
}

// noticeLimit is how long an engine may compute for nobody before "no" is
// recorded.
const noticeLimit = 1500 * time.Millisecond

// abort leaves some requests; each is a sample.
func (b *bench) abort(ctx context.Context, g *gateway, c abortCase) ([]results.Sample, error) {
	if err := b.engine.behave(ctx, c.engine); err != nil {
		return nil, err
	}
	tries := 5
	if b.short {
		tries = 1
	}
	var samples []results.Sample
	for try := 1; try <= tries; try++ {
		s := results.Sample{Round: try}
		ms, err := b.leave(ctx, g, c)
		if err != nil {
			s.Errors, s.Error = 1, shorten(err.Error())
		} else {
			s.Values = map[string]float64{"ms": ms}
		}
		samples = append(samples, s)
	}
	return samples, nil
}

// leave makes a request, closes the connection once the engine has it, and
// returns how many milliseconds later the engine noticed; -1 for too late.
func (b *bench) leave(ctx context.Context, g *gateway, c abortCase) (float64, error) {
	before, err := b.engine.state(ctx)
	if err != nil {
		return 0, err
	}
	conn, err := net.Dial("tcp", g.addr)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if err := send(conn, g, chat(c.stream)); err != nil {
		return 0, err
	}
	_, there, err := b.engine.await(ctx, 5*time.Second, func(s engineState) bool { return s.Requests > before.Requests })
	if err == nil && !there {
		err = errors.New("the request did not reach the engine")
	}
	if err == nil && c.events {
		err = firstEvent(conn)
	}
	if err != nil {
		return 0, err
	}
	left := time.Now()
	conn.Close()
	after, noticed, err := b.engine.await(ctx, noticeLimit, func(s engineState) bool {
		return s.Aborted > before.Aborted && s.LastAbort >= left.UnixNano() // not what an earlier request left behind
	})
	if err != nil || !noticed {
		return -1, err
	}
	return float64(after.LastAbort-left.UnixNano()) / 1e6, nil
}

// send writes a request by hand: nothing but this function's caller decides when
// its connection is closed.
func send(conn net.Conn, g *gateway, body string) error {
	path := strings.TrimPrefix(g.url(), "http://"+g.addr)
	lines := append([]string{
		"POST " + path + " HTTP/1.1",
		"Host: " + g.addr,
		"Content-Type: application/json",
		fmt.Sprintf("Content-Length: %d", len(body)),
	}, g.header...)
	if !slices.ContainsFunc(g.header, func(line string) bool { return strings.HasPrefix(line, "Authorization:") }) {
		lines = append(lines, "Authorization: Bearer sk-bench")
	}
	_, err := io.WriteString(conn, strings.Join(append(lines, "", body), "\r\n"))
	return err
}

// firstEvent reads until the first event with content.
func firstEvent(conn net.Conn) error {
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	for r := bufio.NewReader(conn); ; {
		line, err := r.ReadString('\n')
		if err != nil {
			return fmt.Errorf("no event came: %w", err)
		}
		if strings.HasPrefix(line, "data:") {
			return nil
		}
	}
}
