package app_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/app"
	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// wait is what the gateway itself is waiting for when a client leaves, before
// any engine works for it.
type wait struct {
	name string
	// start runs the gateway. It says on reached that a request waits, and on
	// ended when the wait was given up.
	start func(s *site, reached chan<- struct{}, ended chan<- time.Time)
}

var waits = []wait{
	{"dialling", func(s *site, reached chan<- struct{}, ended chan<- time.Time) {
		s.start("backends: [{url: 'http://127.0.0.1:1', name: e0}]\ntimeouts: {connect: 1h}\n", app.Options{
			Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
				reached <- struct{}{}
				<-ctx.Done()
				ended <- time.Now()
				return nil, ctx.Err()
			},
		})
	}},
	{"TLS handshake", func(s *site, reached chan<- struct{}, ended chan<- time.Time) {
		silent := serveTCP(s.t, func(c net.Conn) {
			reached <- struct{}{}
			_, _ = io.Copy(io.Discard, c)
			ended <- time.Now()
		})
		s.start("backends: [{url: '"+strings.Replace(silent, "http:", "https:", 1)+"', name: e0}]\ntimeouts: {connect: 1h}\n", app.Options{})
	}},
	{"wait between attempts", func(s *site, reached chan<- struct{}, ended chan<- time.Time) {
		e := apptest.StartEngine(s.t, mockvllm.Options{})
		if err := e.Fault(mockvllm.FaultRule{Fault: "503", Path: "/v1/chat/completions"}); err != nil {
			s.t.Fatal(err)
		}
		if err := e.Fault(mockvllm.FaultRule{Fault: "503", Path: "/generate_stream"}); err != nil {
			s.t.Fatal(err)
		}
		s.start("backends: [{url: '"+e.URL+"', name: e0}]\nrouting: {retry: {initial_wait: 1h, max_wait: 1h}}\n", app.Options{})
		over := make(chan struct{})
		polled := make(chan struct{})
		s.t.Cleanup(func() { close(over); <-polled })
		go func() {
			defer close(polled)
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for waiting, left := 0.0, 0.0; ; {
				select {
				case <-over:
					return
				case <-tick.C:
				}
				if n := s.Metric(`llmproxy_retries_total`); n > waiting {
					waiting = n
					reached <- struct{}{}
				}
				if n := s.Metric(`llmproxy_client_aborts_total{phase="waiting"}`); n > left {
					left = n
					ended <- time.Now()
				}
			}
		}()
	}},
}

// TestClientLeavesTheGateway: a request that no engine has yet is given up as
// soon as its client leaves.
func TestClientLeavesTheGateway(t *testing.T) {
	times := 2
	if long {
		times = 100
	}
	var all []time.Duration
	for _, tr := range transports[:2] {
		for _, w := range waits {
			for _, su := range surfaces {
				t.Run(tr.name+"/"+w.name+"/"+su.name, func(t *testing.T) {
					leavesNothing(t)
					s := &site{t: t, front: tr.front}
					reached, ended := make(chan struct{}, 1), make(chan time.Time, 1)
					w.start(s, reached, ended)
					for _, d := range departures {
						var took []time.Duration
						for range times {
							c := s.dial()
							c.send(su.request(4, s.tag(), ""))
							receive(t, "waits", reached)
							left := time.Now()
							d.leave(c.Conn)
							s.gone++
							took = append(took, receive(t, "gave up", ended).Sub(left))
							c.Close()
						}
						report(t, d.name, took)
						all = append(all, took...)
					}
					s.nothingLeft()
					if s.Metric("llmproxy_retries_total") == 0 {
						s.notBlamed()
					}
				})
			}
		}
	}
	if p99 := report(t, "all", all); long && p99 > abortLimit {
		t.Errorf("p99 %v, want at most %v", p99, abortLimit)
	}
}

func receive[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("the gateway never %s", what)
		panic("unreachable")
	}
}

// TestBlockedWriteEnds: a client that leaves ends a write that nobody takes
// anything of, be it to the client or to the engine.
func TestBlockedWriteEnds(t *testing.T) {
	times := 1
	if long {
		times = 10
	}
	for _, tr := range transports {
		t.Run(tr.name+"/to the client", func(t *testing.T) {
			leavesNothing(t)
			s := startSite(t, tr, mockvllm.Options{})
			for _, d := range departures {
				for range times {
					c := s.dial()
					tag := s.tag()
					c.send(surfaces[0].request(4, tag, `"mock_fault":"giant-event=16777216"`))
					blocked(t, "gateway.(*Exchange).Write(")
					left := time.Now()
					d.leave(c.Conn)
					s.gone++
					if row := s.await(tag, "to its end", (*mockvllm.Entry).Ended); row.State != mockvllm.StateAborted || row.Aborted.Sub(left) > soon {
						t.Errorf("%s: after %v: %+v", d.name, row.Done.Sub(left), row)
					}
					c.Close()
				}
			}
			s.nothingLeft()
			s.notBlamed()
		})
		t.Run(tr.name+"/to the engine", func(t *testing.T) {
			leavesNothing(t)
			s := &site{t: t, front: tr.front}
			s.startDeaf(tr.back)
			body := surfaces[1].request(4, s.tag(), `"pad":"`+strings.Repeat("x", 16<<20)+`"`)
			for _, d := range departures {
				for range times {
					c := s.dial()
					c.send(body)
					blocked(t, "forward.(*Call).send(")
					left := time.Now()
					d.leave(c.Conn)
					s.gone++
					quiet(t, s.Gateway)
					if took := time.Since(left); took > soon {
						t.Errorf("%s: given up after %v", d.name, took)
					}
					c.Close()
				}
			}
			s.nothingLeft()
			s.notBlamed()
		})
	}
}

// soon is far more than any of this takes, and less than any timeout.
const soon = 3 * time.Second

// blocked waits until some goroutine waits for the network within a function.
func blocked(t *testing.T, function string) {
	t.Helper()
	apptest.Eventually(t, "blocked in "+function, func() bool {
		_, stacks := goroutines()
		for g := range strings.SplitSeq(stacks, "\n\n") {
			head, _, _ := strings.Cut(g, "\n")
			if strings.Contains(head, "[IO wait") && strings.Contains(g, function) {
				return true
			}
		}
		return false
	})
}

// startDeaf runs the gateway over an engine that accepts connections and reads
// no more of them than their beginning.
func (s *site) startDeaf(behindTLS bool) {
	s.t.Helper()
	over := make(chan struct{})
	listen := func(c net.Conn) {
		_, _ = io.CopyN(io.Discard, c, 100)
		<-over
	}
	backend := ""
	if behindTLS {
		cert, key := selfSigned(s.t)
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			s.t.Fatal(err)
		}
		plain := listen
		listen = func(c net.Conn) { plain(tls.Server(c, &tls.Config{Certificates: []tls.Certificate{pair}})) }
		backend = fmt.Sprintf(", ca_file: %q", cert)
	}
	url := serveTCP(s.t, listen)
	s.t.Cleanup(func() { close(over) })
	if behindTLS {
		url = strings.Replace(url, "http:", "https:", 1)
	}
	s.start("backends: [{url: '"+url+"', name: e0"+backend+"}]\n", app.Options{})
}

// TestLeavesInMidRequest: of a request that was never whole no engine hears.
func TestLeavesInMidRequest(t *testing.T) {
	for _, tr := range transports {
		t.Run(tr.name, func(t *testing.T) {
			leavesNothing(t)
			s := startSite(t, tr, mockvllm.Options{})
			for _, su := range surfaces {
				whole := su.request(4, s.tag(), "")
				for _, d := range departures {
					for _, sent := range []string{"", whole[:20], whole[:len(whole)-1]} {
						c := s.dial()
						c.send(sent)
						d.leave(c.Conn)
						quiet(t, s.Gateway)
						c.Close()
					}
				}
			}
			s.nothingLeft()
			if rows := posts(s.engine); len(rows) != 0 {
				t.Errorf("the engine saw %+v", rows)
			}
		})
	}
}
